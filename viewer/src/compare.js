/** Two runs, or two layers, beside each other, with an edge between them that can be moved. */

import { ICONS, choice, fill, icon, make, select } from "./dom.js";
import { isHeatmap } from "./layers.js";

const STEP = 0.02;
/** Share of the map that an arrow key moves the edge. */

/** Controls of what is compared. */
export function compareControls(app) {
  const { city, state } = app;
  const node = make("fieldset", {});
  const layers = () => app.run.layers.map((layer) => [layer.id, layer.title]);
  const start = (kind) => {
    if (kind === "layers") {
      state.set({ compare: { kind, ...firstPair(app) } });
    } else {
      state.set({ compare: kind === "runs" ? { kind } : null });
    }
    draw();
  };
  const draw = () => {
    const compare = state.get("compare");
    const kinds = [
      ["", "Off"],
      ["layers", "Two layers"],
    ];
    if (city.runs.length > 1) kinds.splice(1, 0, ["runs", "Two runs"]);
    const side = (name) =>
      select(name === "left" ? "Left" : "Right", layers(), compare[name], (id) =>
        state.set({ compare: { ...state.get("compare"), [name]: id } }),
      );
    fill(
      node,
      make("legend", {}, "Swipe"),
      make(
        "div.segments",
        { role: "radiogroup", "aria-label": "Compare" },
        ...kinds.map(([kind, label]) =>
          choice("radio", label, {
            name: "compare",
            checked: (compare?.kind ?? "") === kind,
            change: () => start(kind),
          }),
        ),
      ),
      ...(compare?.kind === "layers" ? [side("left"), side("right")] : []),
    );
  };
  state.watch(["run"], () => {
    if (state.get("compare")?.kind === "layers") state.set({ compare: null });
    draw();
  });
  return node;
}

/** The heatmap that is shown, and the same class by the next method. */
function firstPair(app) {
  const ids = app.run.layers.map((layer) => layer.id);
  const heatmaps = ids.filter(isHeatmap);
  const left = heatmaps.find((id) => app.visible().has(id)) ?? heatmaps[0] ?? ids[0];
  const others = heatmaps.filter((id) => id !== left && id.endsWith(left.slice(left.indexOf("/"))));
  const after = others.find((id) => ids.indexOf(id) > ids.indexOf(left));
  return { left, right: after ?? others[0] ?? ids.at(-1) };
}

/** The edge on the map. */
export function swipeHandle(app) {
  const { state, map, city } = app;
  const titles = [make("span.swipe-left"), make("span.swipe-right")];
  const grip = make(
    "button.swipe-grip",
    {
      type: "button",
      role: "slider",
      "aria-label": "Edge between left and right",
      "aria-valuemin": 0,
      "aria-valuemax": 100,
      "aria-orientation": "horizontal",
    },
    icon(ICONS.swipe),
  );
  const node = make("div.swipe", {}, ...titles, grip);
  const move = (share) => state.set({ swipe: Math.min(0.98, Math.max(0.02, share)) });
  grip.addEventListener("pointerdown", (event) => {
    grip.setPointerCapture(event.pointerId);
    event.preventDefault();
    grip.focus();
  });
  grip.addEventListener("pointermove", (event) => {
    if (!grip.hasPointerCapture(event.pointerId)) return;
    const { left, width } = map.getTargetElement().getBoundingClientRect();
    move((event.clientX - left) / width);
  });
  grip.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -STEP, ArrowRight: STEP }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation();
    move(state.get("swipe") + by);
  });
  state.watch(["compare", "swipe", "run"], () => {
    const compare = state.get("compare");
    node.hidden = !compare;
    if (!compare) return;
    node.style.left = `${100 * state.get("swipe")}%`;
    grip.setAttribute("aria-valuenow", Math.round(100 * state.get("swipe")));
    const titleOf = (id) => app.run.layers.find((layer) => layer.id === id)?.title ?? id;
    const names =
      compare.kind === "runs"
        ? city.runs.map((run) => run.name)
        : [titleOf(compare.left), titleOf(compare.right)];
    titles.forEach((title, n) => (title.textContent = names[n]));
  });
  return node;
}
