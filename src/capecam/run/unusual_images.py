"""Record what is unusual about images, also about their pixels, which the cells have seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from capecam.mosaic.diagnostics import Diagnostic, DiagnosticGroup
from capecam.store.records import CellRecord, RunRecord, UnusualRecord

MIN_BORDER = 0.02
"""Share of an image from which a border that is not marked as nodata is worth a warning."""


def pixel_diagnostics(cells: Mapping[str, CellRecord]) -> tuple[DiagnosticGroup, ...]:
    """Return the remarks on the pixels of finished cells, by image."""
    valid: dict[str, int] = defaultdict(int)
    border: dict[str, float] = defaultdict(float)
    for cell in cells.values():
        valid[cell.image] += 0 if cell.blank else cell.valid_px
        border[cell.image] += cell.valid_px * cell.border_share
    empty = tuple(name for name, px in valid.items() if not px)
    shares = {name: border[name] / px for name, px in valid.items() if px}
    bordered = tuple(name for name, share in shares.items() if share >= MIN_BORDER)
    return (*_empty(empty), *_bordered(bordered, max(shares.values(), default=0.0)))


def _empty(images: tuple[str, ...]) -> tuple[DiagnosticGroup, ...]:
    diagnostic = Diagnostic(
        "has no valid pixel in the part that was processed",
        "is nodata in all products; if it shows something, correct its mask, alpha band or nodata "
        "value (gdalinfo -stats shows them), and run again",
        warning=True,
    )
    return (DiagnosticGroup(diagnostic, images),) if images else ()


def _bordered(images: tuple[str, ...], largest: float) -> tuple[DiagnosticGroup, ...]:
    diagnostic = Diagnostic(
        "has a nearly black or white border that is not marked as nodata",
        f"counts as imagery, up to {largest:.0%} of an image; --collar auto leaves out what is "
        "black or white to 2 levels, nearblack -setmask (GDAL) marks the rest",
        warning=True,
    )
    return (DiagnosticGroup(diagnostic, images),) if images else ()


def unusual_records(
    groups: Iterable[DiagnosticGroup], seen_in: Literal["headers", "pixels"]
) -> tuple[UnusualRecord, ...]:
    """Return remarks as ``run.json`` has them."""
    return tuple(UnusualRecord(**group.to_json(), seen_in=seen_in) for group in groups)


def pixel_warnings(record: RunRecord) -> Iterator[str]:
    """Yield a line for each kind of image that looks wrong now that its pixels have been seen."""
    for entry in record.unusual:
        if entry.warning and entry.seen_in == "pixels":
            group = DiagnosticGroup(Diagnostic(entry.what, entry.does), entry.images)
            yield f"warning: {group}"
