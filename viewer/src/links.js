/**
 * Links to what is on the screen: `#id=1_20_30&312.5,-3763000.0,0.16&run=1`.
 *
 * `id` selects; x, y and metres a pixel move; `run` chooses the run.
 */

/** Return what a hash says; parts that it does not have, or that make no sense, are null. */
export function parse(hash) {
  const link = { id: null, view: null, run: null };
  for (const part of hash.replace(/^#/, "").split("&")) {
    const [key, value] = part.split("=");
    if (value !== undefined && key === "id") link.id = decoded(value);
    else if (key === "run" && /^\d+$/.test(value ?? "")) link.run = Number(value);
    else if (value === undefined) {
      const numbers = part.split(",").map(Number);
      if (numbers.length === 3 && numbers.every(Number.isFinite) && numbers[2] > 0) {
        link.view = { center: numbers.slice(0, 2), metres: numbers[2] };
      }
    }
  }
  return link;
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a % that is no escape
  }
}

/** Return the hash of a state of the page. */
export function format({ id, view: { center, metres }, run }) {
  const digits = Math.abs(center[0]) <= 360 && Math.abs(center[1]) <= 90 ? 8 : 2;
  const parts = [
    `${center.map((value) => value.toFixed(digits)).join(",")},${Number(metres.toPrecision(6))}`,
  ];
  if (id) parts.unshift(`id=${encodeURIComponent(id)}`);
  if (run) parts.push(`run=${run}`);
  return `#${parts.join("&")}`;
}

/** Keep the address of the page up to date, and follow it when somebody changes it. */
export function keepLink(app) {
  const { map, city, state } = app;
  const view = map.getView();
  const { metresPerUnit: perUnit } = city;
  let written = location.hash;

  const follow = async () => {
    written = location.hash;
    const link = parse(location.hash);
    if (link.run !== null && city.runs[link.run]) state.set({ run: link.run });
    if (link.view) {
      view.setCenter(link.view.center);
      view.setResolution(link.view.metres / perUnit);
    }
    if (link.id) await app.selectById(link.id, { move: !link.view });
  };

  const write = () => {
    const center = view.getCenter();
    const hash = format({
      id: state.get("selected")?.id,
      view: { center, metres: view.getResolution() * perUnit },
      run: state.get("run"),
    });
    if (hash === written) return;
    written = hash;
    history.replaceState(null, "", hash);
  };

  addEventListener("hashchange", () => location.hash !== written && follow());
  return follow().finally(() => {
    map.on("moveend", write);
    state.watch(["selected", "run"], write);
  });
}
