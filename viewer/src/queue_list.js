/** The review queue as a list with thumbnails. */

import { button, fill, make, swatch } from "./dom.js";
import { addressOf } from "./files.js";
import { probability } from "./filters.js";
import { count, percent, squareMetres } from "./numbers.js";
import { PAGE } from "./queue.js";
import { VERDICTS } from "./review.js";

/** Return the list; it is read when it is first looked at. */
export function queueList(app) {
  const { state } = app;
  const list = make("ol.queue", { "aria-label": "Review queue" });
  const summary = make("p.note", { role: "status" });
  let limit = PAGE;
  const showMore = async () => {
    limit += PAGE;
    if (app.queue.shown(state.get("filters")).length < limit) await app.reviewing.more();
    draw();
  };
  const more = button("Show more", showMore, { class: "wide" });
  const rows = new Map();

  const draw = () => {
    const queue = app.queue;
    const shown = queue.shown(state.get("filters"));
    const current = shown.findIndex(({ id }) => id === state.get("selected")?.id);
    limit = Math.max(limit, PAGE * Math.ceil((current + 1) / PAGE));
    const hadFocus = list.contains(document.activeElement);
    rows.clear();
    fill(
      list,
      ...shown.slice(0, limit).map((detection) => {
        const item = row(app, detection);
        rows.set(detection.id, item);
        return item;
      }),
    );
    const reviewed = shown.filter(({ id }) => app.review.latest.has(id)).length;
    summary.textContent = queue.rows.length
      ? `${count(shown.length)} of ${count(queue.total)}, the most doubtful first; ${count(reviewed)} reviewed`
      : queue.isWhole
        ? "The queue is empty."
        : "Reading the queue…";
    more.hidden = queue.isWhole && shown.length <= limit;
    mark();
    if (hadFocus) rows.get(state.get("selected")?.id)?.firstChild.focus({ preventScroll: true });
  };
  const mark = () => {
    const id = state.get("selected")?.id;
    for (const [key, item] of rows) {
      const isCurrent = key === id;
      item.firstChild.setAttribute("aria-current", String(isCurrent));
      if (isCurrent) item.scrollIntoView({ block: "nearest" });
    }
  };
  state.watch(["queued", "filters", "reviewed"], draw);
  state.watch(["selected"], () => {
    const id = state.get("selected")?.id;
    const isBeyond = !rows.has(id) && app.queue.rows.some((row) => row.id === id);
    if (isBeyond) draw();
    else mark();
  });
  return make("div.queue-panel", {}, summary, list, more);
}

const thumbnails = new Map();

/** Return the picture at an address, which is asked for once, however often the list is drawn. */
function thumbnail(src) {
  if (!thumbnails.has(src)) {
    const on = { error: () => picture.classList.add("absent") };
    const picture = make("img", { src, alt: "", loading: "lazy", width: 64, height: 64, on });
    thumbnails.set(src, picture);
  }
  return thumbnails.get(src);
}

function row(app, detection) {
  const { city } = app;
  const { id, class_id: classId, evidence } = detection;
  const src = addressOf(`${app.run.path}thumbnails/${encodeURIComponent(id)}.jpg`);
  const said = app.review.latest.get(id);
  const verdict = said
    ? make(`span.verdict.${said.verdict}`, {}, VERDICTS[said.verdict] ?? said.verdict)
    : null;
  const entry = city.classOf.get(classId);
  const word = city.wordOf.get(evidence);
  const numbers = `${percent(probability(detection))} · ${squareMetres(detection.area_m2)}`;
  return make(
    "li",
    {},
    make(
      "button.queue-row",
      {
        type: "button",
        data: { id },
        on: { click: () => app.select(detection, { move: true, isFromQueue: true }) },
      },
      thumbnail(src),
      make(
        "span.queue-text",
        {},
        make("span.queue-class", {}, swatch(entry?.color ?? "#888"), entry?.name ?? "?", verdict),
        make("span.queue-numbers", {}, numbers),
        word ? make("span.queue-word", {}, swatch(word.color, "square"), word.word) : null,
      ),
    ),
  );
}
