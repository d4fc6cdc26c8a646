/** Going through the review queue, and saying what is right and wrong. */

import { count } from "./numbers.js";

const MAX_READS = 20;
/** Pages of the queue that are read in search of a row that passes the filters. */

export class Reviewing {
  /** A verdict on a detection from the queue goes on to the next. */
  isStepping = false;

  constructor(app) {
    this.app = app;
  }

  /** Verdicts have changed: outlines carry their signs. */
  marked() {
    const { detections } = this.app.layers.current;
    const { latest } = this.app.review;
    detections.verdicts = new Map([...latest].map(([id, row]) => [id, row.verdict]));
    detections.redraw();
    this.app.state.set({ reviewed: this.app.state.get("reviewed") + 1 });
  }

  /** Read more of the queue; return whether there was more. */
  async more() {
    try {
      const grew = await this.app.queue.more();
      this.app.state.set({ queued: this.app.state.get("queued") + 1 });
      return grew;
    } catch (error) {
      this.app.messages.fail(error);
      return false;
    }
  }

  /** Begin the queue again if the filters ask for another one. */
  requeue() {
    const { classes } = this.app.state.get("filters");
    const classId = classes.size === 1 ? [...classes][0] : null;
    for (const queue of this.app.queues) if (queue.classId !== classId) queue.restart(classId);
    if (this.app.isQueueOpen && !this.app.queue.rows.length) this.more();
  }

  /** Select the row that is so many rows further on. */
  async step(by) {
    const at = (rows) => rows.findIndex((row) => row.id === this.app.state.get("selected")?.id);
    const filters = () => this.app.state.get("filters");
    let rows = this.app.queue.shown(filters());
    for (let n = 0; n < MAX_READS && at(rows) + by >= rows.length && (await this.more()); n++) {
      rows = this.app.queue.shown(filters());
    }
    const now = at(rows);
    const next = now < 0 ? rows[0] : rows[now + by];
    if (next) this.app.select(next, { move: true, isFromQueue: true });
    else this.app.messages.say(by > 0 ? this.#end() : "This is the head of the queue.");
  }

  #end() {
    const { isWhole, rows } = this.app.queue;
    if (isWhole) return "This is the end of the queue.";
    return `None of the first ${count(rows.length)} beyond this passes the filters; J reads on.`;
  }

  /** Give a verdict on the selected object, and go on if it came from the queue. */
  async judge({ verdict, trueClass = "" }) {
    const detection = this.app.state.get("selected");
    if (!detection) return;
    if (this.app.review.whyNot) {
      this.app.messages.say(`No verdicts: ${this.app.review.whyNot}`);
      return;
    }
    const note = document.getElementById("note")?.value ?? "";
    try {
      await this.app.review.add(detection, { verdict, trueClass, note });
      this.marked();
      if (this.isStepping && this.app.state.get("selected")?.id === detection.id)
        await this.step(1);
    } catch (error) {
      this.app.messages.fail(error);
    }
  }

  /** Say which class it should be, by its place in the list; its own is right. */
  judgeClass(n) {
    const [entry, detection] = [this.app.city.classes[n], this.app.state.get("selected")];
    if (!entry || !detection) return;
    const isSame = entry.id === detection.class_id;
    this.judge(isSame ? { verdict: "right" } : { verdict: "wrong", trueClass: entry.name });
  }

  /** Add an object that the map misses; return whether it was written. */
  async addMissed(row) {
    try {
      await this.app.review.addMissed(row);
      this.marked();
      return true;
    } catch (error) {
      this.app.messages.fail(error);
      return false;
    }
  }

  /** Take back the last verdict or drawing. */
  async undo() {
    try {
      const layer = await this.app.review.undo();
      this.marked();
      this.app.messages.say(
        layer === "missed" ? "The drawing is taken back." : "The verdict is taken back.",
      );
    } catch (error) {
      this.app.messages.say(error.message);
    }
  }

  /** Save what was reviewed without a server. */
  download() {
    const text = JSON.stringify(this.app.review.file(), null, 1);
    const url = URL.createObjectURL(new Blob([text], { type: "application/geo+json" }));
    const link = document.createElement("a");
    link.href = url;
    link.download = `review-${this.app.run.name.replace(/[^\w-]+/g, "_")}.geojson`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }
}
