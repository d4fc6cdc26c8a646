/** The map itself: its view, what stands at its edges, and the cells that are missing. */

import Feature from "ol/Feature.js";
import Map from "ol/Map.js";
import View from "ol/View.js";
import { defaults as defaultInteractions } from "ol/interaction/defaults.js";
import { fromExtent } from "ol/geom/Polygon.js";
import VectorLayer from "ol/layer/Vector.js";
import { getPointResolution, toLonLat } from "ol/proj.js";
import VectorSource from "ol/source/Vector.js";
import Fill from "ol/style/Fill.js";
import Stroke from "ol/style/Stroke.js";
import Style from "ol/style/Style.js";

import { ICONS, icon, iconButton, make } from "./dom.js";
import { coordinates, degrees, length } from "./numbers.js";

const CLOSEST = 8;
/** Pixels of the screen for a pixel of the grid. */
const SMALLEST_PX = 100;
/** Width of the city when it is furthest away. */
const BAR_PX = 110;
/** Maximum length of the scale bar. */
const MARGIN_PX = [24, 24, 48, 24];
/** Around the whole city; the footer lies over the map. */

const HATCH_PX = 14;

export const Z = {
  rasters: 0,
  overlays: 400,
  zones: 500,
  cells: 510,
  counts: 600,
  outlines: 610,
  drawn: 700,
};
/** Order of the layers, lowest first; rasters have their place in the run added. */

/** Make the map of a city in an element. */
export function makeMap(city, target) {
  const { grid } = city.runs[0];
  const { extent } = grid;
  const view = new View({
    projection: city.projection,
    extent,
    constrainOnlyCenter: true, // objects at the edge of the city can stand in the middle, too
    smoothExtentConstraint: false,
    minResolution: grid.sx / CLOSEST,
    maxResolution: (grid.sx * Math.max(grid.width, grid.height)) / SMALLEST_PX,
    enableRotation: false,
  });
  const map = new Map({
    target,
    view,
    controls: [],
    maxTilesLoading: 12,
    keyboardEventTarget: target,
    interactions: defaultInteractions({ altShiftDragRotate: false, pinchRotate: false }),
  });
  view.fit(extent, { padding: MARGIN_PX, size: map.getSize() });
  return map;
}

/** Show the whole city. */
export function showAll(map, city) {
  map.getView().fit(city.runs[0].grid.extent, { padding: MARGIN_PX, duration: motion(400) });
}

/** Duration of a movement: none for people who asked for less of it. */
export function motion(milliseconds) {
  return matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : milliseconds;
}

/** Buttons for zooming, and north, which is up in the grid of the city. */
export function zoomButtons(map, city) {
  const by = (levels) => () =>
    map.getView().animate({ zoom: map.getView().getZoom() + levels, duration: motion(200) });
  return make(
    "div.zoom",
    { role: "group", "aria-label": "Zoom" },
    make(
      "span.north",
      { title: "Grid north is up", role: "img", "aria-label": "Grid north is up" },
      icon(ICONS.north),
      make("b", {}, "N"),
    ),
    iconButton(ICONS.plus, "Closer", by(1)),
    iconButton(ICONS.minus, "Further away", by(-1)),
    iconButton(ICONS.whole, "The whole city", () => showAll(map, city)),
  );
}

/** Scale bar, and the coordinates under the pointer in both CRSs. */
export function footer(map, city) {
  const scale = make("span.scale", { role: "img" });
  const here = make("span.here", { "aria-hidden": "true" });
  const redraw = () => {
    const view = map.getView();
    const metres = getPointResolution(city.projection, view.getResolution(), view.getCenter(), "m");
    const bar = roundDown(metres * BAR_PX);
    scale.style.setProperty("--bar", `${bar / metres}px`);
    scale.textContent = length(bar);
    scale.setAttribute("aria-label", `Scale bar of ${length(bar)}`);
  };
  map.on("moveend", redraw);
  map.getView().on("change:resolution", redraw);
  map.on("pointermove", ({ coordinate }) => {
    const [lon, lat] = toLonLat(coordinate, city.projection);
    here.replaceChildren(
      make("span", {}, coordinates(coordinate)),
      make("span", {}, degrees(lon, lat)),
    );
  });
  const attribution = make("span.attribution", {}, city.attribution);
  const node = make("div.footer", {}, scale, here, attribution);
  map.getViewport().addEventListener("pointerleave", () => here.replaceChildren());
  redraw();
  return node;
}

/** Return 1, 2 or 5 times a power of ten, at most so much. */
function roundDown(value) {
  const ten = 10 ** Math.floor(Math.log10(value));
  return [5, 2, 1].find((digit) => digit * ten <= value) * ten;
}

/** Cells that have no products are hatched; their features tell why. */
export function missingCells(run) {
  const features = run.cells
    .filter((cell) => cell.status !== "done")
    .map((cell) => {
      const words = cell.reason || `this cell is ${cell.status}`;
      const tip = `${cell.name}: ${words}`;
      return new Feature({ geometry: fromExtent(cell.extent), tip });
    });
  return new VectorLayer({
    source: new VectorSource({ features }),
    zIndex: Z.cells,
    style: new Style({
      fill: new Fill({ color: hatching() }),
      stroke: new Stroke({ color: "#c2410c", width: 1.5 }),
    }),
  });
}

function hatching() {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = HATCH_PX;
  const context = canvas.getContext("2d");
  context.fillStyle = "rgba(255, 237, 213, 0.4)";
  context.fillRect(0, 0, HATCH_PX, HATCH_PX);
  context.strokeStyle = "rgba(194, 65, 12, 0.6)";
  context.lineWidth = 1.5;
  context.beginPath();
  for (const shift of [-HATCH_PX, 0, HATCH_PX]) {
    context.moveTo(shift, HATCH_PX);
    context.lineTo(shift + HATCH_PX, 0);
  }
  context.stroke();
  return context.createPattern(canvas, "repeat");
}

/** A text beside the pointer: why a cell is missing, or the name of what is there. */
export function tooltip(map, textOf) {
  const node = make("div.tip", { role: "status", hidden: true });
  map.getTargetElement().append(node);
  const hide = () => (node.hidden = true);
  map.on("pointermove", (event) => {
    if (event.dragging) return hide();
    const text = textOf(event);
    node.hidden = !text;
    if (!text) return undefined;
    node.textContent = text;
    const [x, y] = event.pixel;
    const [width] = map.getSize();
    node.style.transform = `translate(${Math.min(x + 14, width - node.offsetWidth - 8)}px, ${y + 16}px)`;
    return undefined;
  });
  map.getViewport().addEventListener("pointerleave", hide);
}
