"""``capecam report``: the report with panels, which the run's network computes again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count
from pathlib import Path

from capecam.errors import UsageError
from capecam.model.model import Model
from capecam.views.panels.panels import Panels
from capecam.views.report.report import QUEUE, write_report

log = logging.getLogger(__name__)

WIDTH_PX = 1500
"""Width of a panel: sharp in a window of 950 px on a screen with a pixel ratio of 1.5."""

PANELS = 12
"""Number of panels that take a minute on a CPU."""


def write_report_with_panels(
    out: Path,
    *,
    queue: int = QUEUE,
    panels: int = PANELS,
    device: str | None = None,
    model: Model | None = None,
    on_progress: Callable[[int, int], object] = lambda _done, _of: None,
) -> Path:
    """Write ``report.html`` into the folder of a run.

    Without the imagery or the checkpoint the page has the panels of the last report at most.

    Args:
        out: folder of the run.
        queue: number of objects of the review queue to show.
        panels: number of these objects to draw a panel of.
        device: device to compute the panels on; None: as in the run.
        model: network of the run, if it is loaded already.
        on_progress: called after each panel with the number of panels drawn, and of all.

    Raises:
        OutputError: the folder holds no run, no finished cell, or no city products.
    """
    if not panels:
        return write_report(out, queue=queue, panels=0)
    drawn = count(1)
    try:
        with Panels.open(out, device=device, model=model) as opened:

            def draw_panel(id_: str) -> bytes:
                panel = opened.of_detection(id_).encoded("webp", WIDTH_PX)
                on_progress(next(drawn), panels)
                return panel

            imagery = opened.imagery
            return write_report(
                out, queue=queue, imagery=imagery, panels=panels, draw_panel=draw_panel
            )
    except UsageError as error:
        log.warning("no new panels: %s", error)
        return write_report(out, queue=queue)
