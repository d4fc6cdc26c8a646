/**
 * Cloud Optimized GeoTIFFs, block by block, by range requests.
 *
 * Products of capecam are ZSTD, which geotiff.js would decode in WebAssembly; a strict content
 * security policy forbids that, so a decoder in plain JavaScript takes its place.
 */

import { decompress } from "fzstd";
import { BaseDecoder, addDecoder, fromArrayBuffer, fromUrl } from "geotiff";

import { bytesOf } from "./files.js";

const ZSTD = 50000;
const OPEN_FILES = 48;
/** Each holds up to 16 ranges of 64 kB: 48 MB in all. */
const CACHED_BYTES = 64 << 20;
/** Decoded blocks: 256 of 512 x 512 px, several screens. */
const AT_ONCE = 6;
/** As many as a browser opens connections to one host. */

class ZstdDecoder extends BaseDecoder {
  decodeBlock(buffer) {
    const bytes = decompress(new Uint8Array(buffer));
    return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  }
}
addDecoder([ZSTD], () => Promise.resolve(ZstdDecoder));

/** A cache that forgets what was not used for longest. */
class Recent {
  #entries = new Map();
  #size = 0;

  constructor(limit) {
    this.limit = limit;
  }

  get(key) {
    const entry = this.#entries.get(key);
    if (!entry) return undefined;
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    return entry.value;
  }

  set(key, value, size) {
    this.delete(key);
    this.#entries.set(key, { value, size });
    this.#size += size;
    for (const oldest of this.#entries.keys()) {
      if (this.#size <= this.limit || oldest === key) break;
      this.delete(oldest);
    }
  }

  delete(key) {
    const entry = this.#entries.get(key);
    if (!entry) return;
    this.#size -= entry.size;
    this.#entries.delete(key);
  }
}

/** Reading, a few at once, the newest first: it belongs to what is on the screen now. */
class Reads {
  #waiting = [];
  #running = 0;

  /**
   * Start to read something, or join those who wait for it.
   *
   * @param {Recent} cache where the promise stays
   * @param {object} job key, size in the cache, task
   * @param {AbortSignal} signal a job that waits is dropped when all who asked have given up
   */
  start(cache, { key, size, task }, signal) {
    const known = cache.get(key);
    if (known) {
      known.signals?.push(signal);
      return known.promise;
    }
    const entry = { signals: [signal], forget: () => cache.delete(key), task };
    entry.promise = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
    cache.set(key, entry, size);
    this.#waiting.push(entry);
    this.#next();
    return entry.promise;
  }

  async #next() {
    if (this.#running >= AT_ONCE) return;
    const job = this.#waiting.pop();
    if (!job) return;
    if (job.signals.every((signal) => signal?.aborted)) {
      job.forget();
      job.reject(job.signals[0].reason);
      this.#next();
      return;
    }
    this.#running += 1;
    job.signals = null; // it waits no more
    try {
      job.resolve(await job.task());
    } catch (error) {
      job.forget();
      job.reject(error);
    } finally {
      this.#running -= 1;
      this.#next();
    }
  }
}

/**
 * A raster in pixels of the run's grid.
 *
 * `col`, `row`: its corner; `step`: grid pixels that a pixel is wide; `levels`: images, the finest
 * first, each with the `factor` by which its pixels are wider.
 */
class Cog {
  static async open(url, grid) {
    const bytes = bytesOf(url);
    const file = bytes
      ? await fromArrayBuffer(bytes.buffer)
      : await fromUrl(url, { blockSize: 1 << 16, cacheSize: 16 });
    const count = await file.getImageCount();
    const images = await Promise.all(Array.from({ length: count }, (_, n) => file.getImage(n)));
    const full = images[0];
    const [x, y] = full.getOrigin();
    const cog = new Cog();
    cog.url = url;
    cog.step = Math.round(full.getResolution()[0] / grid.sx);
    [cog.col, cog.row] = grid.pixel([x, y]).map(Math.round);
    cog.levels = images
      .filter((image) => image.getSamplesPerPixel() === full.getSamplesPerPixel())
      .map((image) => ({
        image,
        factor: 2 ** Math.round(Math.log2(full.getWidth() / image.getWidth())),
        height: image.getHeight(),
        width: image.getWidth(),
        block: [image.getTileHeight(), image.getTileWidth()],
      }))
      .sort((a, b) => a.factor - b.factor);
    return cog;
  }

  /** Return the coarsest level whose pixels are not wider than so many grid pixels. */
  level(scale) {
    return this.levels.findLast((level) => level.factor * this.step <= scale) ?? this.levels[0];
  }
}

/** All rasters of a run. */
export class Cogs {
  #files = new Recent(OPEN_FILES);
  #blocks = new Recent(CACHED_BYTES);
  #reads = new Reads();

  /**
   * @param {import("./grid.js").Grid} grid
   * @param {(url: string, error: Error) => void} failed called for files that cannot be read
   */
  constructor(grid, failed) {
    this.grid = grid;
    this.failed = failed;
  }

  /** Return an open raster; null if it cannot be read. */
  open(url, signal) {
    const task = async () => {
      try {
        return await Cog.open(url, this.grid);
      } catch (error) {
        this.failed(url, error);
        this.#files.delete(url); // the next tile tries again
        return null;
      }
    };
    return this.#reads.start(this.#files, { key: url, size: 1, task }, signal);
  }

  /**
   * Return the values of a block: `data` (height x width), `top` and `left` in pixels of its level.
   */
  block(cog, level, blockRow, blockCol, band, signal) {
    const key = `${cog.url} ${level.factor} ${blockRow} ${blockCol} ${band}`;
    const [top, left] = [blockRow * level.block[0], blockCol * level.block[1]];
    const bottom = Math.min(top + level.block[0], level.height);
    const right = Math.min(left + level.block[1], level.width);
    const task = async () => {
      const window = [left, top, right, bottom];
      try {
        const [data] = await level.image.readRasters({ window, samples: [band] });
        return { data, top, left, height: bottom - top, width: right - left };
      } catch (error) {
        this.failed(cog.url, error);
        throw error;
      }
    };
    const size = (bottom - top) * (right - left) * level.image.getSampleByteSize(band);
    return this.#reads.start(this.#blocks, { key, size, task }, signal);
  }
}
