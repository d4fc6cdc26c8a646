/** Zones that the run was summarised by, if there are any: outlines with names. */

import Feature from "ol/Feature.js";
import VectorLayer from "ol/layer/Vector.js";
import VectorSource from "ol/source/Vector.js";
import Fill from "ol/style/Fill.js";
import Stroke from "ol/style/Stroke.js";
import Style from "ol/style/Style.js";
import Text from "ol/style/Text.js";

import { asDetection } from "./detections.js";
import { FlatGeobuf } from "./flatgeobuf.js";
import { Z } from "./map.js";

const LABELLED_M = 40;
/** Pixels of the screen up to which zones are large enough for their names. */

/** A layer that is read when `layer.get("load")()` is first called. */
export function zonesLayer(run, messages) {
  const source = new VectorSource();
  const layer = new VectorLayer({
    source,
    zIndex: Z.zones,
    declutter: true,
    style: (feature, resolution) => [
      new Style({ stroke: new Stroke({ color: "rgba(255, 255, 255, 0.8)", width: 3.5 }) }),
      new Style({
        stroke: new Stroke({ color: "#243447", width: 1.5, lineDash: [7, 5] }),
        fill: new Fill({ color: "rgba(0, 0, 0, 0)" }),
        text: resolution < LABELLED_M ? label(feature.get("name")) : undefined,
      }),
    ],
  });
  let reading = null;
  const read = async () => {
    const found = await new FlatGeobuf(run.detections.zones).search(run.grid.extent);
    source.addFeatures(
      found.map((json) => {
        const { geometry, extent: _, ...columns } = asDetection(json);
        return new Feature({ geometry, name: nameOf(columns) });
      }),
    );
  };
  const failed = (error) => {
    reading = null; // the next look tries again
    messages.fail(error);
  };
  layer.set("load", () => (reading ??= read().catch(failed)));
  return layer;
}

/** Zone layers come with all sorts of columns: one that is called like a name, or the first text. */
function nameOf(columns) {
  const keys = Object.keys(columns).filter((key) => typeof columns[key] === "string");
  const key = keys.find((name) => /^(name|zone|suburb|ward|.*_?name)$/i.test(name)) ?? keys[0];
  return key ? columns[key] : "";
}

function label(text) {
  return new Text({
    text,
    font: "600 12px system-ui, sans-serif",
    fill: new Fill({ color: "#16202b" }),
    stroke: new Stroke({ color: "rgba(255, 255, 255, 0.9)", width: 3.5 }),
    overflow: true,
  });
}
