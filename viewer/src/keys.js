/** The keyboard: one table for what keys do, and for the help that lists them. */

import { ICONS, iconButton, make } from "./dom.js";
import { addressOf } from "./files.js";

const STEPS = ["j", "k"];
/** Keys that go on while they are held. */

/** Keys, what they do in words, and the action. */
function bindings(app) {
  return [
    [["j"], "next in the queue", () => app.reviewing.step(1)],
    [["k"], "the one before", () => app.reviewing.step(-1)],
    [["y"], "right", () => app.reviewing.judge({ verdict: "right" })],
    [["n"], "wrong", () => app.reviewing.judge({ verdict: "wrong" })],
    [["u"], "unsure", () => app.reviewing.judge({ verdict: "unsure" })],
    [
      digits(app),
      "wrong: the class that it is",
      (key) => app.reviewing.judgeClass(Number(key) - 1),
    ],
    [["z"], "undo the last verdict or drawing", () => app.reviewing.undo()],
    [["e"], "explain", () => app.explain()],
    [["m"], "draw a missed object", () => app.missed.toggle()],
    [["/"], "search", () => document.getElementById("search").focus()],
    [["0"], "the whole city", () => app.showAll()],
    [["Escape"], "close", () => app.escape()],
    [["?"], "this list", () => app.help.showModal()],
  ];
}

function digits({ city }) {
  return city.classes.slice(0, 9).map((_, n) => String(n + 1));
}

/** Listen to keys, except where somebody writes. */
export function listenToKeys(app) {
  const actions = new Map(
    bindings(app).flatMap(([keys, , action]) => keys.map((key) => [key, action])),
  );
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || app.help.open) return;
    if (event.key !== "Escape" && isWriting(event.target)) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const action = actions.get(key);
    if (!action || (event.repeat && !STEPS.includes(key))) return;
    event.preventDefault();
    action(event.key);
  });
}

function isWriting(target) {
  return target.matches?.(
    "select, textarea, input:not([type=checkbox], [type=radio], [type=range])",
  );
}

/** The dialog that lists all keys. */
export function helpDialog(app) {
  const rows = bindings(app).map(([keys, text]) => {
    const names = keys.length > 2 ? [`${keys[0]}–${keys.at(-1)}`] : keys;
    return make(
      "tr",
      {},
      make(
        "th",
        { scope: "row" },
        ...names.map((key) => make("kbd", {}, key === "Escape" ? "Esc" : key)),
      ),
      make("td", {}, text),
    );
  });
  const more = [
    ["click", "select an object, or a place to explain"],
    ["arrows, + −", "move and zoom, with the focus on the map"],
    ["Shift + drag", "zoom to a box"],
  ].map(([key, text]) => make("tr", {}, make("th", { scope: "row" }, key), make("td", {}, text)));
  const dialog = make(
    "dialog.help",
    { "aria-labelledby": "help-title" },
    make(
      "div.card-head",
      {},
      make("h2", { id: "help-title" }, "Keys"),
      iconButton(ICONS.close, "Close", () => dialog.close()),
    ),
    make("table", {}, ...rows, ...more),
    make(
      "p.note",
      {},
      "capecam view. ",
      make(
        "a",
        { href: addressOf("licences.txt"), target: "_blank" },
        "Licences of what this page is made of",
      ),
    ),
  );
  return dialog;
}
