/** Detections of a run: outlines where there are few in view, and counts by place elsewhere. */

import Feature from "ol/Feature.js";
import GeoJSON from "ol/format/GeoJSON.js";
import { buffer, getCenter } from "ol/extent.js";
import Point from "ol/geom/Point.js";
import VectorLayer from "ol/layer/Vector.js";
import VectorSource from "ol/source/Vector.js";
import CircleStyle from "ol/style/Circle.js";
import Fill from "ol/style/Fill.js";
import Stroke from "ol/style/Stroke.js";
import Style from "ol/style/Style.js";
import Text from "ol/style/Text.js";

import { Counts, countsLayer, radius, showPlaces } from "./counts.js";
import { passes } from "./filters.js";
import { FlatGeobuf } from "./flatgeobuf.js";
import { Z } from "./map.js";
import { waitFor } from "./server.js";

const MANY = 2500;
/** Outlines in view, beyond which their numbers are shown: drawing this many takes 40 ms. */
const AROUND = 0.2;
/** Share of the view that is read beyond each of its edges. */
const SMALL_PX = 7;
/** Objects that are smaller on the screen are dots. */
const HIT_PX = 5;
/** Clicks may miss an object by so much. */

const VERDICT_SIGNS = { right: "✓", wrong: "✗", unsure: "?" };
const geojson = new GeoJSON();

/** Turn a GeoJSON feature into a detection: its columns, its geometry and its box. */
export function asDetection({ properties, geometry: json }) {
  const geometry = geojson.readGeometry(json);
  return { ...properties, geometry, extent: geometry.getExtent() };
}

export class Detections {
  /**
   * @param {object} city
   * @param {object} run
   * @param {import("./state.js").State} state
   * @param {{say: Function}} messages
   */
  constructor(city, run, state, messages) {
    Object.assign(this, { city, run, state, messages });
    this.file = new FlatGeobuf(run.detections.outlines);
    this.rings = countsLayer(city);
    this.outlines = new VectorLayer({
      source: new VectorSource(),
      zIndex: Z.outlines,
      style: (feature, resolution) => this.#style(feature, resolution),
      renderBuffer: 20,
    });
    this.layers = [this.rings, this.outlines];
    this.loaded = null;
    /** Sign by id, of what has been reviewed. */
    this.verdicts = new Map();
    this.prepared = this.#prepare();
  }

  async #prepare() {
    try {
      this.counts = await Counts.read(this.run);
      await waitFor(this.run.detections.outlines, () =>
        this.messages.say("The outlines are being prepared; they appear by themselves."),
      );
    } catch (error) {
      this.messages.fail(error);
      throw error;
    }
  }

  /** Show what belongs to a view, now that it stands still. */
  async show(map) {
    const view = map.getView();
    const resolution = view.getResolution();
    const box = view.calculateExtent(map.getSize());
    this.wanted = box;
    try {
      await this.prepared;
    } catch {
      return; // said already
    }
    if (this.wanted !== box) return;
    const { classes } = this.state.get("filters");
    const isMany = this.counts.within(box) > MANY; // of all classes, which are read together
    this.rings.setVisible(isMany);
    this.outlines.setVisible(!isMany);
    this.state.set({ isCounted: isMany });
    if (isMany) {
      showPlaces(this.rings, this.counts.places(resolution / this.run.grid.sx, classes));
    } else {
      await this.#load(box);
    }
  }

  async #load(box) {
    if (this.loaded && contains(this.loaded, box)) return;
    const around = widened(box, AROUND);
    try {
      const found = await this.#search(around, () => this.wanted === box);
      if (this.wanted !== box) return;
      const source = this.outlines.getSource();
      const features = found.map((feature) => this.#feature(asDetection(feature)));
      source.clear(true);
      source.addFeatures(features);
      this.loaded = around;
    } catch (error) {
      this.messages.fail(error);
    }
  }

  /** Return GeoJSON features in a box; the reader fails at a file without any. */
  async #search(box, stillWanted) {
    return this.run.detections.count ? this.file.search(box, stillWanted) : [];
  }

  #feature(detection) {
    const feature = new Feature(detection.geometry);
    feature.setId(detection.id);
    feature.set("detection", { ...detection, run: this.run.index }, true);
    return feature;
  }

  /** Return the detection at a place, the smallest if there are several; undefined for none. */
  at(coordinate, resolution) {
    if (!this.outlines.getVisible()) return undefined;
    const near = HIT_PX * resolution;
    const box = buffer([...coordinate, ...coordinate], near);
    const filters = this.state.get("filters");
    return this.outlines
      .getSource()
      .getFeaturesInExtent(box)
      .filter((feature) => {
        const geometry = feature.getGeometry();
        if (!passes(filters, feature.get("detection"))) return false;
        if (geometry.intersectsCoordinate(coordinate)) return true;
        const [x, y] = geometry.getClosestPoint(coordinate);
        return Math.hypot(x - coordinate[0], y - coordinate[1]) <= near;
      })
      .map((feature) => feature.get("detection"))
      .sort((a, b) => a.area_m2 - b.area_m2)[0];
  }

  /** Return the place whose number is shown there; undefined for none. */
  placeAt(coordinate, resolution) {
    if (!this.rings.getVisible()) return undefined;
    const nearest = this.rings.getSource().getClosestFeatureToCoordinate(coordinate);
    if (!nearest) return undefined;
    const place = nearest.get("place");
    const distance = Math.hypot(place.x - coordinate[0], place.y - coordinate[1]);
    return distance <= radius(place) * resolution ? place : undefined;
  }

  /** Return a detection by its id, looked for in a box; null if it is not there. */
  async find(id, box) {
    await this.prepared;
    const shown = this.outlines.getSource().getFeatureById(id);
    if (shown) return shown.get("detection");
    const found = (await this.#search(box)).find(({ properties }) => properties.id === id);
    return found ? { ...asDetection(found), run: this.run.index } : null;
  }

  #style(feature, resolution) {
    const detection = feature.get("detection");
    if (!passes(this.state.get("filters"), detection)) return undefined;
    const color = this.city.classOf.get(detection.class_id)?.color ?? "#888888";
    const sign = VERDICT_SIGNS[this.verdicts.get(detection.id)] ?? "";
    const [west, south, east, north] = detection.extent;
    const isSmall = Math.max(east - west, north - south) < SMALL_PX * resolution;
    return isSmall ? dot(color) : outline(color, sign);
  }

  /** Draw anew: filters or verdicts are others. */
  redraw() {
    this.outlines.changed();
  }
}

function contains(outer, inner) {
  return (
    outer[0] <= inner[0] && outer[1] <= inner[1] && outer[2] >= inner[2] && outer[3] >= inner[3]
  );
}

function widened([west, south, east, north], share) {
  const [x, y] = [(east - west) * share, (north - south) * share];
  return [west - x, south - y, east + x, north + y];
}

const styles = new Map();

/** Return a style that is made once for each key. */
function once(key, makeStyle) {
  if (!styles.has(key)) styles.set(key, makeStyle());
  return styles.get(key);
}

/** The colour of a class on a dark and a light casing: visible on roofs, roads and lawns. */
function outline(color, sign) {
  return once(`outline ${color} ${sign}`, () => {
    const lines = [
      new Style({ stroke: new Stroke({ color: "rgba(10, 14, 20, 0.7)", width: 5.5 }) }),
      new Style({ stroke: new Stroke({ color: "rgba(255, 255, 255, 0.95)", width: 3.8 }) }),
      new Style({
        stroke: new Stroke({ color, width: 2.2 }),
        fill: new Fill({ color: `${color.slice(0, 7)}14` }),
      }),
    ];
    if (sign) lines.push(new Style({ text: signText(sign) }));
    return lines;
  });
}

function signText(sign) {
  return new Text({
    text: sign,
    font: "700 15px system-ui, sans-serif",
    fill: new Fill({ color: "#fff" }),
    stroke: new Stroke({ color: "#10161d", width: 4 }),
    overflow: true,
  });
}

function dot(color) {
  return once(
    `dot ${color}`,
    () =>
      new Style({
        image: new CircleStyle({
          radius: 4,
          fill: new Fill({ color }),
          stroke: new Stroke({ color: "#fff", width: 1.2 }),
        }),
        geometry: (feature) => new Point(getCenter(feature.getGeometry().getExtent())),
      }),
  );
}

/** The selected object, above everything else. */
export function selectionLayer() {
  const lines = [
    new Style({ stroke: new Stroke({ color: "rgba(10, 14, 20, 0.85)", width: 7.5 }) }),
    new Style({ stroke: new Stroke({ color: "#ffd60a", width: 4 }) }),
  ];
  const ring = new Style({
    image: new CircleStyle({ radius: 13, stroke: new Stroke({ color: "#ffd60a", width: 3 }) }),
    geometry: (feature) => new Point(getCenter(feature.getGeometry().getExtent())),
  });
  return new VectorLayer({
    source: new VectorSource(),
    zIndex: Z.drawn,
    style: (feature, resolution) => {
      const [west, , east] = feature.getGeometry().getExtent();
      return east - west < 2 * SMALL_PX * resolution ? ring : lines;
    },
  });
}
