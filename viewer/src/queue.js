/** The review queue: what is most likely wrong comes first. */

import { asObject } from "./city.js";
import { passes } from "./filters.js";
import { getJson } from "./server.js";

export const PAGE = 60;
/** Rows that are asked for at once, and listed at once. */

export class Queue {
  constructor(city, run) {
    Object.assign(this, { city, run });
    this.restart(null);
  }

  /** Begin again, with the queue of one class, or of all (null). */
  restart(classId) {
    this.classId = classId;
    this.rows = [];
    this.total = 0;
    this.isWhole = false;
    this.reading = null;
  }

  /** Read the next rows, if there are any; return whether there were. */
  async more() {
    if (this.isWhole) return false;
    if (!this.reading) {
      const reading = this.#read().finally(() => {
        if (this.reading === reading) this.reading = null;
      });
      this.reading = reading;
    }
    return this.reading;
  }

  async #read() {
    const { classId, rows: before } = this;
    let url = this.run.detections.queue;
    if (this.city.served) {
      url += `?offset=${before.length}&limit=${PAGE}${classId === null ? "" : `&class=${classId}`}`;
    }
    const { total, columns, rows } = await getJson(url);
    if (before !== this.rows) return true; // it has begun again meanwhile
    const known = new Set(before.map((row) => row.id));
    const found = rows.map((row) => this.asDetection(asObject(columns, row)));
    const fresh = found.filter((row) => !known.has(row.id));
    this.rows.push(...fresh);
    this.total = total;
    this.isWhole = !this.city.served || rows.length === 0 || this.rows.length >= total;
    return fresh.length > 0;
  }

  /** Turn a row into a detection, as the outlines are. */
  asDetection({ west, south, east, north, ...row }) {
    return {
      ...row,
      class: this.city.classOf.get(row.class_id)?.name,
      extent: [west, south, east, north],
      run: this.run.index,
    };
  }

  /** Rows that pass the filters, as far as they have been read. */
  shown(filters) {
    return this.rows.filter((row) => passes(filters, row));
  }
}
