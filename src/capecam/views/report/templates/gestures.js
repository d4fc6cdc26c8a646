/* Navigation of the map by mouse, touch, wheel, keys and buttons. */
const ZOOM = 1.6;

function gestures(map) {
  pointers(map);
  wheel(map);
  keys(map);
  $("map-in").addEventListener("click", () => map.zoom(ZOOM));
  $("map-out").addEventListener("click", () => map.zoom(1 / ZOOM));
  $("map-home").addEventListener("click", () => map.all());
  $("map-controls").addEventListener("change", () => map.draw());
  $("map-controls").addEventListener("submit", (event) => event.preventDefault());
  new ResizeObserver(() => map.draw()).observe($("map-frame"));
}

function pointers(map) {
  const CLICK_PX = 4; /* movement that still counts as a click */
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
    const previous = held.get(event.pointerId);
    if (!previous) return map.inspect(event);
    const dx = event.clientX - previous.clientX,
      dy = event.clientY - previous.clientY;
    if (!moved && Math.hypot(dx, dy) < CLICK_PX) return;
    if (!moved) svg.setPointerCapture(event.pointerId);
    moved = true;
    held.set(event.pointerId, event);
    svg.classList.add("dragged");
    map.showTip([]);
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
    if (event.type === "pointerup" && !moved && event.pointerType === "touch") map.inspect(event);
  };
  svg.addEventListener("pointerup", release);
  svg.addEventListener("pointercancel", release);
  svg.addEventListener("pointerleave", () => held.size || map.showTip([]));
  svg.addEventListener("click", (event) => moved && event.stopPropagation(), { capture: true });
  svg.addEventListener("dblclick", (event) => map.zoom(2, event));
}

/* The wheel zooms only after a click on the map; before, it scrolls the page. */
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
    "+": () => map.zoom(ZOOM),
    "=": () => map.zoom(ZOOM),
    "-": () => map.zoom(1 / ZOOM),
    0: () => map.all(),
  };
  map.svg.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !does[event.key]) return;
    does[event.key]();
    event.preventDefault();
  });
}
