"""Writing ``report.html``, a run as one self-contained page (docs/outputs.md)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from capecam.errors import CapecamError
from capecam.mosaic.mosaic import Mosaic
from capecam.runtime.files import atomic_write
from capecam.store.file_names import DETECTIONS, REPORT
from capecam.store.records import Record, read_record
from capecam.views.report.data import ReportData
from capecam.views.report.page import Entry, data_url, render
from capecam.views.report.picture import city_picture
from capecam.views.report.thumbnails import open_thumbnails

log = logging.getLogger(__name__)

STATE = ".report.json"

QUEUE = 48
"""Number of objects of the review queue on the page: about 1 MB of pictures."""

DrawPanel = Callable[[str], bytes]
"""Draws the panel of a detection, by its id, as WebP; raises CapecamError if that fails."""


class ReportState(Record):
    """Contents of a report that the next one keeps, as long as the detections are the same."""

    detections: str
    """sha256."""
    queue: int
    """Number of objects of the review queue."""
    panels: dict[str, str]
    """Panels as data URLs, by id of the detection."""

    @classmethod
    def read(cls, out: Path, detections: str) -> Self:
        """Return the contents of the last report on these detections, without panels if there is
        none."""
        with suppress(OSError, ValueError):
            state = read_record(out / STATE, cls)
            if state.detections == detections:
                return state
        return cls(detections=detections, queue=QUEUE, panels={})


def write_report(
    out: Path,
    *,
    queue: int | None = None,
    imagery: Mosaic | None = None,
    panels: int | None = None,
    draw_panel: DrawPanel | None = None,
) -> Path:
    """Write ``report.html`` into the folder of a run.

    A picture or a panel that cannot be drawn is replaced by its reason.

    Args:
        out: folder of the run, with its city products.
        queue: number of objects of the review queue to show; None: as in the last report on the
            same detections.
        imagery: imagery of the run, if it is open already: thousands of headers take seconds.
        panels: number of these objects to draw a panel of; None: those of that report are kept.
        draw_panel: draws a panel.

    Raises:
        OutputError: the folder holds no run, no finished cell, or no city products.
    """
    data = ReportData.read(out)
    last = ReportState.read(out, data.record.products[DETECTIONS].version)
    queue = last.queue if queue is None else queue

    def panel(number: int, id_: str) -> tuple[str | None, str | None]:
        if panels is None:
            return last.panels.get(id_), None
        return _draw(id_, draw_panel if number < panels else None)

    with open_thumbnails(data, imagery) as thumbnails:
        entries = [
            Entry(row, shape, thumbnails.draw(row, shape), *panel(number, row["id"]))
            for number, (row, shape) in enumerate(data.queue(queue))
        ]
    if problems := [entry.panel_problem for entry in entries if entry.panel_problem]:
        log.warning("%d panel(s) could not be drawn: %s", len(problems), problems[0])
    text = render(data, entries, city_picture(data.run, imagery))
    with atomic_write(out / REPORT) as temporary:
        temporary.write_text(text, encoding="utf-8")
    drawn = {entry.row["id"]: entry.panel for entry in entries if entry.panel}
    ReportState(detections=last.detections, queue=queue, panels=drawn).write(out / STATE)
    return out / REPORT


def _draw(id_: str, draw_panel: DrawPanel | None) -> tuple[str | None, str | None]:
    """Return a panel as a data URL, or the reason why there is none."""
    if draw_panel is None:
        return None, None
    try:
        return data_url(draw_panel(id_), "webp"), None
    except CapecamError as error:
        return None, str(error)
