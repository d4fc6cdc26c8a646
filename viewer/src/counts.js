/** Numbers of detections by place, for views with too many to draw. */

import Feature from "ol/Feature.js";
import Point from "ol/geom/Point.js";
import VectorLayer from "ol/layer/Vector.js";
import VectorSource from "ol/source/Vector.js";
import Style from "ol/style/Style.js";

import { overlap } from "./grid.js";
import { Z } from "./map.js";
import { count } from "./numbers.js";
import { getJson } from "./server.js";

const APART_PX = 84;
/** Width on the screen, at least, of the squares that are counted together. */
const WHOLE_TURN = 2 * Math.PI;

/** counts.json: n detections of a class in a square of the grid. */
export class Counts {
  static async read(run) {
    const { pixels, counts } = await getJson(run.detections.counts);
    const squares = Object.entries(counts).flatMap(([id, rows]) =>
      rows.map(([row, col, n]) => ({ classId: Number(id), row, col, n })),
    );
    return new Counts(run.grid, pixels, squares);
  }

  constructor(grid, pixels, squares) {
    this.grid = grid;
    this.pixels = pixels;
    this.squares = squares;
  }

  /** Return the number of detections by class. */
  totals() {
    const totals = new Map();
    for (const { classId, n } of this.squares) totals.set(classId, (totals.get(classId) ?? 0) + n);
    return totals;
  }

  /** Return about how many detections lie in a box. */
  within(box) {
    let total = 0;
    for (const { row, col, n } of this.squares) {
      if (overlap(box, this.#box(row, col, 1))) total += n;
    }
    return total;
  }

  /** Return places with their number by class, for a screen whose pixels are so many of the grid. */
  places(scale, classes) {
    const side = Math.max(1, 2 ** Math.ceil(Math.log2((APART_PX * scale) / this.pixels)));
    const places = new Map();
    for (const { classId, row, col, n } of this.squares) {
      if (!classes.has(classId)) continue;
      const [r, c] = [Math.floor(row / side), Math.floor(col / side)];
      const key = `${r} ${c}`;
      const place = places.get(key) ?? {
        total: 0,
        x: 0,
        y: 0,
        byClass: new Map(),
        box: this.#box(r * side, c * side, side),
      };
      const [west, south, east, north] = this.#box(row, col, 1);
      place.total += n;
      place.x += (n * (west + east)) / 2;
      place.y += (n * (south + north)) / 2;
      place.byClass.set(classId, (place.byClass.get(classId) ?? 0) + n);
      places.set(key, place);
    }
    return [...places.values()].map((place) => ({
      ...place,
      x: place.x / place.total,
      y: place.y / place.total,
    }));
  }

  #box(row, col, side) {
    return this.grid.box(
      row * this.pixels,
      col * this.pixels,
      side * this.pixels,
      side * this.pixels,
    );
  }
}

/** Radius of a place's ring, in pixels of the screen. */
export function radius(place) {
  return 13 + Math.min(14, 4 * Math.log10(place.total));
}

/** A layer of rings, one a place: its number, and the classes as parts of the ring. */
export function countsLayer(city) {
  return new VectorLayer({
    source: new VectorSource(),
    zIndex: Z.counts,
    style: (feature) => {
      const place = feature.get("place");
      return new Style({
        renderer: ([x, y], { context, pixelRatio }) =>
          drawRing(context, [x, y], pixelRatio, place, city),
      });
    },
  });
}

/** Show these places in the layer. */
export function showPlaces(layer, places) {
  const features = places.map(
    (place) => new Feature({ geometry: new Point([place.x, place.y]), place }),
  );
  layer.getSource().clear(true);
  layer.getSource().addFeatures(features);
}

function drawRing(context, [x, y], ratio, place, city) {
  const outer = radius(place) * ratio;
  context.save();
  context.beginPath();
  context.arc(x, y, outer + 1.5 * ratio, 0, WHOLE_TURN);
  context.fillStyle = "rgba(255, 255, 255, 0.92)";
  context.fill();
  context.lineWidth = 4 * ratio;
  let from = -WHOLE_TURN / 4;
  for (const [id, n] of place.byClass) {
    const to = from + (WHOLE_TURN * n) / place.total;
    context.beginPath();
    context.arc(x, y, outer - 2 * ratio, from, to);
    context.strokeStyle = city.classOf.get(id)?.color ?? "#888";
    context.stroke();
    from = to;
  }
  context.beginPath();
  context.arc(x, y, outer - 4 * ratio, 0, WHOLE_TURN);
  context.fillStyle = "#16202b";
  context.fill();
  context.fillStyle = "#fff";
  context.font = `600 ${11 * ratio}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(short(place.total), x, y + 0.5 * ratio);
  context.restore();
}

function short(n) {
  if (n < 1000) return count(n);
  return `${n < 10_000 ? (n / 1000).toFixed(1) : Math.round(n / 1000)}k`;
}
