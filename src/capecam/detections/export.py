"""Export of the detections to other formats, with the same columns and units."""

from __future__ import annotations

import logging
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from capecam.detections.column_descriptions import DECIMALS
from capecam.detections.regular_detections import regular_copy
from capecam.errors import OutputError, UsageError
from capecam.io.vector_writer import crs_of, data_columns, write_gpkg, write_layer
from capecam.runtime.files import atomic_write
from capecam.store.file_names import DETECTIONS, GEOPACKAGE, LAYER, REVIEW
from capecam.store.run_folder import known_run, product

log = logging.getLogger(__name__)

FORMATS = ("fgb", "geojson", "csv", "parquet", "gpkg", "pmtiles")

REGULAR, PIXEL = "regular", "pixel"
OUTLINES = (REGULAR, PIXEL)
"""Outlines of exports: with few vertices and right angles; along the pixels, as a run has them."""

TILE_COLUMNS = (
    "id", "class_id", "class", "area_m2", "confidence", "evidence", "p_right", "review", "geometry",
)  # fmt: skip
"""Columns in vector tiles, which are for a map: a page loads them again at every scale."""

ZOOM = {"MINZOOM": "13", "MAXZOOM": "16"}
"""Scales of the tiles. At 16 a unit of the coordinates is 0.12 m in Cape Town, less than two
pixels; a tile at 13 has 16 km², and GDAL leaves objects out of tiles of more than 500 kB."""

GDAL: dict[str, tuple[str, dict[str, Any]]] = {
    "fgb": ("FlatGeobuf", {}),
    "geojson": ("GeoJSON", {"decimals": DECIMALS, "layer_options": {"RFC7946": "YES"}}),
    "pmtiles": (
        "PMTiles",
        {
            "columns": TILE_COLUMNS,
            "decimals": DECIMALS,
            "dataset_options": {"NAME": LAYER, "TYPE": "overlay", **ZOOM},
        },
    ),
}
"""GDAL driver of a format, and options of ``write_layer``."""


def export(out: Path, kind: str, to: Path | None = None, outline: str | None = None) -> Path:
    """Write the detections of a run in one of ``FORMATS``; all but CSV have the geometry.

    GeoJSON is in longitude and latitude (RFC 7946), the others in the CRS of the imagery; CSV has
    the columns ``lon`` and ``lat``. PMTiles are vector tiles in Web Mercator with few columns.

    Args:
        out: the folder of a run.
        kind: one of ``FORMATS``.
        to: the file to write; by default ``detections.KIND`` in ``out``.
        outline: one of ``OUTLINES``; by default regular ones. The files that every run writes keep
            those of pixels.

    Returns:
        Path of the file.

    Raises:
        UsageError: the format or the outline is unknown.
        OutputError: there are no detections, or the file cannot be written.
    """
    if kind not in FORMATS:
        raise UsageError(f"--format must be one of {', '.join(FORMATS)}; got {kind!r}")
    if outline not in (None, *OUTLINES):
        raise UsageError(f"--outline must be one of {', '.join(OUTLINES)}; got {outline!r}")
    source = product(out, DETECTIONS)
    target = to or out / f"{LAYER}.{kind}"
    if target.resolve() in (source.resolve(), (out / GEOPACKAGE).resolve()):
        if outline == REGULAR:
            raise OutputError(
                f"{target}: keeps the outlines of pixels; name another file with --to"
            )
        if outline is None:
            log.info("%s: has the outlines of pixels; --to FILE gets regular ones", target)
        return target  # every run writes these
    _check_target(target, kind, source)
    with ExitStack() as stack:
        temporary = stack.enter_context(atomic_write(target))
        if outline != PIXEL and kind != "csv":
            grid = known_run(out).pixel_grid
            source = stack.enter_context(regular_copy(source, grid))
        if kind == "csv":
            table = pd.read_parquet(source, columns=data_columns(source)[:-1])
            table.round(DECIMALS).to_csv(temporary, index=False, lineterminator="\n")
        elif kind == "parquet":
            shutil.copyfile(source, temporary)
        elif kind == "gpkg":
            write_gpkg(temporary, {LAYER: source}, crs_of(source))
        else:
            driver, options = GDAL[kind]
            write_layer(source, temporary, LAYER, crs_of(source), driver=driver, **options)
    return target


def _check_target(target: Path, kind: str, source: Path) -> None:
    """Check that a file can be written, and have the detections of a GeoParquet.

    Raises:
        OutputError: it is a review, its folder is missing, or its format has no empty layers.
    """
    if target.name == REVIEW and target.exists():
        raise OutputError(f"{target}: holds what people say about a run; name another file")
    if not target.parent.is_dir():
        raise OutputError(f"{target}: there is no folder {target.parent}; make it first")
    if kind == "pmtiles" and pq.read_metadata(source).num_rows == 0:
        raise OutputError(
            f"{target}: there are no detections, and PMTiles have no empty layers; "
            f"take another --format: {', '.join(name for name in FORMATS if name != kind)}"
        )
