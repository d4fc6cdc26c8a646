"""Writing ``report.html``, a run as one self-contained page (docs/outputs.md)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from capecam.errors import CapecamError
from capecam.mosaic.mosaic import Mosaic
from capecam.runtime.files import atomic_write
from capecam.store.file_names import REPORT
from capecam.views.report.data import ReportData
from capecam.views.report.page import Entry, data_url, render
from capecam.views.report.thumbnails import open_thumbnails

log = logging.getLogger(__name__)

QUEUE = 48
"""Number of objects of the review queue on the page: about 1 MB of pictures."""

DrawPanel = Callable[[str], bytes]
"""Draws the panel of a detection, by its id, as WebP; raises CapecamError if that fails."""


def write_report(
    out: Path,
    *,
    queue: int = QUEUE,
    imagery: Mosaic | None = None,
    panels: int = 0,
    draw_panel: DrawPanel | None = None,
) -> Path:
    """Write ``report.html`` into the folder of a run.

    A picture or a panel that cannot be drawn is replaced by its reason.

    Args:
        out: folder of the run, with its city products.
        queue: number of objects of the review queue to show.
        imagery: imagery of the run, if it is open already: thousands of headers take seconds.
        panels: number of these objects to draw a panel of.
        draw_panel: draws a panel; None: no panels.

    Raises:
        OutputError: the folder holds no run, no finished cell, or no city products.
    """
    data = ReportData.read(out)
    with open_thumbnails(data, imagery) as thumbnails:
        entries = [
            Entry(
                row,
                thumbnails.draw(row, shape),
                *_panel(row["id"], draw_panel if n < panels else None),
            )
            for n, (row, shape) in enumerate(data.queue(queue))
        ]
    if problems := [entry.panel_problem for entry in entries if entry.panel_problem]:
        log.warning("%d panel(s) could not be drawn: %s", len(problems), problems[0])
    text = render(data, entries)
    with atomic_write(out / REPORT) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return out / REPORT


def _panel(id_: str, draw_panel: DrawPanel | None) -> tuple[str | None, str | None]:
    """Return a panel as a data URL, or the reason why there is none."""
    if draw_panel is None:
        return None, None
    try:
        return data_url(draw_panel(id_), "webp"), None
    except CapecamError as error:
        return None, str(error)
