/** One field for an id or a place. */

import { fromLonLat } from "ol/proj.js";

import { make } from "./dom.js";

const CLOSE_M = 0.1;
/** Metres a pixel: a roof fills a third of the screen. */

/** Return [x, y] of a text such as "18.42, -33.92" in lon, lat or in the CRS; null if it is none. */
export function placeOf(text, city) {
  const parts = /^\s*(-?[\d.]+)\s*[,;\s]\s*(-?[\d.]+)\s*$/.exec(text);
  if (!parts) return null;
  const [a, b] = [Number(parts[1]), Number(parts[2])];
  if (!Number.isFinite(a) || !Number.isFinite(b)) return null;
  const isLonLat = Math.abs(a) <= 180 && Math.abs(b) <= 90;
  return isLonLat ? fromLonLat([a, b], city.projection) : [a, b];
}

export function searchField(app) {
  const input = make("input", {
    type: "search",
    id: "search",
    placeholder: "Id, or lon, lat",
    autocomplete: "off",
    spellcheck: "false",
    "aria-label": "Search for an id, or go to longitude, latitude",
  });
  const search = async (event) => {
    event.preventDefault();
    const text = input.value.trim();
    if (!text) return;
    const place = placeOf(text, app.city);
    if (!place) {
      if (await app.selectById(text, { move: true })) input.blur();
      return;
    }
    if (!place.every(Number.isFinite) || !app.isInCity(place)) {
      app.messages.say("This place is outside of the city. The order is longitude, latitude.");
      return;
    }
    app.goTo(place, CLOSE_M);
    app.selectPlace(place);
    input.blur();
  };
  return make("form.search", { role: "search", on: { submit: search } }, input);
}
