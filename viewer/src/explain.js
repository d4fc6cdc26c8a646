/** Explanations on request: numbers, and pictures that lie over the map. */

import ImageLayer from "ol/layer/Image.js";
import ImageStatic from "ol/source/ImageStatic.js";

import { Z } from "./map.js";
import { postJson } from "./server.js";

export const OPACITY = 0.75;
/** Of the pictures, at first. */

export class Explanations {
  #latest = 0;

  constructor(city, map, state) {
    Object.assign(this, { city, map, state });
    this.overlays = [];
  }

  /** Ask about an object, `{id}`, or a place, `{x, y}`, of a run. */
  async ask(run, question) {
    if (run.explain_problem) return;
    this.clear();
    const number = ++this.#latest;
    this.state.set({ explanation: { isBusy: true } });
    try {
      const answer = await postJson(`${run.path}explain`, question);
      if (number !== this.#latest) return;
      this.#show(answer);
      this.state.set({ explanation: { answer } });
    } catch (error) {
      if (number === this.#latest) this.state.set({ explanation: { error: error.message } });
    }
  }

  #show(answer) {
    this.overlays = answer.overlays.map(({ title, url, extent, legend = [], unit = "" }, n) => {
      const source = new ImageStatic({
        url,
        imageExtent: extent,
        projection: this.city.projection,
        interpolate: false,
      });
      const zIndex = Z.overlays + n;
      const layer = new ImageLayer({ source, zIndex, visible: n === 0, opacity: OPACITY });
      this.map.addLayer(layer);
      return { title, legend, unit, layer };
    });
  }

  /** Take the answer and its pictures away. */
  clear() {
    this.#latest += 1;
    for (const { layer } of this.overlays) this.map.removeLayer(layer);
    this.overlays = [];
    this.state.set({ explanation: null });
  }

  setOpacity(opacity) {
    for (const { layer } of this.overlays) layer.setOpacity(opacity);
  }
}
