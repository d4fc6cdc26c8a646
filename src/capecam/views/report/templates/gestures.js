/* What moves the map: mouse, fingers, wheel, keys, buttons. */
const NEARER = 1.6;

function gestures(map) {
  pointers(map);
  wheel(map);
  keys(map);
  $("map-in").addEventListener("click", () => map.zoom(NEARER));
  $("map-out").addEventListener("click", () => map.zoom(1 / NEARER));
  $("map-home").addEventListener("click", () => map.all());
  $("map-controls").addEventListener("change", () => map.draw());
  $("map-controls").addEventListener("submit", (event) => event.preventDefault());
  new ResizeObserver(() => map.draw()).observe($("map-frame"));
}

function pointers(map) {
  const STILL_PX = 4; /* a click may tremble */
  const { svg } = map,
    held = new Map();
  let apart = 0,
    moved = false;
  const pinch = () => {
    const [a, b] = [...held.values()];
    const middle = { clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2 };
    return { apart: Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY), middle };
  };
  svg.addEventListener("pointerdown", (event) => {
    held.set(event.pointerId, event);
    moved = false;
    apart = held.size === 2 ? pinch().apart : 0;
  });
  svg.addEventListener("pointermove", (event) => {
    const before = held.get(event.pointerId);
    if (!before) return map.look(event);
    const dx = event.clientX - before.clientX,
      dy = event.clientY - before.clientY;
    if (!moved && Math.hypot(dx, dy) < STILL_PX) return;
    if (!moved) svg.setPointerCapture(event.pointerId);
    moved = true;
    held.set(event.pointerId, event);
    svg.classList.add("dragged");
    map.say([]);
    map.pan(dx / held.size, dy / held.size);
    if (held.size === 2 && apart) {
      const now = pinch();
      map.zoom(now.apart / apart, now.middle);
      apart = now.apart;
    }
  });
  const release = (event) => {
    held.delete(event.pointerId);
    if (!held.size) svg.classList.remove("dragged");
    if (event.type === "pointerup" && !moved && event.pointerType === "touch") map.look(event);
  };
  svg.addEventListener("pointerup", release);
  svg.addEventListener("pointercancel", release);
  svg.addEventListener("pointerleave", () => held.size || map.say([]));
  svg.addEventListener("click", (event) => moved && event.stopPropagation(), { capture: true });
  svg.addEventListener("dblclick", (event) => map.zoom(2, event));
}

/* The wheel scrolls the page until the map has been clicked. */
function wheel(map) {
  const DOUBLE_PX = 240,
    HINT_MS = 1500;
  const { svg } = map,
    hint = $("map-hint");
  let hinting = 0;
  const turned = (event) => {
    if (event.ctrlKey || event.metaKey || document.activeElement === svg) {
      event.preventDefault();
      map.zoom(2 ** (-event.deltaY / DOUBLE_PX), event);
      return;
    }
    hint.hidden = false;
    clearTimeout(hinting);
    hinting = setTimeout(() => (hint.hidden = true), HINT_MS);
  };
  svg.addEventListener("wheel", turned, { passive: false });
}

function keys(map) {
  const STEP_PX = 80;
  const does = {
    ArrowLeft: () => map.pan(STEP_PX, 0),
    ArrowRight: () => map.pan(-STEP_PX, 0),
    ArrowUp: () => map.pan(0, STEP_PX),
    ArrowDown: () => map.pan(0, -STEP_PX),
    "+": () => map.zoom(NEARER),
    "=": () => map.zoom(NEARER),
    "-": () => map.zoom(1 / NEARER),
    0: () => map.all(),
  };
  map.svg.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !does[event.key]) return;
    does[event.key]();
    event.preventDefault();
  });
}
