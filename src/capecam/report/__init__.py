"""``report.html``: a run as one page that anyone can open, without a network (docs/outputs.md)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from capecam.errors import CapecamError
from capecam.ledger import replacing
from capecam.report.facts import Facts
from capecam.report.page import Entry, data_url, queue_rows, render
from capecam.report.pictures import album

__all__ = ["QUEUE", "REPORT", "PanelOf", "write_report"]

log = logging.getLogger(__name__)

REPORT = "report.html"

QUEUE = 48
"""Objects of the review queue that are shown: about 1 MB of pictures."""

PanelOf = Callable[[str], bytes]
"""The panel of a detection as WebP, by its id; raises CapecamError where it cannot be made."""


def write_report(
    out: Path, *, queue: int = QUEUE, panels: int = 0, panel: PanelOf | None = None
) -> Path:
    """Write ``report.html`` into the folder of a run.

    What cannot be read for a picture or a panel is said there, and stops nothing.

    Args:
        out: the folder, with its city products.
        queue: how many objects of the review queue to show.
        panels: for how many of these to ask for a panel.
        panel: makes it.

    Raises:
        OutputError: the folder holds no run, no finished cell, or no city products.
    """
    facts = Facts.read(out)
    entries = _entries(facts, queue, panels, panel)
    if missing := [entry.panel_problem for entry in entries if entry.panel_problem]:
        log.warning("%d panel(s) could not be made: %s", len(missing), missing[0])
    text = render(facts, entries)
    with replacing(out / REPORT) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return out / REPORT


def _entries(facts: Facts, length: int, panels: int, panel: PanelOf | None) -> list[Entry]:
    """The head of the review queue, with pictures."""
    objects, classes = facts.queue(length), facts.run.settings.model.classes
    heat, entries = facts.run.heat(facts.method), list[Entry]()
    with album(facts.run, heat, float(facts.pixel_m[0])) as pictures:
        for row, shape in zip(queue_rows(objects), objects.geometry, strict=True):
            color = classes[row["class_id"]].color
            picture = pictures.picture(shape, row["class_id"], color, row["images"])
            wanted = panel if len(entries) < panels else None
            entries.append(Entry(row, picture, *_panel(row["id"], wanted)))
    return entries


def _panel(id_: str, panel: PanelOf | None) -> tuple[str | None, str | None]:
    """A panel as a data URL, or why there is none."""
    if panel is None:
        return None, None
    try:
        return data_url(panel(id_), "webp"), None
    except CapecamError as error:
        return None, str(error)
