/* The map: squares of the level whose size suits the zoom, as one path a shade. */
function mapOf(data, rows, closer) {
  const STEPS = 6,
    LEAST_PX = 9,
    MOST_PX = 160,
    FRAME_PX = 14,
    SHARES = [0.3, 0.55, 0.75, 0.9, 0.97];
  const svg = $("map-svg"),
    frame = $("map-frame"),
    tip = $("map-tip");
  const [left, top] = data.corner;
  const number = (value) =>
    value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });
  const metres = (m) => (m >= 1000 ? `${m / 1000} km` : `${m} m`);
  const names = [...$("map-class").options].slice(1).map((option) => option.text);
  const width = 2 + 2 * names.length;
  const edges = data.cells.map((cell) => cell[3]).sort((a, b) => a - b);
  const narrowest = edges[Math.floor(edges.length / 2)];
  let view = { x: data.width / 2, y: data.height / 2, zoom: 1 };
  let level = null,
    chosen = "",
    index = new Map();

  const home = () =>
    Math.max(data.width / svg.clientWidth, data.height / svg.clientHeight) * 1.06 || 1;
  const perPixel = () => home() / view.zoom;
  const finest = data.levels[data.levels.length - 1];
  const most = () => Math.max(4, (home() * MOST_PX) / (finest ? finest.size : 50));

  function value(squares, at) {
    const kind = Number($("map-class").value),
      measure = Number($("map-measure").value);
    if (kind >= 0) return squares[at + 2 + 2 * kind + measure];
    let sum = 0;
    for (let c = 0; c < names.length; c++) sum += squares[at + 2 + 2 * c + measure];
    return sum;
  }
  function fitting() {
    const fine = data.levels.filter((l) => l.size / perPixel() >= LEAST_PX);
    return fine[fine.length - 1] || data.levels[0];
  }
  function limitsOf(values) {
    const sorted = [...new Set(values)].sort((a, b) => a - b);
    const limits = SHARES.map((share) => sorted[Math.floor(share * (sorted.length - 1))]);
    const rounded = limits.map((limit) => Number(limit.toPrecision(2)));
    return [...new Set(rounded)].filter((limit) => limit < sorted[sorted.length - 1]);
  }
  function squares() {
    const group = $("map-squares"),
      legend = $("map-legend");
    group.replaceChildren();
    legend.replaceChildren();
    index = new Map();
    if (!level) return;
    const found = [];
    for (let at = 0; at < level.squares.length; at += width) {
      const amount = value(level.squares, at);
      if (!amount) continue;
      found.push([level.squares[at], level.squares[at + 1], amount]);
      index.set(`${level.squares[at]},${level.squares[at + 1]}`, at);
    }
    const amounts = found.map((square) => square[2]);
    const unit = $("map-measure").value === "0" ? "objects" : "m²";
    $("map-summary").textContent = found.length
      ? `${unit} per square of ${metres(level.size)}; the fullest has ${number(Math.max(...amounts))}.`
      : "Nothing was found.";
    if (!found.length) return;
    const limits = limitsOf(amounts),
      paths = Array.from({ length: limits.length + 1 }, () => []);
    const size = level.size,
      gap = size * 0.04;
    for (const [col, row, amount] of found) {
      const step = limits.filter((limit) => amount > limit).length;
      const x = col * size - left + gap,
        y = row * size - top + gap,
        edge = size - 2 * gap;
      paths[step].push(`M${x.toFixed(1)} ${y.toFixed(1)}h${edge}v${edge}h${-edge}z`);
    }
    const whole = unit === "objects";
    paths.forEach((path, step) => {
      const shade = `var(--s${Math.round((step * (STEPS - 1)) / Math.max(1, limits.length))})`;
      group.append(make("path", { d: path.join(""), style: `fill:${shade}` }));
      const from = step ? limits[step - 1] + (whole ? 1 : 0) : whole ? 1 : 0;
      const to = step < limits.length ? limits[step] : Math.max(...amounts);
      const entry = document.createElement("span"),
        swatch = document.createElement("i");
      swatch.style.background = shade;
      entry.append(swatch, from >= to ? number(to) : `${number(from)}–${number(to)}`);
      legend.append(entry);
    });
  }
  function draw() {
    if (!svg.clientWidth) return;
    const scale = perPixel(),
      w = svg.clientWidth * scale,
      h = svg.clientHeight * scale;
    const clamp = (at, size, shown) =>
      shown >= size ? size / 2 : Math.min(size - shown / 2, Math.max(shown / 2, at));
    view.x = clamp(view.x, data.width, w / 1.06);
    view.y = clamp(view.y, data.height, h / 1.06);
    svg.setAttribute("viewBox", `${view.x - w / 2} ${view.y - h / 2} ${w} ${h}`);
    svg.classList.toggle("near", view.zoom > 1.001);
    $("map-frames").style.display = narrowest / scale < FRAME_PX ? "none" : "";
    $("hatch").setAttribute("patternTransform", `scale(${scale}) rotate(45)`);
    for (const ring of $("map-queue").children) ring.setAttribute("r", 6 * scale);
    const now = data.levels.length ? fitting() : null;
    const wanted = `${now && now.size}|${$("map-class").value}|${$("map-measure").value}`;
    if (wanted !== chosen) {
      chosen = wanted;
      level = now;
      squares();
    }
    let bar = 10 ** Math.floor(Math.log10(scale * 130));
    bar *= bar * 5 <= scale * 130 ? 5 : bar * 2 <= scale * 130 ? 2 : 1;
    $("map-scale").style.width = `${bar / scale}px`;
    $("map-scale").firstElementChild.textContent = metres(bar);
  }
  function zoom(factor, at = null) {
    const before = at && place(at);
    view.zoom = Math.min(most(), Math.max(1, view.zoom * factor));
    if (before) {
      const box = svg.getBoundingClientRect(),
        scale = perPixel();
      view.x = before.x - (at.clientX - box.left - box.width / 2) * scale;
      view.y = before.y - (at.clientY - box.top - box.height / 2) * scale;
    }
    draw();
  }
  function pan(dx, dy) {
    view.x -= dx * perPixel();
    view.y -= dy * perPixel();
    draw();
  }
  function all() {
    view = { x: data.width / 2, y: data.height / 2, zoom: 1 };
    draw();
  }
  function place(event) {
    const box = svg.getBoundingClientRect(),
      scale = perPixel();
    return {
      x: view.x + (event.clientX - box.left - box.width / 2) * scale,
      y: view.y + (event.clientY - box.top - box.height / 2) * scale,
    };
  }
  function say(lines, clientX, clientY) {
    tip.hidden = !lines.length;
    if (!lines.length) return;
    const title = document.createElement("b");
    title.textContent = lines[0];
    tip.replaceChildren(
      title,
      ...lines.slice(1).flatMap((line) => [line, document.createElement("br")]),
    );
    const box = frame.getBoundingClientRect();
    const x = clientX - box.left,
      y = clientY - box.top;
    tip.style.left = `${Math.max(4, Math.min(x + 14, box.width - tip.offsetWidth - 6))}px`;
    tip.style.top = `${Math.max(4, y + 18 + tip.offsetHeight > box.height ? y - tip.offsetHeight - 12 : y + 18)}px`;
  }
  function look(event) {
    const { x, y } = place(event),
      lines = [];
    const cell = data.cells.find(
      ([, cx, cy, w, h]) => x >= cx && x < cx + w && y >= cy && y < cy + h,
    );
    const at =
      level &&
      index.get(`${Math.floor((x + left) / level.size)},${Math.floor((y + top) / level.size)}`);
    if (at !== undefined && at !== null) {
      let count = 0;
      names.forEach((name, c) => {
        const n = level.squares[at + 2 + 2 * c],
          area = level.squares[at + 3 + 2 * c];
        count += n;
        if (n) lines.push(`${name}: ${number(n)}, ${number(area)} m²`);
      });
      lines.unshift(
        `${number(count)} object${count === 1 ? "" : "s"} in ${metres(level.size)} × ${metres(level.size)}`,
      );
    }
    if (cell && cell[5]) lines.unshift(`${cell[0]} failed`, cell[5]);
    else if (cell) lines.push(cell[0]);
    say(lines, event.clientX, event.clientY);
  }

  const boxes = (cells) => cells.map(([, x, y, w, h]) => `M${x} ${y}h${w}v${h}h${-w}z`).join("");
  $("map-cells").append(make("path", { d: boxes(data.cells) }));
  $("map-frames").setAttribute("d", boxes(data.cells.filter((cell) => !cell[5])));
  for (const [name, x, y, w, h, reason] of data.cells.filter((cell) => cell[5])) {
    const box = make("rect", {
      x,
      y,
      width: w,
      height: h,
      tabindex: 0,
      role: "img",
      "aria-label": `${name} failed: ${reason}`,
    });
    box.addEventListener("focus", () => {
      const at = box.getBoundingClientRect();
      say([`${name} failed`, reason], at.left + at.width / 2, at.top + at.height / 2);
    });
    box.addEventListener("blur", () => say([]));
    $("map-failed").append(box);
  }
  data.queue.forEach(([x, y], n) => {
    $("map-queue").append(make("circle", { cx: x, cy: y, class: "casing" }));
    const ring = make("circle", { cx: x, cy: y, class: "ring" });
    const label = `${rows[n].dataset.class}, place ${rows[n].dataset.review} in the queue`;
    ring.append(make("title", {}, label));
    ring.addEventListener("click", () => !moved && closer.show(n));
    $("map-queue").append(ring);
  });

  const held = new Map();
  let apart = 0,
    moved = false;
  const spread = () => {
    const [a, b] = [...held.values()];
    return {
      d: Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY),
      clientX: (a.clientX + b.clientX) / 2,
      clientY: (a.clientY + b.clientY) / 2,
    };
  };
  svg.addEventListener("pointerdown", (event) => {
    held.set(event.pointerId, event);
    moved = false;
    apart = held.size === 2 ? spread().d : 0;
  });
  svg.addEventListener("pointermove", (event) => {
    const before = held.get(event.pointerId);
    if (!before) return look(event);
    const dx = event.clientX - before.clientX,
      dy = event.clientY - before.clientY;
    if (!moved && Math.hypot(dx, dy) < 4) return;
    if (!moved) svg.setPointerCapture(event.pointerId);
    moved = true;
    held.set(event.pointerId, event);
    svg.classList.add("dragged");
    tip.hidden = true;
    if (held.size === 2) {
      const now = spread();
      if (apart) zoom(now.d / apart, now);
      apart = now.d;
    }
    pan(dx / held.size, dy / held.size);
  });
  const release = (event) => {
    held.delete(event.pointerId);
    if (!held.size) svg.classList.remove("dragged");
    if (event.type === "pointerup" && !moved && event.pointerType === "touch") look(event);
  };
  for (const name of ["pointerup", "pointercancel"]) svg.addEventListener(name, release);
  svg.addEventListener("pointerleave", () => !held.size && (tip.hidden = true));
  svg.addEventListener("dblclick", (event) => zoom(2, event));
  let hinting = 0;
  svg.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && !event.metaKey && document.activeElement !== svg) {
        $("map-hint").hidden = false;
        clearTimeout(hinting);
        hinting = setTimeout(() => ($("map-hint").hidden = true), 1500);
        return;
      }
      event.preventDefault();
      zoom(2 ** (-event.deltaY / 240), event);
    },
    { passive: false },
  );
  svg.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = {
      ArrowLeft: [80, 0],
      ArrowRight: [-80, 0],
      ArrowUp: [0, 80],
      ArrowDown: [0, -80],
    };
    if (steps[event.key]) pan(...steps[event.key]);
    else if (event.key === "+" || event.key === "=") zoom(1.6);
    else if (event.key === "-") zoom(1 / 1.6);
    else if (event.key === "0") all();
    else return;
    event.preventDefault();
  });
  $("map-in").addEventListener("click", () => zoom(1.6));
  $("map-out").addEventListener("click", () => zoom(1 / 1.6));
  $("map-home").addEventListener("click", all);
  $("map-controls").addEventListener("change", draw);
  $("map-controls").addEventListener("submit", (event) => event.preventDefault());
  new ResizeObserver(draw).observe(frame);
  draw();
}
