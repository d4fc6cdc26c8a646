"""``report.html``: a run as one page that anyone can open, without a network (docs/outputs.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from capecam.errors import UsageError
from capecam.ledger import replacing
from capecam.report.facts import Facts
from capecam.report.page import Entry, data_url, queue_rows, render
from capecam.report.pictures import album

__all__ = ["REPORT", "Panels", "write_report"]

REPORT = "report.html"

QUEUE = 48
"""Objects of the review queue that are shown: about 1 MB of pictures."""

PanelOf = Callable[[str], bytes | None]
"""The panel of a detection as WebP, by its id; None where it cannot be made."""


@dataclass(frozen=True, slots=True)
class Panels:
    """Panels that are recomputed for the head of the queue."""

    count: int
    of: PanelOf

    def __post_init__(self) -> None:
        if self.count < 0:
            raise UsageError(f"--panels must be 0 or more, got {self.count}")


def write_report(
    out: Path, *, queue: int = QUEUE, panels: Panels | None = None, problem: str | None = None
) -> Path:
    """Write ``report.html`` into the folder of a run.

    Args:
        out: the folder, with its city products.
        queue: how many objects of the review queue to show.
        panels: for the first of these.
        problem: why there are no panels, although they were asked for.

    Raises:
        OutputError: the folder holds no run, no finished cell, or no city products.
    """
    facts = Facts.read(out)
    text = render(facts, _entries(facts, queue, panels), problem)
    with replacing(out / REPORT) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return out / REPORT


def _entries(facts: Facts, length: int, panels: Panels | None) -> list[Entry]:
    """The head of the review queue, with pictures."""
    objects, classes = facts.queue(length), facts.run.settings.model.classes
    entries = []
    heat = facts.run.heat(facts.method)
    with album(facts.run, heat, float(facts.pixel_m[0])) as pictures:
        for place, (row, shape) in enumerate(
            zip(queue_rows(objects), objects.geometry, strict=True)
        ):
            color = classes[row["class_id"]].color
            picture = pictures.picture(shape, row["class_id"], color, row["images"])
            panel = panels.of(row["id"]) if panels and place < panels.count else None
            entries.append(Entry(row, picture, data_url(panel, "webp") if panel else None))
    return entries
