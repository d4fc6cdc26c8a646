/** Which layers are shown, how much, and what their colours mean. */

import { choice, fill, make, select, slider, swatch } from "./dom.js";
import { isHeatmap } from "./layers.js";
import { count, percent } from "./numbers.js";

const CONTINUOUS = 16;
/** Colours of a palette, beyond which it is a ramp. */
const STOPS = 16;

const classOf = (layer) => layer.id.slice(layer.id.indexOf("/") + 1);

/** Return the controls of the layers of the run that is chosen: parts that can be updated. */
export function layerSwitcher(app) {
  const node = make("div.layers");
  let parts = [];
  app.state.watch(["run"], () => {
    const { layers } = app.run;
    const heatmaps = layers.filter(({ id }) => isHeatmap(id));
    const plain = Map.groupBy(
      layers.filter(({ id }) => !isHeatmap(id)),
      (layer) => layer.group,
    );
    parts = [
      ...(heatmaps.length ? [chooser(app, heatmaps)] : []),
      ...[...plain].reverse().map(([group, members]) => plainGroup(app, group, members)),
    ];
    fill(node, ...parts.map((part) => part.node));
    for (const part of parts) part.update();
  });
  app.state.watch(["visible"], () => parts.forEach((part) => part.update()));
  return node;
}

/** Images that are nowhere on the map, and how many cells are hatched. */
export function missingParts(app) {
  const node = make("div");
  app.state.watch(["run"], () => fill(node, missing(app.run)));
  return node;
}

function missing({ cells, unplaced = [] }) {
  const without = cells.filter((cell) => cell.status !== "done").length;
  if (!without && !unplaced.length) return null;
  const images = unplaced.map(([name, reason]) =>
    make("li", {}, make("b", {}, name), ` ${reason}`),
  );
  const summary = `Images without a place: ${count(images.length)}`;
  return make(
    "fieldset",
    {},
    make("legend", {}, "Missing"),
    make(
      "p.note",
      {},
      without ? `Hatched, without products: ${without} of ${cells.length} cells` : "",
    ),
    images.length
      ? make("details", {}, make("summary", {}, summary), make("ul.unplaced", {}, ...images))
      : null,
  );
}

function plainGroup(app, group, members) {
  const updates = [];
  const rows = [...members].reverse().map((layer) => {
    const details = make("div.layer-details");
    const box = choice("checkbox", layer.title, {
      checked: app.visible().has(layer.id),
      change: ({ checked }) => app.setVisible(layer.id, checked),
    });
    updates.push(() => {
      const isShown = app.visible().has(layer.id);
      box.firstChild.checked = isShown;
      fill(details, ...(isShown ? [opacity(app, [layer]), legend(layer)] : []));
    });
    return make("div.layer", {}, box, details);
  });
  const isAlone = members.length === 1 && members[0].title === group;
  const title = make("legend", isAlone ? { class: "hidden" } : {}, group);
  return {
    node: make("fieldset", {}, title, ...rows),
    update: () => updates.forEach((update) => update()),
  };
}

/** Method and class of the heatmap that is shown. */
function chooser(app, heatmaps) {
  const groups = Map.groupBy(heatmaps, (layer) => layer.group);
  const shown = () => heatmaps.find((layer) => app.visible().has(layer.id));
  let wanted = classOf(shown() ?? heatmaps[0]);
  const choose = (group) => {
    const visible = new Set(app.visible());
    for (const layer of heatmaps) visible.delete(layer.id);
    const members = groups.get(group) ?? [];
    const layer = members.find((member) => classOf(member) === wanted) ?? members[0];
    if (layer) visible.add(layer.id);
    app.state.set({ visible });
  };
  const methods = [["", "None"], ...[...groups.keys()].map((group) => [group, group])];
  const method = select("Heatmap", methods, shown()?.group ?? "", choose, { hidden: true });
  const classes = make("div.segments", {
    role: "radiogroup",
    "aria-label": "Class of the heatmap",
  });
  const details = make("div.layer-details");
  const update = () => {
    const layer = shown();
    method.value = layer?.group ?? "";
    if (layer) wanted = classOf(layer);
    const members = layer ? groups.get(layer.group) : [];
    fill(
      classes,
      ...(members.length > 1 ? members : []).map((member) =>
        choice("radio", [swatch(app.colorOfClass(classOf(member))), classOf(member)], {
          name: "heatmap-class",
          checked: member === layer,
          change: () => {
            wanted = classOf(member);
            choose(member.group);
            classes.querySelector("input:checked")?.focus();
          },
        }),
      ),
    );
    fill(details, ...(layer ? [opacity(app, heatmaps, layer), legend(layer)] : []));
  };
  return {
    node: make("fieldset", {}, make("legend", {}, "Heatmap"), method, classes, details),
    update,
  };
}

/** A slider for layers that are looked at as one. */
function opacity(app, layers, shown = layers[0]) {
  return slider("Opacity", {
    min: 0,
    max: 1,
    step: 0.05,
    value: app.state.get("opacity").get(shown.id) ?? 1,
    text: percent,
    input: (value) => {
      const opacities = new Map(app.state.get("opacity"));
      for (const layer of layers) opacities.set(layer.id, value);
      app.state.set({ opacity: opacities });
    },
  });
}

/** What the colours of a layer mean; null if it is a picture. */
export function legend({ palette = [], legend: entries = [], unit = "" }) {
  if (!entries.length) return null;
  if (new Set(palette).size <= CONTINUOUS && palette.length) {
    return make(
      "ul.legend",
      {},
      ...entries.map(({ label, color }) => make("li", {}, swatch(color), label)),
    );
  }
  const colours = palette.length ? ramp(palette) : entries.map(({ color }) => color);
  return make(
    "div.ramp",
    {},
    make("div.ramp-bar", {
      role: "img",
      "aria-label": `${entries[0].label} to ${entries.at(-1).label} ${unit}`,
      style: { "--ramp": `linear-gradient(90deg, ${colours.join(", ")})` },
    }),
    make(
      "div.ramp-labels",
      { "aria-hidden": "true" },
      ...entries.map(({ label }) => make("span", {}, label)),
    ),
    unit ? make("p.unit", {}, unit) : null,
  );
}

function ramp(palette) {
  return Array.from({ length: STOPS + 1 }, (_, n) => palette[Math.round((n * 254) / STOPS)]);
}
