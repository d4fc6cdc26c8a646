/** The pixel grid of a run: north up, x = x0 + col * sx, y = y0 - row * sy. */

export const TILE = 256;
/** Edge of a tile of the lattice, in pixels of the screen at its own resolution. */

export class Grid {
  constructor({ origin, pixel, height, width, anchor }) {
    [this.x, this.y] = origin;
    [this.sx, this.sy] = pixel;
    this.height = height;
    this.width = width;
    /** Corner from which ids `<class_id>_<col>_<row>` count. */
    this.anchor = anchor ?? origin;
  }

  /** [west, south, east, north] */
  get extent() {
    return this.box(0, 0, this.height, this.width);
  }

  /** Number of halvings after which all of it fits into one tile. */
  get halvings() {
    return Math.max(0, Math.ceil(Math.log2(Math.max(this.height, this.width) / TILE)));
  }

  /** [west, south, east, north] of a window of pixels. */
  box(row, col, height, width) {
    return [
      this.x + col * this.sx,
      this.y - (row + height) * this.sy,
      this.x + (col + width) * this.sx,
      this.y - row * this.sy,
    ];
  }

  /** [col, row] of a place, with fractions. */
  pixel([x, y]) {
    return [(x - this.x) / this.sx, (this.y - y) / this.sy];
  }

  /** Box of the pixel that an id names, null if it is no such id. */
  boxOfId(id) {
    const parts = /^\d+_(-?\d+)_(-?\d+)$/.exec(id);
    if (!parts) return null;
    const [col, row] = [Number(parts[1]), Number(parts[2])];
    const [x, y] = [this.anchor[0] + col * this.sx, this.anchor[1] - row * this.sy];
    return [x, y - this.sy, x + this.sx, y];
  }
}

/** Return whether two boxes share more than an edge. */
export function overlap(a, b) {
  return a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
}
