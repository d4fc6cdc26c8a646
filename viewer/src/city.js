/** city.json as objects: the runs, their grids, layers and cells. */

import { register } from "ol/proj/proj4.js";
import { get as getProjection } from "ol/proj.js";
import proj4 from "proj4";

import { Cogs } from "./cogs.js";
import { Grid } from "./grid.js";
import { getJson } from "./server.js";

const PROJECTION = "CITY";
/** Name within the page; many CRSs have no code, and the same code has meant different axes. */

/** Read city.json; `unreadable` is called with the files that turn out not to be usable. */
export async function readCity(unreadable) {
  const city = await getJson("city.json");
  proj4.defs(PROJECTION, city.crs.proj4);
  register(proj4);
  city.projection = getProjection(PROJECTION);
  city.runs = city.runs.map((run, index) => readRun(run, index, unreadable));
  city.metresPerUnit = city.projection.getMetersPerUnit() ?? 1;
  city.projection.setExtent(city.runs[0].grid.extent);
  city.classOf = new Map(city.classes.map((entry) => [entry.id, entry]));
  city.wordOf = new Map(city.evidence.map((entry) => [entry.word, entry]));
  return city;
}

function readRun(run, index, unreadable) {
  const grid = new Grid(run.grid);
  const { columns, rows } = run.cells;
  const cells = rows.map((row) => {
    const cell = asObject(columns, row);
    return { ...cell, extent: grid.box(cell.row, cell.col, cell.height, cell.width) };
  });
  // Some rasters are in some cells only; their names as a set.
  const layers = run.layers.map((layer) => ({
    ...layer,
    having: layer.cells && new Set(layer.cells),
  }));
  return { ...run, index, grid, cells, layers, cogs: new Cogs(grid, unreadable) };
}

/** Return a row of a table as an object. */
export function asObject(columns, row) {
  return Object.fromEntries(columns.map((column, n) => [column, row[n]]));
}
