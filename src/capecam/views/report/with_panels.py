"""``capecam report``: the report, with panels that are recomputed for the head of its queue."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count
from pathlib import Path

from capecam.errors import UsageError
from capecam.model.model import Model
from capecam.views.panels.panels import Panels
from capecam.views.report.report import QUEUE, PanelOf, write_report

log = logging.getLogger(__name__)

WIDTH_PX = 1500
"""Of a panel in the page: sharp in a window of 950 px on a screen of one and a half times that."""

PANELS = 12
"""So many take a minute on a CPU."""


def write_report_with_panels(
    out: Path,
    *,
    queue: int = QUEUE,
    panels: int = PANELS,
    device: str | None = None,
    model: Model | None = None,
    progress: Callable[[int, int], object] = lambda _done, _of: None,
) -> Path:
    """Write ``report.html`` into the folder of a run.

    Without the imagery or the checkpoint the page has no panels, and says so.

    Args:
        out: the folder.
        queue: how many objects of the review queue to show.
        panels: for how many of these to compute a panel.
        device: to compute them on; else as in the run.
        model: the run's network, if it is loaded already.
        progress: told, after each panel, how many are done, and of how many.

    Raises:
        OutputError: the folder holds no run, no finished cell, or no city products.
    """
    if not panels:
        return write_report(out, queue=queue)
    try:
        with Panels.open(out, device=device, model=model) as opened:
            panel = _drawing(opened, lambda done: progress(done, panels))
            return write_report(
                out, queue=queue, imagery=opened.imagery, panels=panels, panel=panel
            )
    except UsageError as error:
        log.warning("no panels: %s", error)
        return write_report(out, queue=queue)


def _drawing(panels: Panels, told: Callable[[int], object]) -> PanelOf:
    """Draws a panel, and says how many are done."""
    number = count(1)

    def panel(id_: str) -> bytes:
        drawn = panels.of_detection(id_).encoded("webp", WIDTH_PX)
        told(next(number))
        return drawn

    return panel
