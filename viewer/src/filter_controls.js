/** Controls of which detections are shown. */

import { button, choice, fill, make, slider, swatch } from "./dom.js";
import { isNarrow, noFilters } from "./filters.js";
import { count, percent, squareMetres } from "./numbers.js";

const MAX_AREA_M2 = 50;
/** End of the slider; three quarters of the objects are smaller than 14 m². */

export function filterControls(app) {
  const { city, state } = app;
  const change = (part) => state.set({ filters: { ...state.get("filters"), ...part } });
  const toggled = (set, value, isIn) => {
    const next = new Set(set);
    if (isIn) next.add(value);
    else next.delete(value);
    return next;
  };

  const node = make("div.filters");
  const note = make("p.note", { role: "status" });
  const totals = new Map(city.classes.map(({ id }) => [id, make("span.total")]));
  const draw = () => {
    const filters = state.get("filters");
    const classes = city.classes.map((entry) => {
      const label = [swatch(entry.color), make("span", {}, entry.name), totals.get(entry.id)];
      return choice("checkbox", label, {
        checked: filters.classes.has(entry.id),
        change: ({ checked }) =>
          change({ classes: toggled(state.get("filters").classes, entry.id, checked) }),
      });
    });
    const words = [...city.evidence, { word: "", color: "#9aa4ae", meaning: "not explained" }];
    const evidence = words.map(({ word, color, meaning }) =>
      choice(
        "checkbox",
        [swatch(color, "square"), make("span", { title: meaning }, word || "not explained")],
        {
          checked: filters.words.has(word),
          change: ({ checked }) =>
            change({ words: toggled(state.get("filters").words, word, checked) }),
        },
      ),
    );
    fill(
      node,
      make(
        "fieldset",
        {},
        make("legend", {}, "Detections"),
        choice("checkbox", "Show detections", {
          checked: state.get("shows").has("detections"),
          change: ({ checked }) =>
            state.set({ shows: toggled(state.get("shows"), "detections", checked) }),
        }),
        app.run.detections.zones
          ? choice("checkbox", "Show zones", {
              checked: state.get("shows").has("zones"),
              change: ({ checked }) =>
                state.set({ shows: toggled(state.get("shows"), "zones", checked) }),
            })
          : null,
        make("div.indented", {}, ...classes),
      ),
      make(
        "fieldset",
        {},
        make("legend", {}, "Only those with"),
        slider("Probability", {
          min: 0,
          max: 1,
          step: 0.01,
          value: filters.minProbability,
          text: (value) => (value ? `≥ ${percent(value)}` : "any"),
          input: (minProbability) => change({ minProbability }),
        }),
        slider("Area", {
          min: 0,
          max: MAX_AREA_M2,
          step: 0.5,
          value: filters.minArea,
          text: (value) => (value ? `≥ ${squareMetres(value)}` : "any"),
          input: (minArea) => change({ minArea }),
        }),
      ),
      make("fieldset", {}, make("legend", {}, "Evidence"), make("div.words", {}, ...evidence)),
      note,
      button(
        "Show all again",
        () => {
          state.set({ filters: noFilters(city), shows: new Set(["detections", "zones"]) });
          draw();
        },
        { class: "quiet" },
      ),
    );
  };
  state.watch(["run"], draw);
  state.watch(["totals"], () => {
    for (const [id, total] of totals) {
      const known = state.get("totals")?.get(id);
      total.textContent = known === undefined ? "" : count(known);
    }
  });
  state.watch(["filters", "isCounted"], () => {
    const isMisleading = state.get("isCounted") && isNarrow(state.get("filters"), city);
    note.textContent = isMisleading
      ? "From afar, numbers by place count all detections of these classes. Zoom in to filter."
      : "";
  });
  return node;
}
