/**
 * What people say about a run: verdicts, and objects that the map misses.
 *
 * With a server it writes them to the run's review.gpkg, one by one. Without one they stay in this
 * browser until they are downloaded as a file.
 */

import GeoJSON from "ol/format/GeoJSON.js";

import { getJson, postJson } from "./server.js";
import { storage } from "./storage.js";

const geojson = new GeoJSON();

export const VERDICTS = { right: "Right", wrong: "Wrong", unsure: "Unsure" };

/** Return the place where reviews of a run go; `find` reads a detection with its outline. */
export function reviewOf(city, run, find) {
  return city.served ? new ServedReview(run) : new LocalReview(city, run, find);
}

class Review {
  /** Latest row of verdicts by id. */
  latest = new Map();
  missed = [];

  /** Why nothing can be written; empty if it can. */
  whyNot = "";

  _accept(row) {
    this.latest.set(row.id, row);
  }
}

class ServedReview extends Review {
  /** Layer and number of the rows that this page has added, in order: undo takes back these. */
  #added = [];

  constructor(run) {
    super();
    this.run = run;
    this.whyNot = run.verdicts_problem;
  }

  async read() {
    const { verdicts, missed } = await getJson(`${this.run.path}review`);
    this.latest = new Map();
    for (const row of verdicts) if (row.verdict) this._accept(row);
    this.missed = missed;
  }

  async add(detection, { verdict, trueClass = "", note = "" }) {
    const body = { id: detection.id, verdict, true_class: trueClass, note };
    const row = await postJson(`${this.run.path}verdicts`, body);
    this._accept(row);
    this.#remember("verdicts", row);
  }

  async addMissed({ geometry, name, m2, note }) {
    const body = { geometry, class: name, note, ...(m2 === null ? {} : { m2 }) };
    const row = await postJson(`${this.run.path}missed`, body);
    this.missed.push(row);
    this.#remember("missed", row);
  }

  /** A repeated verdict has the row of the first one. */
  #remember(layer, { row }) {
    if (!this.#added.some((added) => added.layer === layer && added.row === row))
      this.#added.push({ layer, row });
  }

  async undo() {
    const last = this.#added.pop();
    if (!last) throw new Error("This page has added nothing that it could take back.");
    try {
      await postJson(`${this.run.path}undo`, last);
    } catch (error) {
      if (error.status !== 409) this.#added.push(last); // it may work the next time
      throw error;
    }
    await this.read();
    return last.layer;
  }
}

/** Rows in this browser's storage, in the order in which they were made. */
class LocalReview extends Review {
  constructor(city, run, find) {
    super();
    Object.assign(this, { city, run, find });
    // Of this run wherever its page lies, and not of another one whose folder has the same name.
    this.key = `capecam review ${run.about.run} ${run.about.model}`;
  }

  async read() {
    this.rows = JSON.parse(storage.getItem(this.key) ?? "[]");
    this.latest = new Map();
    for (const row of this.rows) if (row.layer === "verdicts") this._accept(row);
    this.missed = this.rows.filter((row) => row.layer === "missed");
  }

  async add(detection, { verdict, trueClass = "", note = "" }) {
    const whole = detection.geometry ? detection : await this.find(detection);
    if (!whole) throw new Error(`The outline of ${detection.id} cannot be read; reload the page.`);
    await this.#append({
      layer: "verdicts",
      id: detection.id,
      class: nameOf(this.city, detection),
      verdict,
      true_class: trueClass,
      note,
      geometry: geojson.writeGeometryObject(whole.geometry),
    });
  }

  async addMissed({ geometry, name, m2, note }) {
    await this.#append({ layer: "missed", class: name, verdict: "missed", m2, note, geometry });
  }

  async undo() {
    await this.read(); // another tab may have added rows
    const last = this.rows.at(-1);
    if (!last) throw new Error("There is nothing to undo.");
    await this.#store(this.rows.slice(0, -1));
    return last.layer;
  }

  async #append(row) {
    await this.read();
    const added = { ...row, ...this.run.about, checked_at: new Date().toISOString() };
    await this.#store([...this.rows, added]);
  }

  /** Keep these rows; if the browser has no room for them, the page keeps what it had. */
  async #store(rows) {
    storage.setItem(this.key, JSON.stringify(rows));
    await this.read();
  }

  /** All rows as GeoJSON that says what it is. */
  file() {
    const { crs, title } = this.city;
    return {
      type: "FeatureCollection",
      name: "capecam review",
      description:
        `Verdicts and missed objects of the run ${this.run.name} of ${title}, made in a browser ` +
        "without a server. capecam review OUT --add adds them to the run's review.gpkg. The " +
        "property layer says to which of its layers a row belongs. " +
        `Coordinates are in ${crs.name}, and not in longitude and latitude.`,
      crs: { type: "name", properties: { name: crs.code ?? crs.name } },
      proj4: crs.proj4,
      run: this.run.name,
      features: this.rows.map(({ geometry, ...properties }) => ({
        type: "Feature",
        properties,
        geometry,
      })),
    };
  }
}

function nameOf(city, detection) {
  return detection.class ?? city.classOf.get(detection.class_id)?.name ?? "";
}
