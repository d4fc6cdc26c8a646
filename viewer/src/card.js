/** What is known about the selected object or place, and what can be done with it. */

import { getCenter } from "ol/extent.js";

import { ICONS, button, choice, fill, iconButton, make, select, slider, swatch } from "./dom.js";
import { OPACITY } from "./explain.js";
import { legend } from "./layer_switcher.js";
import { coordinates, count, degrees, measure, percent, squareMetres } from "./numbers.js";
import { VERDICTS } from "./review.js";

const KEYS = { right: "Y", wrong: "N", unsure: "U" };

/** Return the card; it is hidden while nothing is selected. */
export function objectCard(app) {
  const { state } = app;
  const node = make("section.card", { "aria-label": "Selected object", tabindex: "-1" });
  const about = make("div.card-about", { "aria-live": "polite" });
  const judged = make("div.card-review");
  const why = make("div.card-why", { "aria-live": "polite" });
  node.append(about, judged, why);
  state.watch(["selected", "place"], () => {
    const [detection, place] = [state.get("selected"), state.get("place")];
    node.hidden = !detection && !place;
    document.body.classList.toggle("has-card", !node.hidden);
    if (detection) fill(about, ...aboutObject(app, detection));
    else if (place) fill(about, ...aboutPlace(app, place));
    node.scrollTop = 0;
    keepInView(app, node);
  });
  state.watch(["selected", "reviewed", "run"], () => {
    const detection = state.get("selected");
    fill(judged, ...(detection ? review(app, detection) : []));
  });
  state.watch(["selected", "place", "explanation"], () => fill(why, ...explanation(app)));
  return node;
}

/** On a phone the card lies over the lower part of the map: the centre moves above it. */
function keepInView(app, node) {
  const map = app.map.getTargetElement().getBoundingClientRect();
  const card = node.getBoundingClientRect();
  const isBelow = !node.hidden && card.width >= map.width;
  app.map.getView().padding = isBelow
    ? [0, 0, Math.max(0, map.bottom - card.top), 0]
    : [0, 0, 0, 0];
}

function head(app, ...title) {
  return make(
    "div.card-head",
    {},
    make("h2", {}, ...title),
    iconButton(ICONS.link, "Copy a link to this", () => app.copyLink()),
    iconButton(ICONS.close, "Close", () => app.unselect()),
  );
}

function facts(rows) {
  return make(
    "dl.facts",
    {},
    ...rows
      .filter(([, text]) => text !== null)
      .map(([name, text, title]) =>
        make("div", { title }, make("dt", {}, name), make("dd", {}, text)),
      ),
  );
}

function aboutObject(app, detection) {
  const entry = app.city.classOf.get(detection.class_id);
  const word = app.city.wordOf.get(detection.evidence);
  const known = (value, text) => (value === null || value === undefined ? null : text(value));
  return [
    head(app, swatch(entry?.color ?? "#888"), detection.class ?? entry?.name ?? "object"),
    make(
      "p.card-id",
      {},
      make("span", {}, detection.id),
      make("br"),
      degrees(...app.lonLat(getCenter(detection.extent))),
    ),
    facts([
      [
        "Confidence",
        percent(detection.confidence),
        "Mean probability of its class inside the outline",
      ],
      [
        "Likely right",
        known(detection.p_right, percent),
        "How likely the detection is right, calibrated on checked ones",
      ],
      ["Area", squareMetres(detection.area_m2), "On the map, not of the slope"],
      [
        "In the queue",
        known(detection.rank, (rank) => `no. ${count(rank)}`),
        "Place in the review queue; 1 is the most doubtful",
      ],
      [
        "Map inside it",
        known(detection.own_share, percent),
        "Share of its own explanation that lies inside its outline",
      ],
      [
        "When blurred",
        known(detection.own_drop, change),
        "Change of its probability when the pixels that its explanation names are blurred",
      ],
    ]),
    word ? evidence(word) : null,
  ];
}

function evidence({ word, color, meaning }) {
  return make("p.evidence", {}, make("b", { style: { "--word": color } }, word), ` ${meaning}`);
}

/** A drop of 0.2 as −20 %. */
function change(drop) {
  const sign = Math.round(100 * drop) > 0 ? "−" : "+";
  return Math.round(100 * drop) === 0 ? "0 %" : `${sign}${Math.abs(Math.round(100 * drop))} %`;
}

function aboutPlace(app, place) {
  const [lon, lat] = app.lonLat(place);
  return [
    head(app, "A place"),
    make("p.card-id", {}, degrees(lon, lat), make("br"), coordinates(place)),
  ];
}

function review(app, detection) {
  const { review: store, city } = app;
  if (store.whyNot) return [make("p.note", {}, `No verdicts: ${store.whyNot}`)];
  const said = store.latest.get(detection.id);
  const verdicts = Object.entries(VERDICTS).map(([verdict, label]) =>
    make(
      "button",
      {
        type: "button",
        class: `judge ${verdict}`,
        "aria-pressed": String(said?.verdict === verdict),
        "aria-keyshortcuts": KEYS[verdict].toLowerCase(),
        on: { click: () => app.reviewing.judge({ verdict }) },
      },
      label,
      make("kbd", { "aria-hidden": "true" }, KEYS[verdict]),
    ),
  );
  const others = city.classes
    .map((entry, n) => ({ entry, n }))
    .filter(({ entry }) => entry.id !== detection.class_id)
    .map(({ entry, n }) =>
      make(
        "button",
        {
          type: "button",
          class: "judge-class",
          "aria-pressed": String(said?.true_class === entry.name),
          "aria-keyshortcuts": String(n + 1),
          on: { click: () => app.reviewing.judge({ verdict: "wrong", trueClass: entry.name }) },
        },
        swatch(entry.color),
        entry.name,
        make("kbd", { "aria-hidden": "true" }, String(n + 1)),
      ),
    );
  const note = make("input", {
    type: "text",
    id: "note",
    maxlength: 500,
    placeholder: "Note (kept with the verdict)",
    "aria-label": "Note, kept with the verdict",
  });
  note.value = said?.note ?? "";
  return [
    make("h3", {}, "Is it right?"),
    make("div.judges", { role: "group", "aria-label": "Verdict" }, ...verdicts),
    others.length
      ? make(
          "div.judge-classes",
          { role: "group", "aria-label": "Wrong: it should be" },
          make("span", {}, "It is a"),
          ...others,
        )
      : null,
    note,
  ];
}

function explanation(app) {
  const { state, run } = app;
  const [detection, place] = [state.get("selected"), state.get("place")];
  if (!detection && !place) return [];
  const now = state.get("explanation");
  const parts = [make("h3", {}, "Why does the network say so?")];
  if (run.explain_problem) return [...parts, make("p.note", {}, run.explain_problem)];
  if (!now?.answer) {
    const classes = [
      ["", "its strongest class"],
      ...app.city.classes.map(({ id, name }) => [id, name]),
    ];
    if (place)
      parts.push(select("As", classes, app.placeClass, (value) => (app.placeClass = value)));
    const ask = button(now?.isBusy ? "Explaining…" : "Explain", () => app.explain(), {
      class: "primary wide",
      disabled: now?.isBusy,
      "aria-keyshortcuts": "e",
    });
    if (now?.isBusy) ask.prepend(make("i.spinner", { "aria-hidden": "true" }));
    else ask.append(make("kbd", { "aria-hidden": "true" }, "E"));
    parts.push(ask);
  }
  if (now?.error) parts.push(make("p.error", {}, now.error));
  if (now?.answer) parts.push(...answered(app, now.answer));
  return parts;
}

function answered(app, answer) {
  const { explanations, city } = app;
  const word = city.wordOf.get(answer.evidence);
  const rows = Object.entries(answer.numbers).map(([name, value]) => [
    name.replaceAll("_", " "),
    measure(name, value),
  ]);
  const overlays = explanations.overlays.map(({ title, layer, legend: entries, unit }) =>
    make(
      "div.layer",
      {},
      choice("checkbox", title, {
        checked: layer.getVisible(),
        change: ({ checked }) => layer.setVisible(checked),
      }),
      legend({ legend: entries, unit }),
    ),
  );
  return [
    word && answer.evidence !== app.state.get("selected")?.evidence ? evidence(word) : null,
    make(
      "p.note",
      {},
      `${answer.class} with a confidence of ${percent(answer.confidence)}, in ${answer.took_s.toFixed(2)} s`,
    ),
    overlays.length
      ? make(
          "fieldset",
          {},
          make("legend", {}, "On the map"),
          ...overlays,
          slider("Opacity", {
            min: 0,
            max: 1,
            step: 0.05,
            value: OPACITY,
            text: percent,
            input: (value) => explanations.setOpacity(value),
          }),
        )
      : null,
    make("details", { open: true }, make("summary", {}, "Numbers"), facts(rows)),
    button("Take it away", () => explanations.clear(), { class: "quiet" }),
  ];
}
