/** What people do on the page, whatever they do it with: mouse, keys, links. */

import Feature from "ol/Feature.js";
import { containsCoordinate, getCenter } from "ol/extent.js";
import GeoJSON from "ol/format/GeoJSON.js";
import Point from "ol/geom/Point.js";
import { fromExtent } from "ol/geom/Polygon.js";
import { toLonLat } from "ol/proj.js";

import { selectionLayer } from "./detections.js";
import { Explanations } from "./explain.js";
import { noFilters } from "./filters.js";
import { Layers } from "./layers.js";
import { footer, makeMap, motion, showAll, tooltip, zoomButtons } from "./map.js";
import { count } from "./numbers.js";
import { Queue } from "./queue.js";
import { reviewOf } from "./review.js";
import { Reviewing } from "./reviewing.js";
import { getJson } from "./server.js";
import { State } from "./state.js";

const geojson = new GeoJSON();
const AROUND_OBJECT = 8;
/** A selected object takes an eighth of the screen, */
const MIN_METRES = 0.05;
/** but a pixel of the screen is not less than this. */

export class App {
  constructor(city, messages, target) {
    this.city = city;
    this.messages = messages;
    this.placeClass = "";
    const [first] = city.runs;
    this.state = new State({
      run: 0,
      visible: new Set(first.layers.filter((layer) => layer.visible).map((layer) => layer.id)),
      opacity: new Map(first.layers.map((layer) => [layer.id, layer.opacity])),
      shows: new Set(["detections", "zones"]),
      filters: noFilters(city),
      compare: null,
      swipe: 0.5,
      selected: null,
      place: null,
      explanation: null,
      isCounted: false,
      totals: null,
      queued: 0,
      reviewed: 0,
    });
    this.queues = city.runs.map((run) => new Queue(city, run));
    this.reviews = city.runs.map((run) =>
      reviewOf(city, run, ({ id, extent }) =>
        this.layers.of(run.index).detections.find(id, extent),
      ),
    );
    this.map = makeMap(city, target);
    this.layers = new Layers(city, this.map, this.state, messages);
    this.reviewing = new Reviewing(this);
    this.explanations = new Explanations(city, this.map, this.state);
    this.selection = selectionLayer();
    this.map.addLayer(this.selection);
    target.append(zoomButtons(this.map, city), footer(this.map, city));
    tooltip(this.map, (event) => this.#point(event));
    this.map.on("singleclick", (event) => this.#click(event));
    this.state.watch(["run"], () => this.#openRun());
    this.state.watch(["filters"], () => this.reviewing.requeue());
    this.state.watch(["selected", "place", "explanation"], () => this.#showSelection());
  }

  get run() {
    return this.city.runs[this.state.get("run")];
  }

  get queue() {
    return this.queues[this.run.index];
  }

  get review() {
    return this.reviews[this.run.index];
  }

  // Layers

  visible() {
    return this.state.get("visible");
  }

  setVisible(id, isVisible) {
    const visible = new Set(this.visible());
    if (isVisible) visible.add(id);
    else visible.delete(id);
    this.state.set({ visible });
  }

  colorOfClass(name) {
    return this.city.classes.find((entry) => entry.name === name)?.color ?? "#888";
  }

  async #openRun() {
    this.unselect();
    const { detections } = this.layers.current;
    const { run, review } = this;
    detections.prepared
      .then(() => this.run === run && this.state.set({ totals: detections.counts.totals() }))
      .catch(() => undefined); // said where it happened
    try {
      await review.read();
      this.reviewing.marked();
    } catch (error) {
      this.messages.fail(error);
    }
  }

  // Moving

  isInCity(place) {
    return containsCoordinate(this.city.runs[0].grid.extent, place);
  }

  lonLat(place) {
    return toLonLat(place, this.city.projection);
  }

  /** Move to a place; metres a pixel, if it should not stay as it is. */
  goTo(center, metres = null) {
    const view = this.map.getView();
    const { metresPerUnit: perUnit } = this.city;
    const resolution = metres === null ? view.getResolution() : metres / perUnit;
    const from = view.getCenter();
    const isNear = Math.hypot(center[0] - from[0], center[1] - from[1]) < 2000 * resolution;
    view.cancelAnimations();
    view.animate({ center, resolution, duration: isNear ? motion(300) : 0 });
  }

  showAll() {
    showAll(this.map, this.city);
  }

  #moveTo(detection) {
    const { metresPerUnit: perUnit } = this.city;
    const view = this.map.getView();
    const [west, south, east, north] = detection.extent;
    const size = Math.min(...this.map.getSize());
    const wanted = (AROUND_OBJECT * perUnit * Math.max(east - west, north - south)) / size;
    const now = view.getResolution() * perUnit;
    const metres = Math.max(MIN_METRES, wanted);
    const isFine = now <= 2 * metres && now >= metres / 3;
    this.goTo(getCenter(detection.extent), isFine ? null : metres);
  }

  // Selecting

  /** Select a detection; a verdict on one from the queue goes on to the next. */
  select(detection, { move = false, isFromQueue = false } = {}) {
    this.reviewing.isStepping = isFromQueue;
    if (detection.id !== this.state.get("selected")?.id) this.explanations.clear();
    if (this.missed?.isDrawing) this.missed.stop();
    this.state.set({ selected: detection, place: null });
    if (move) this.#moveTo(detection);
    if (!detection.geometry) this.#complete(detection);
  }

  /** A row of the queue knows less than the outlines; the rest follows. */
  async #complete(detection) {
    try {
      const whole = await this.layers.current.detections.find(detection.id, detection.extent);
      if (whole && this.state.get("selected") === detection) {
        this.state.set({ selected: { ...detection, ...whole } });
      }
    } catch (error) {
      this.messages.fail(error);
    }
  }

  /** Select by id; return whether it exists. */
  async selectById(id, { move }) {
    try {
      const detection = await this.#find(id);
      if (detection) this.select(detection, { move });
      else this.messages.say(`There is no detection ${id} in this run.`);
      return detection !== null;
    } catch (error) {
      this.messages.say(error.message);
      return false;
    }
  }

  async #find(id) {
    const { run, queue } = this;
    const known = queue.rows.find((row) => row.id === id);
    if (known) return known;
    if (this.city.served) {
      return queue.asDetection(await getJson(`${run.path}find?id=${encodeURIComponent(id)}`));
    }
    const box = run.grid.boxOfId(id);
    return box && this.layers.current.detections.find(id, box);
  }

  selectPlace(place) {
    this.explanations.clear();
    this.placeClass = "";
    this.state.set({ selected: null, place });
  }

  unselect() {
    this.explanations.clear();
    this.state.set({ selected: null, place: null });
  }

  escape() {
    if (this.missed.isDrawing) this.missed.stop();
    else this.unselect();
  }

  #showSelection() {
    const detection = this.state.get("selected");
    const place = this.state.get("place");
    const outline = this.state.get("explanation")?.answer?.outline;
    const source = this.selection.getSource();
    source.clear(true);
    if (detection)
      source.addFeature(new Feature(detection.geometry ?? fromExtent(detection.extent)));
    else if (outline) source.addFeature(new Feature(geojson.readGeometry(outline)));
    else if (place) source.addFeature(new Feature(new Point(place)));
  }

  #click({ pixel, coordinate }) {
    if (this.missed.isDrawing) return;
    const { detection, place } = this.layers.at(pixel, coordinate);
    if (detection) {
      if (detection.run !== this.run.index) this.state.set({ run: detection.run });
      this.select(detection);
    } else if (place) {
      this.map.getView().fit(place.box, { duration: motion(300) });
    } else if (this.state.get("selected") || this.state.get("place")) {
      this.unselect();
    } else if (this.isInCity(coordinate)) {
      this.selectPlace(coordinate);
    }
  }

  /** Text for the pointer at a pixel, and its shape. */
  #point({ pixel, coordinate }) {
    const { detection, place, tip } = this.layers.at(pixel, coordinate);
    this.map.getTargetElement().style.cursor = detection || place ? "pointer" : "";
    if (detection) return detection.class;
    return place ? `${count(place.total)} detections` : (tip ?? "");
  }

  copyLink() {
    const said = () => this.messages.say("The link is in the clipboard.");
    const failed = () => this.messages.say("The link is in the address bar.");
    if (navigator.clipboard) navigator.clipboard.writeText(location.href).then(said, failed);
    else failed();
  }

  // Explaining

  explain() {
    if (this.state.get("explanation")?.isBusy) return;
    const [detection, place] = [this.state.get("selected"), this.state.get("place")];
    if (detection) this.explanations.ask(this.run, { id: detection.id });
    else if (place) {
      const [x, y] = place;
      const classId = this.placeClass === "" ? {} : { class_id: Number(this.placeClass) };
      this.explanations.ask(this.run, { x, y, ...classId });
    }
  }
}
