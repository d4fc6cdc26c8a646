/* The map, with its position and zoom factor. Coordinates are metres from the city's corner. */
class CityMap {
  static MARGIN = 1.06; /* extent of the whole view relative to the city */
  static MAX_SQUARE_PX = 160; /* size of the smallest squares at the largest zoom factor */
  static FRAME_PX = 14; /* size on the screen below which frames of images are hidden */
  static RING_PX = 6;
  static OUTLINE_PX = 16; /* size on the screen from which an object has no ring but its outline */
  static CLOSE_PX = 40; /* size of squares on the screen from which they let the picture through */
  static SCALE_PX = 130; /* maximum length of the scale bar */
  static TAB_STOPS = 50; /* failed images reachable by keyboard; a table lists all */

  constructor(data, rows, filter, open) {
    const widths = data.cells.map((cell) => cell[3]).sort((a, b) => a - b);
    Object.assign(this, { data, svg: $("map-svg"), narrowest: widths[widths.length >> 1] });
    this.squares = new Squares(data.levels, data.corner, data.classes, filter);
    this.cells();
    this.spots(rows, open);
    $("map-view").hidden = false;
    filter.tell(() => this.draw());
    this.all();
  }

  cells() {
    const done = this.data.cells.filter((cell) => !cell[5]),
      failed = this.data.cells.filter((cell) => cell[5]);
    const boxes = (cells) => cells.map(([, x, y, w, h]) => `M${x} ${y}h${w}v${h}h${-w}z`).join("");
    $("map-cells").append(make("path", { d: boxes(this.data.cells) }));
    $("map-frames").setAttribute("d", boxes(done));
    failed.forEach(([name, x, y, width, height, reason], n) => {
      const label = `${name} failed: ${reason}`,
        tabindex = n < CityMap.TAB_STOPS ? 0 : -1;
      const box = make("rect", { x, y, width, height, tabindex, role: "img", "aria-label": label });
      box.addEventListener("focus", () => {
        const at = box.getBoundingClientRect();
        this.showTip([`${name} failed`, reason], at.left + at.width / 2, at.top + at.height / 2);
      });
      box.addEventListener("blur", () => this.showTip([]));
      $("map-failed").append(box);
    });
  }

  /* The head of the queue: outlines, and rings around those that are too small to be seen. */
  spots(rows, open) {
    this.data.queue.forEach(([cx, cy], n) => {
      const { review, classId, class: name } = rows[n].dataset,
        [size, d] = this.data.outlines[n];
      const style = `--fill:var(--class-${classId});--edge:var(--class-${classId}-edge)`;
      const spot = make("g", { class: "spot", "data-of": classId, "data-size": size, style });
      spot.append(make("title", {}, `${name}, rank ${review} in the queue`));
      for (const kind of ["casing", "outline"]) spot.append(make("path", { d, class: kind }));
      for (const kind of ["casing", "ring"]) spot.append(make("circle", { cx, cy, class: kind }));
      spot.addEventListener("click", () => open(n));
      $("map-queue").append(spot);
    });
  }

  /* Metres per pixel that show the whole city. */
  get whole() {
    const { data, svg } = this;
    const both = [data.width / svg.clientWidth, data.height / svg.clientHeight];
    return Math.max(...both) * CityMap.MARGIN;
  }

  get scale() {
    return this.whole / this.near;
  }

  draw() {
    const { data, svg } = this;
    if (!svg.clientWidth) return;
    const { scale } = this,
      w = svg.clientWidth * scale,
      h = svg.clientHeight * scale;
    const within = (at, size, shown) =>
      shown >= size ? size / 2 : Math.min(size - shown / 2, Math.max(shown / 2, at));
    this.x = within(this.x, data.width, w / CityMap.MARGIN);
    this.y = within(this.y, data.height, h / CityMap.MARGIN);
    svg.setAttribute("viewBox", `${this.x - w / 2} ${this.y - h / 2} ${w} ${h}`);
    svg.classList.toggle("near", this.near > 1);
    $("map-frames").style.display = this.narrowest / scale < CityMap.FRAME_PX ? "none" : "";
    $("hatch").setAttribute("patternTransform", `scale(${scale}) rotate(45)`);
    for (const spot of $("map-queue").children) {
      spot.classList.toggle("near", spot.dataset.size / scale > CityMap.OUTLINE_PX);
      for (const ring of spot.querySelectorAll("circle"))
        ring.setAttribute("r", CityMap.RING_PX * scale);
    }
    this.squares.draw(scale);
    const { level } = this.squares;
    svg.classList.toggle("close", Boolean(level) && level.size / scale > CityMap.CLOSE_PX);
    this.bar(scale);
    this.link(scale);
  }

  bar(scale) {
    const most = scale * CityMap.SCALE_PX,
      power = 10 ** Math.floor(Math.log10(most));
    const length = [5, 2, 1].find((times) => times * power <= most) * power;
    $("map-scale").style.width = `${length / scale}px`;
    $("map-scale").firstElementChild.textContent = metres(length);
  }

  /* The deep link of the viewer to what the map shows: x, y and metres per pixel. */
  link(scale) {
    const [left, top, unitX, unitY] = this.data.place;
    const digits = Math.max(0, Math.ceil(-Math.log10(unitX * scale)));
    const x = (left + this.x * unitX).toFixed(digits),
      y = (top - this.y * unitY).toFixed(digits);
    $("map-view").querySelector("code").textContent = `#${x},${y},${Number(scale.toPrecision(3))}`;
  }

  all() {
    Object.assign(this, { x: this.data.width / 2, y: this.data.height / 2, near: 1 });
    this.draw();
  }

  pan(dx, dy) {
    this.x -= dx * this.scale;
    this.y -= dy * this.scale;
    this.draw();
  }

  /* Zoom by a factor around a point of the screen. */
  zoom(factor, at = null) {
    const before = at && this.toMap(at);
    const most = Math.max(4, (this.whole * CityMap.MAX_SQUARE_PX) / this.squares.finest);
    this.near = Math.min(most, Math.max(1, this.near * factor));
    if (at) {
      const after = this.toMap(at);
      this.x += before.x - after.x;
      this.y += before.y - after.y;
    }
    this.draw();
  }

  toMap({ clientX, clientY }) {
    const box = this.svg.getBoundingClientRect();
    return {
      x: this.x + (clientX - box.left - box.width / 2) * this.scale,
      y: this.y + (clientY - box.top - box.height / 2) * this.scale,
    };
  }

  /* Show what is at a point of the screen. */
  inspect(event) {
    const { x, y } = this.toMap(event),
      lines = this.squares.at(x, y);
    const inside = ([, left, top, w, h]) => x >= left && x < left + w && y >= top && y < top + h;
    const [name, , , , , reason] = this.data.cells.find(inside) || [];
    if (reason) lines.unshift(`${name} failed`, reason);
    else if (name) lines.push(name);
    this.showTip(lines, event.clientX, event.clientY);
  }

  showTip([title, ...lines], clientX = 0, clientY = 0) {
    const tip = $("map-tip"),
      box = this.svg.getBoundingClientRect();
    tip.hidden = !title;
    if (!title) return;
    const head = document.createElement("b");
    head.textContent = title;
    tip.replaceChildren(head, ...lines.flatMap((line) => [line, document.createElement("br")]));
    const x = clientX - box.left + 14,
      y = clientY - box.top + 18;
    const above = y + tip.offsetHeight > box.height ? y - tip.offsetHeight - 30 : y;
    tip.style.left = `${Math.max(4, Math.min(x, box.width - tip.offsetWidth - 6))}px`;
    tip.style.top = `${Math.max(4, above)}px`;
  }
}
