/** The parts of the page around the map. */

import { compareControls, swipeHandle } from "./compare.js";
import { ICONS, button, fill, iconButton, make, select } from "./dom.js";
import { isSingle } from "./files.js";
import { filterControls } from "./filter_controls.js";
import { helpDialog } from "./keys.js";
import { layerSwitcher, missingParts } from "./layer_switcher.js";
import { objectCard } from "./card.js";
import { queueList } from "./queue_list.js";
import { searchField } from "./search.js";
import { isKept } from "./storage.js";
import { themeButton } from "./theme.js";

/** Put everything in its place. */
export function layOut(app, { header, panel, map }) {
  app.help = helpDialog(app);
  fill(header, ...bar(app, panel));
  fill(panel, ...tabs(app, panel));
  map.append(swipeHandle(app), app.messages.node, objectCard(app), app.missed.node);
  document.body.append(app.help);
  new ResizeObserver(() => app.map.updateSize()).observe(map);
}

function bar(app, panel) {
  const { city, state } = app;
  const toggle = iconButton(
    ICONS.panel,
    "Panel",
    () => {
      const isClosed = document.body.classList.toggle("panel-closed");
      toggle.setAttribute("aria-expanded", String(!isClosed));
    },
    { "aria-expanded": "true", "aria-controls": panel.id },
  );
  const runs = make("div.runs");
  if (city.runs.length > 1) {
    state.watch(["run"], () =>
      fill(
        runs,
        select(
          "Run",
          city.runs.map((run) => [String(run.index), run.name]),
          String(state.get("run")),
          (value) => state.set({ run: Number(value) }),
          { hidden: true },
        ),
      ),
    );
  } else {
    const [{ name }] = city.runs;
    runs.textContent = name === city.title ? "" : name;
  }
  return [
    toggle,
    make("div.titles", {}, make("h1", {}, city.title), runs),
    searchField(app),
    make(
      "div.bar-buttons",
      {},
      iconButton(ICONS.draw, "Draw a missed object", () => app.missed.toggle(), {
        "aria-keyshortcuts": "m",
      }),
      themeButton(),
      iconButton(ICONS.help, "Help", () => app.help.showModal(), { "aria-keyshortcuts": "?" }),
    ),
  ];
}

function tabs(app, panel) {
  const pages = {
    layers: {
      label: "Layers",
      content: [layerSwitcher(app), compareControls(app), missingParts(app)],
    },
    detections: { label: "Detections", content: [filterControls(app)] },
    queue: { label: "Review", content: [reviewHead(app), queueList(app)] },
  };
  const keys = Object.keys(pages);
  const buttons = new Map();
  const bodies = new Map();
  const open = (wanted) => {
    for (const key of keys) {
      const isOpen = key === wanted;
      buttons.get(key).setAttribute("aria-selected", String(isOpen));
      buttons.get(key).tabIndex = isOpen ? 0 : -1;
      bodies.get(key).hidden = !isOpen;
    }
    app.isQueueOpen = wanted === "queue";
    if (app.isQueueOpen && !app.queue.rows.length) app.reviewing.more();
  };
  const list = make("div.tabs", { role: "tablist", "aria-label": "Panel" });
  for (const [key, { label, content }] of Object.entries(pages)) {
    const tab = button(
      label,
      () => {
        open(key);
        document.body.classList.remove("sheet-down");
      },
      { role: "tab", id: `tab-${key}`, "aria-controls": `page-${key}` },
    );
    tab.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      const next = keys[(keys.indexOf(key) + by + keys.length) % keys.length];
      open(next);
      buttons.get(next).focus();
    });
    buttons.set(key, tab);
    list.append(tab);
    bodies.set(
      key,
      make(
        "div.tab-page",
        { role: "tabpanel", id: `page-${key}`, "aria-labelledby": `tab-${key}` },
        ...content,
      ),
    );
  }
  app.state.watch(["run"], () => app.isQueueOpen && !app.queue.rows.length && app.reviewing.more());
  const grip = make("button.grip", {
    type: "button",
    "aria-label": "Fold the panel",
    on: { click: () => document.body.classList.toggle("sheet-down") },
  });
  open(isSingle ? "queue" : "layers");
  return [grip, list, make("div.tab-pages", {}, ...bodies.values())];
}

function reviewHead(app) {
  const buttons = make(
    "div.buttons",
    {},
    iconButton(ICONS.previous, "Previous in the queue", () => app.reviewing.step(-1), {
      "aria-keyshortcuts": "k",
    }),
    iconButton(ICONS.next, "Next in the queue", () => app.reviewing.step(1), {
      "aria-keyshortcuts": "j",
    }),
    button("Undo", () => app.reviewing.undo(), { "aria-keyshortcuts": "z" }),
  );
  if (app.city.served) return buttons;
  buttons.append(
    button("Download", () => app.reviewing.download(), {
      title: isKept
        ? "Verdicts and drawings are kept in this browser; this saves them as a GeoJSON file"
        : "Saves verdicts and drawings as a GeoJSON file",
    }),
  );
  if (isKept) return buttons;
  const warning = "This browser keeps nothing here: download before you close the page.";
  return make("div", {}, buttons, make("p.note", {}, warning));
}
