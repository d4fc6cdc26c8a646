/** Features of a FlatGeobuf by bounding box, through its spatial index, by range requests. */

import { fromFeature } from "flatgeobuf/lib/mjs/geojson/feature.js";
import { HttpReader } from "flatgeobuf/lib/mjs/http-reader.js";

import { ask } from "./server.js";

/** Return the bytes of a range; a server that sends whole files instead is of no use. */
async function range(url, begin, length) {
  const headers = { Range: `bytes=${begin}-${begin + length - 1}` };
  const response = await ask(url, { headers });
  if (response.status !== 206) throw new Error(`${url}: no range, but status ${response.status}`);
  return response.arrayBuffer();
}

export class FlatGeobuf {
  #reader = null;
  #last = Promise.resolve();

  constructor(url) {
    this.url = url;
  }

  /** Return GeoJSON features whose bounding boxes touch a box. One search runs at a time. */
  search(box, stillWanted = () => true) {
    const searched = this.#last.then(() => (stillWanted() ? this.#search(box) : []));
    this.#last = searched.catch(() => undefined);
    return searched;
  }

  async #search([minX, minY, maxX, maxY]) {
    this.#reader ??= await HttpReader.openSource({
      getRange: (begin, length) => range(this.url, begin, length),
    });
    const found = [];
    for await (const { id, feature } of this.#reader.selectBbox({ minX, minY, maxX, maxY })) {
      found.push(fromFeature(id, feature, this.#reader.header));
    }
    return found;
  }
}
