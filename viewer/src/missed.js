/** Drawing an object that the map misses, as an outline or as a point. */

import Feature from "ol/Feature.js";
import GeoJSON from "ol/format/GeoJSON.js";
import Draw from "ol/interaction/Draw.js";
import VectorLayer from "ol/layer/Vector.js";
import VectorSource from "ol/source/Vector.js";
import CircleStyle from "ol/style/Circle.js";
import Fill from "ol/style/Fill.js";
import Stroke from "ol/style/Stroke.js";
import Style from "ol/style/Style.js";

import { button, choice, fill, make, select } from "./dom.js";
import { Z } from "./map.js";

const geojson = new GeoJSON();
const COLOR = "#ff2fb3";

const style = [
  new Style({ stroke: new Stroke({ color: "#fff", width: 5 }) }),
  new Style({
    stroke: new Stroke({ color: COLOR, width: 2.5, lineDash: [6, 4] }),
    fill: new Fill({ color: `${COLOR}22` }),
    image: new CircleStyle({
      radius: 6,
      fill: new Fill({ color: COLOR }),
      stroke: new Stroke({ color: "#fff", width: 2 }),
    }),
  }),
];

/** Missed objects of the run, and the form for a new one. */
export class Missed {
  constructor(app) {
    this.app = app;
    this.source = new VectorSource();
    this.kind = "Polygon";
    this.node = make("section.card.drawing", {
      "aria-label": "Draw a missed object",
      hidden: true,
    });
    app.map.addLayer(new VectorLayer({ source: this.source, zIndex: Z.drawn + 1, style }));
    app.state.watch(["reviewed", "run"], () => this.#showKnown());
  }

  get isDrawing() {
    return !this.node.hidden;
  }

  /** Begin to draw, or stop if it has begun. */
  toggle() {
    if (this.isDrawing) this.stop();
    else this.start();
  }

  start() {
    const { app } = this;
    if (app.review.whyNot) {
      app.messages.say(`Nothing can be drawn: ${app.review.whyNot}`);
      return;
    }
    app.unselect();
    this.node.hidden = false;
    this.#drawForm();
    this.#listen();
  }

  stop() {
    this.node.hidden = true;
    this.#unlisten();
    this.#showKnown();
    this.app.map.getTargetElement().focus();
  }

  #listen() {
    this.#unlisten();
    this.geometry = null;
    this.save.disabled = true;
    this.#showKnown();
    this.draw = new Draw({ source: this.source, type: this.kind, style });
    this.draw.on("drawend", ({ feature }) => {
      this.geometry = geojson.writeGeometryObject(feature.getGeometry());
      this.save.disabled = false;
      this.draw.setActive(false);
      this.save.focus();
    });
    this.app.map.addInteraction(this.draw);
  }

  #unlisten() {
    if (this.draw) this.app.map.removeInteraction(this.draw);
    this.draw = null;
  }

  #drawForm() {
    const { city } = this.app;
    const isPoint = () => this.kind === "Point";
    let [{ name }] = city.classes;
    const classes = city.classes.map((entry) => [entry.name, entry.name]);
    const area = make("input", { type: "number", min: 0.1, step: 0.1, value: 5, id: "missed-m2" });
    const areaField = make(
      "label.field",
      { hidden: !isPoint() },
      make("span", {}, "Its area in m²"),
      area,
    );
    const note = make("input", {
      type: "text",
      maxlength: 500,
      placeholder: "Note",
      "aria-label": "Note",
    });
    this.save = button(
      "Save",
      async () => {
        const m2 = isPoint() ? Number(area.value) : null;
        if (isPoint() && !(m2 > 0)) {
          this.app.messages.say("A point needs an area above 0 m².");
          return;
        }
        const row = { geometry: this.geometry, name, m2, note: note.value };
        if (await this.app.reviewing.addMissed(row)) this.stop();
      },
      { class: "primary" },
    );
    this.finish = button("Close the outline", () => this.draw.finishDrawing());
    this.finish.hidden = isPoint();
    const kinds = [
      ["Polygon", "Outline"],
      ["Point", "Point"],
    ].map(([kind, label]) =>
      choice("radio", label, {
        name: "missed-kind",
        checked: this.kind === kind,
        change: () => {
          this.kind = kind;
          areaField.hidden = !isPoint();
          this.finish.hidden = isPoint();
          this.#listen();
        },
      }),
    );
    fill(
      this.node,
      make("div.card-head", {}, make("h2", {}, "What does the map miss?")),
      make(
        "p.note",
        {},
        "Click along its edge; a double click closes the outline. A point is one click.",
      ),
      make("div.segments", { role: "radiogroup", "aria-label": "Drawn as" }, ...kinds),
      select("It is a", classes, name, (value) => (name = value)),
      areaField,
      note,
      make(
        "div.buttons",
        {},
        this.save,
        this.finish,
        button("Start again", () => this.#listen()),
        button("Cancel", () => this.stop(), { class: "quiet" }),
      ),
    );
  }

  #showKnown() {
    this.source.clear();
    for (const { geometry } of this.app.review.missed) {
      if (geometry) this.source.addFeature(new Feature(geojson.readGeometry(geometry)));
    }
  }
}
