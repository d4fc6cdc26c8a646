"""Remarks on images whose datum or epoch is not, or may not be, that of the mosaic."""

from __future__ import annotations

from collections.abc import Iterator

from capecam.imagery.datum import datum_of, is_assumed, same_crs
from capecam.imagery.datum_shift import datum_shift
from capecam.imagery.header import Header
from capecam.mosaic.mosaic import Mosaic

Remark = tuple[str, str, bool]
"""Finding, action of the run, and whether it is a warning."""


def datum_remarks(header: Header, mosaic: Mosaic) -> Iterator[Remark]:
    """Compare the datum and the epoch of an image with those of the mosaic."""
    crs = mosaic.grid.crs
    own, common = datum_of(header.crs), datum_of(crs)
    if not same_crs(header.crs, crs):
        if own.code != common.code or not own.code:
            shift = datum_shift(header.placement, crs)
            poor = shift.accuracy_m is None or bool(shift.grids)
            remedy = "; reproject it with gdalwarp and those files if that is too coarse"
            yield (
                f"has the datum {own.name} and not {common.name}, that of the mosaic",
                f"is resampled from one to the other: {shift}{remedy if poor else ''}",
                poor,
            )
    elif is_assumed(header.crs, crs):
        yield (
            f"has the datum {own.name!r}, which may not be {common.name}, that of the mosaic",
            "is taken to have that: if not, all of it lies a metre or more off; write its right "
            "CRS into it with gdal_edit.py -a_srs",
            True,
        )
    epochs = {source.header.frame.epoch for source in mosaic.sources}
    if header.frame.epoch is None and len(epochs) > 1:
        yield (
            "does not say the epoch of its coordinates, and others do",
            "is taken to have theirs; write it with gdal_edit.py -a_coord_epoch",
            True,
        )
