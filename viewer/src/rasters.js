/** Layers of pixels: COGs of the cells, coloured here, and pictures that the server draws. */

import TileLayer from "ol/layer/Tile.js";
import ImageTile from "ol/source/ImageTile.js";
import TileGrid from "ol/tilegrid/TileGrid.js";

import { addressOf } from "./files.js";
import { TILE, overlap } from "./grid.js";

/**
 * Tiles of TILE pixels whose resolutions are the grid's pixel, doubled again and again, from
 * `coarsest` to `finest` times.
 */
function lattice(grid, coarsest, finest = 0) {
  return new TileGrid({
    origin: [grid.x, grid.y],
    extent: grid.extent,
    resolutions: Array.from(
      { length: coarsest - finest + 1 },
      (_, n) => grid.sx * 2 ** (coarsest - n),
    ),
    tileSize: TILE,
  });
}

/** Return the OpenLayers layer of a layer of a run. */
export function rasterLayer(layer, run, projection) {
  const makeSource = layer.kind === "tiles" ? pictures : values;
  const source = makeSource(layer, run, projection);
  return new TileLayer({ source, extent: run.grid.extent });
}

function pictures(layer, { grid }, projection) {
  const url = (z, col, row) =>
    addressOf(
      layer.url
        .replace("{z}", layer.max_z - z)
        .replace("{col}", col)
        .replace("{row}", row),
    );
  return new ImageTile({
    url,
    projection,
    tileGrid: lattice(grid, layer.max_z, layer.min_z),
    wrapX: false,
    transition: 0,
  });
}

function values(layer, run, projection) {
  const colours = Uint32Array.from(layer.palette, abgr);
  const levels = layer.raw ? levelsOf(layer.raw, layer.nodata) : (data) => data;
  const { halvings } = run.grid;
  return new ImageTile({
    loader: (z, col, row, { signal }) =>
      drawTile({ layer, run, colours, levels }, { scale: 2 ** (halvings - z), col, row }, signal),
    projection,
    tileGrid: lattice(run.grid, halvings),
    interpolate: false,
    wrapX: false,
    transition: 0,
  });
}

/** Return a function from raw values to the levels of the palette, which ends at `top`. */
function levelsOf({ top, by_root: byRoot }, nodata) {
  const level = (value) => {
    if (Number.isNaN(value)) return nodata;
    const share = top ? Math.min(Math.max(value / top, 0), 1) : 0;
    return Math.round((nodata - 1) * (byRoot ? Math.sqrt(share) : share));
  };
  return (data) => Uint8Array.from(data, level);
}

/** "#rrggbbaa" as the 32 bits of a canvas, which are little-endian on all browsers there are. */
function abgr(text) {
  const [r, g, b, a] = [1, 3, 5, 7].map((n) => Number.parseInt(text.slice(n, n + 2) || "ff", 16));
  return ((a << 24) | (b << 16) | (g << 8) | r) >>> 0;
}

/** Return a canvas with a tile of the lattice; `scale` is the width of its pixels in grid pixels. */
async function drawTile({ layer, run, colours, levels }, tile, signal) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = TILE;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(TILE, TILE);
  const pixels = new Uint32Array(picture.data.buffer);
  const draw = async (url) => {
    const cog = await run.cogs.open(url, signal);
    if (!cog) return;
    const reads = [];
    for (const part of parts(cog, tile)) {
      const { level, blockRow, blockCol } = part;
      const block = run.cogs.block(cog, level, blockRow, blockCol, layer.band, signal);
      reads.push(
        block.then(({ data, ...place }) =>
          paint(pixels, colours, layer.nodata, part, { data: levels(data), ...place }),
        ),
      );
    }
    await Promise.all(reads);
  };
  await Promise.all(files(layer, run, tile).map(draw));
  context.putImageData(picture, 0, 0);
  return canvas;
}

/** Overview pixels may be so much wider than the screen's before the cells are read instead. */
const STRETCH = 1.6;

/** Return the files that a tile is made of. */
function files(layer, { grid, cells }, { scale, col, row }) {
  if (layer.overview && scale * STRETCH >= layer.overview_factor * layer.block) {
    return [layer.overview];
  }
  const size = TILE * scale;
  const margin = layer.block; // blocks start up to one block after the cell, and overhang it
  const box = grid.box(
    row * size - margin,
    col * size - margin,
    size + 2 * margin,
    size + 2 * margin,
  );
  return cells
    .filter((cell) => cell.status === "done" && overlap(cell.extent, box))
    .filter((cell) => !layer.having || layer.having.has(cell.name))
    .map((cell) => layer.cell_file.replace("{cell}", encodeURIComponent(cell.name)));
}

/**
 * Return the blocks of a raster that touch a tile. For each, and for each row and column of the
 * tile, the pixel of the level that lies at its centre: -1 outside the raster.
 */
function parts(cog, { scale, col, row }) {
  const level = cog.level(scale);
  const wide = cog.step * level.factor;
  const [full] = cog.levels;
  const columns = positions(col * TILE * scale - cog.col, scale, wide, full.width * cog.step);
  const rows = positions(row * TILE * scale - cog.row, scale, wide, full.height * cog.step);
  clamp(columns, level.width);
  clamp(rows, level.height);
  const blockCols = touched(columns, level.block[1]);
  return touched(rows, level.block[0]).flatMap((blockRow) =>
    blockCols.map((blockCol) => ({ level, blockRow, blockCol, rows, columns })),
  );
}

function positions(start, scale, wide, length) {
  return Int32Array.from({ length: TILE }, (_, n) => {
    const at = start + (n + 0.5) * scale;
    return at < 0 || at >= length ? -1 : Math.floor(at / wide);
  });
}

/** Of an odd number of pixels, overviews leave the last one out: the one before stands for it. */
function clamp(positions, count) {
  for (let n = 0; n < positions.length; n++) positions[n] = Math.min(positions[n], count - 1);
}

function touched(positions, block) {
  const found = new Set();
  for (const at of positions) if (at >= 0) found.add(Math.floor(at / block));
  return [...found];
}

/** Colour the pixels of a tile that lie in a block; nodata leaves what other cells have drawn. */
function paint(pixels, colours, nodata, { rows, columns }, { data, top, left, height, width }) {
  for (let i = 0; i < TILE; i++) {
    const y = rows[i] - top;
    if (y < 0 || y >= height) continue;
    for (let j = 0; j < TILE; j++) {
      const x = columns[j] - left;
      if (x < 0 || x >= width) continue;
      const value = data[y * width + x];
      if (value !== nodata) pixels[i * TILE + j] = colours[value];
    }
  }
}
