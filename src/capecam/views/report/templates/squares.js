/* Counts by square: one path per shade, a legend, and the texts of a square. */
class Squares {
  static MIN_PX = 9; /* minimum size of a square on the screen; larger squares are drawn instead */
  static SHADES = 6; /* --s0 to --s5 */
  static QUANTILES = [0.3, 0.55, 0.75, 0.9, 0.97]; /* of the distinct amounts; limits of the shades */
  static GAP = 0.04; /* between squares, relative to their size */

  constructor(levels, corner, names, filter) {
    Object.assign(this, { levels, corner, names, filter, width: 2 + 2 * names.length });
    this.finest = levels.length ? levels[levels.length - 1].size : 50;
  }

  /* Index of the class that is shown, -1 for all. */
  get kind() {
    return Number(this.filter.chosen) - 1;
  }

  /* The level with the smallest visible squares, at a scale in metres per pixel. */
  fitting(scale) {
    return (
      this.levels.filter((level) => level.size / scale >= Squares.MIN_PX).at(-1) || this.levels[0]
    );
  }

  draw(scale) {
    const level = this.fitting(scale),
      { kind } = this,
      measure = $("map-measure").value;
    const state = `${level && level.size}|${kind}|${measure}`;
    if (state === this.drawn) return;
    this.drawn = state;
    this.level = level;
    this.index = new Map();
    const found = level ? this.amounts(kind, Number(measure)) : [];
    $("map-squares").replaceChildren();
    $("map-legend").replaceChildren();
    if (found.length) this.paint(found, measure === "0");
    else $("map-summary").textContent = "Nothing was found.";
  }

  /* [column, row, amount] of every square that is not empty. */
  amounts(kind, measure) {
    const { squares } = this.level,
      found = [];
    const kinds = kind < 0 ? this.names.keys() : [kind];
    const columns = [...kinds].map((c) => 2 + 2 * c + measure);
    for (let at = 0; at < squares.length; at += this.width) {
      const amount = columns.reduce((sum, column) => sum + squares[at + column], 0);
      if (!amount) continue;
      found.push([squares[at], squares[at + 1], amount]);
      this.index.set(`${squares[at]},${squares[at + 1]}`, at);
    }
    return found;
  }

  paint(found, counted) {
    const amounts = found.map((square) => square[2]),
      top = amounts.reduce((a, b) => Math.max(a, b));
    const limits = Squares.limits(amounts),
      paths = [...limits, top].map(() => []);
    for (const [col, row, amount] of found) {
      paths[limits.filter((limit) => amount > limit).length].push(this.path(col, row));
    }
    paths.forEach((path, step) => {
      const share = step / Math.max(1, limits.length);
      const shade = `var(--s${Math.round(share * (Squares.SHADES - 1))})`;
      $("map-squares").append(make("path", { d: path.join(""), style: `fill:${shade}` }));
      const from = (step ? limits[step - 1] : 0) + (counted ? 1 : 0);
      this.legend(shade, from, step < limits.length ? limits[step] : top);
    });
    const unit = counted ? "objects" : "m²";
    $("map-summary").textContent =
      `${unit} per square of ${metres(this.level.size)}; maximum ${number(top)}.`;
  }

  static limits(amounts) {
    const sorted = [...new Set(amounts)].sort((a, b) => a - b);
    const limits = Squares.QUANTILES.map((share) => sorted[Math.floor(share * (sorted.length - 1))]);
    const rounded = new Set(limits.map((limit) => Number(limit.toPrecision(2))));
    return [...rounded].filter((limit) => limit < sorted.at(-1));
  }

  path(col, row) {
    const { size } = this.level,
      gap = size * Squares.GAP,
      edge = size - 2 * gap;
    const x = col * size - this.corner[0] + gap,
      y = row * size - this.corner[1] + gap;
    return `M${x.toFixed(1)} ${y.toFixed(1)}h${edge}v${edge}h${-edge}z`;
  }

  legend(shade, from, to) {
    const entry = document.createElement("span"),
      swatch = document.createElement("i");
    swatch.style.background = shade;
    entry.append(swatch, from >= to ? number(to) : `${number(from)}–${number(to)}`);
    $("map-legend").append(entry);
  }

  /* Texts of the square at a position in metres from the city's corner. */
  at(x, y) {
    if (!this.level) return [];
    const { size, squares } = this.level;
    const col = Math.floor((x + this.corner[0]) / size),
      row = Math.floor((y + this.corner[1]) / size);
    const at = this.index.get(`${col},${row}`);
    if (at === undefined) return [];
    const { kind } = this;
    const counts = this.names.map((_, c) =>
      kind < 0 || kind === c ? squares[at + 2 + 2 * c] : 0,
    );
    const total = counts.reduce((a, b) => a + b);
    const lines = this.names.map(
      (name, c) => `${name}: ${number(counts[c])}, ${number(squares[at + 3 + 2 * c])} m²`,
    );
    return [
      `${number(total)} object${total === 1 ? "" : "s"} in ${metres(size)} × ${metres(size)}`,
      ...lines.filter((_, c) => counts[c]),
    ];
  }
}
