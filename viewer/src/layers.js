/** The layers of all runs on the map: which are visible, how much, and on which side of a swipe. */

import { getRenderPixel } from "ol/render.js";

import { Detections } from "./detections.js";
import { Z, missingCells } from "./map.js";
import { rasterLayer } from "./rasters.js";
import { zonesLayer } from "./zones.js";

/** The layers of a run, made when it is first shown. */
class RunLayers {
  constructor(city, run, state, messages) {
    this.run = run;
    this.rasters = new Map(
      run.layers.map((layer, n) => {
        const shown = rasterLayer(layer, run, city.projection);
        shown.setZIndex(Z.rasters + n);
        return [layer.id, shown];
      }),
    );
    this.detections = new Detections(city, run, state, messages);
    this.cells = missingCells(run);
    this.zones = run.detections.zones ? zonesLayer(run, messages) : null;
    this.all = [...this.rasters.values(), ...this.detections.layers, this.cells];
    if (this.zones) this.all.push(this.zones);
  }
}

export class Layers {
  #runs = new Map();

  constructor(city, map, state, messages) {
    Object.assign(this, { city, map, state, messages });
    state.watch(["run", "visible", "opacity", "compare", "swipe", "shows"], () => this.#apply());
    state.watch(["filters"], () => this.#refilter());
    map.on("moveend", () => this.#load());
  }

  /** Layers of the run that is chosen. */
  get current() {
    return this.of(this.state.get("run"));
  }

  of(index) {
    if (!this.#runs.has(index)) {
      const run = this.city.runs[index];
      const layers = new RunLayers(this.city, run, this.state, this.messages);
      for (const layer of layers.all) {
        layer.on("prerender", (event) => this.#clip(layer, event));
        layer.on("postrender", ({ context }) => layer.get("side") && context.restore());
        this.map.addLayer(layer);
      }
      this.#runs.set(index, layers);
    }
    return this.#runs.get(index);
  }

  /** Runs on the screen: the chosen one, or both while they are compared. */
  get shown() {
    const isBoth = this.state.get("compare")?.kind === "runs";
    return (isBoth ? [0, 1] : [this.state.get("run")]).map((index) => this.of(index));
  }

  /** Return what is at a pixel of the screen: `detection`, `place`, or a `tip`. */
  at(pixel, coordinate) {
    const shown = this.shown;
    const layers = shown.length === 1 ? shown[0] : shown[pixel[0] < this.#edge ? 0 : 1];
    const resolution = this.map.getView().getResolution();
    const shows = this.state.get("shows");
    if (shows.has("detections")) {
      const detection = layers.detections.at(coordinate, resolution);
      const place = layers.detections.placeAt(coordinate, resolution);
      if (detection || place) return { detection, place };
    }
    const [cell] = layers.cells.getSource().getFeaturesAtCoordinate(coordinate);
    if (cell) return { tip: cell.get("tip") };
    const zones = layers.zones?.getVisible() ? layers.zones.getSource() : null;
    return { tip: zones?.getFeaturesAtCoordinate(coordinate)[0]?.get("name") };
  }

  get #edge() {
    return this.state.get("swipe") * this.map.getSize()[0];
  }

  #apply() {
    const compare = this.state.get("compare");
    const [visible, opacity, shows] = ["visible", "opacity", "shows"].map((key) =>
      this.state.get(key),
    );
    const shown = this.shown;
    for (const layers of this.#runs.values()) {
      const isShown = shown.includes(layers);
      const side = compare?.kind === "runs" ? ["left", "right"][layers.run.index] : null;
      for (const layer of layers.all) layer.set("side", side);
      for (const [id, layer] of layers.rasters) {
        const own = sideOf(id, compare);
        if (own) layer.set("side", own);
        const isAsked = visible.has(id) && !(compare?.kind === "layers" && isHeatmap(id));
        layer.setVisible(isShown && (isAsked || own !== null));
        layer.setOpacity(opacity.get(id) ?? 1);
      }
      layers.cells.setVisible(isShown);
      layers.zones?.setVisible(isShown && shows.has("zones"));
      for (const layer of layers.detections.layers) {
        layer.setOpacity(isShown && shows.has("detections") ? 1 : 0);
      }
    }
    this.#load();
    this.map.render();
  }

  #refilter() {
    for (const { detections } of this.#runs.values()) detections.redraw();
    this.#load();
  }

  #load() {
    if (!this.map.getSize()) return;
    for (const { detections, zones } of this.shown) {
      detections.show(this.map);
      if (zones?.getVisible()) zones.get("load")();
    }
  }

  #clip(layer, event) {
    const side = layer.get("side");
    if (!side) return;
    const { context } = event;
    const [width, height] = this.map.getSize();
    const [left, right] = side === "left" ? [0, this.#edge] : [this.#edge, width];
    context.save();
    context.beginPath();
    const corners = [
      [left, 0],
      [right, 0],
      [right, height],
      [left, height],
    ];
    for (const corner of corners) context.lineTo(...getRenderPixel(event, corner));
    context.closePath();
    context.clip();
  }
}

/** `<method>/<class>` is one of the heatmaps, of which one is shown at a time. */
export function isHeatmap(id) {
  return id.includes("/");
}

function sideOf(id, compare) {
  if (compare?.kind !== "layers" || compare.left === compare.right) return null;
  return { [compare.left]: "left", [compare.right]: "right" }[id] ?? null;
}
