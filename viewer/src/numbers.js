/** Numbers for people. */

const NONE = "–";

export function count(value) {
  return value.toLocaleString("en");
}

/** 0.123 as 12 %. */
export function percent(value) {
  if (!isNumber(value)) return NONE;
  if (value > 0 && value < 0.01) return "< 1 %";
  return `${Math.round(100 * value)} %`;
}

export function squareMetres(value) {
  if (!isNumber(value)) return NONE;
  return `${value < 10 ? value.toFixed(1) : count(Math.round(value))} m²`;
}

/** Metres, or kilometres. */
export function length(metres) {
  return metres >= 1000 ? `${count(metres / 1000)} km` : `${Number(metres.toPrecision(3))} m`;
}

/** Coordinates in the CRS of the city. */
export function coordinates([x, y]) {
  const digits = Math.abs(x) <= 360 && Math.abs(y) <= 90 ? 6 : 1;
  return `${x.toFixed(digits)}, ${y.toFixed(digits)}`;
}

/** "18.42410° E, 33.92490° S" */
export function degrees(lon, lat) {
  const part = (value, names) => `${Math.abs(value).toFixed(5)}° ${names[value < 0 ? 1 : 0]}`;
  return `${part(lon, "EW")}, ${part(lat, "NS")}`;
}

/** Any number of an explanation: a share, or metres where its name says so. */
export function measure(name, value) {
  if (!isNumber(value)) return NONE;
  if (name.endsWith("_m")) return `${value.toFixed(1)} m`;
  if (name.endsWith("_m2")) return squareMetres(value);
  return Math.abs(value) <= 1.0001 ? percent(value) : String(Number(value.toPrecision(3)));
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}
