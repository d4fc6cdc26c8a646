"""``report.html``: a run as one page that anyone can open, without a network (docs/outputs.md)."""

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
from capecam.views.report.thumbnails import album

log = logging.getLogger(__name__)

QUEUE = 48
"""Objects of the review queue that are shown: about 1 MB of pictures."""

PanelOf = Callable[[str], bytes]
"""The panel of a detection as WebP, by its id; raises CapecamError where it cannot be made."""


def write_report(
    out: Path,
    *,
    queue: int = QUEUE,
    imagery: Mosaic | None = None,
    panels: int = 0,
    panel: PanelOf | None = None,
) -> Path:
    """Write ``report.html`` into the folder of a run.

    What cannot be read for a picture or a panel is said there, and stops nothing.

    Args:
        out: the folder, with its city products.
        queue: how many objects of the review queue to show.
        imagery: the run's, where it is open already: thousands of headers take seconds.
        panels: for how many of these to ask for a panel.
        panel: makes it.

    Raises:
        OutputError: the folder holds no run, no finished cell, or no city products.
    """
    facts = ReportData.read(out)
    with album(facts, imagery) as pictures:
        entries = [
            Entry(
                row, pictures.picture(row, shape), *_panel(row["id"], panel if n < panels else None)
            )
            for n, (row, shape) in enumerate(facts.queue(queue))
        ]
    if missing := [entry.panel_problem for entry in entries if entry.panel_problem]:
        log.warning("%d panel(s) could not be made: %s", len(missing), missing[0])
    text = render(facts, entries)
    with atomic_write(out / REPORT) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return out / REPORT


def _panel(id_: str, panel: PanelOf | None) -> tuple[str | None, str | None]:
    """A panel as a data URL, or why there is none."""
    if panel is None:
        return None, None
    try:
        return data_url(panel(id_), "webp"), None
    except CapecamError as error:
        return None, str(error)
