"""The objects of a city, from the pieces of its cells: joined, filtered, written.

Cells come from top to bottom, and an object goes out as soon as nothing that is still to come can
touch it: memory holds two rows of cells, whatever the size of the city.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import inf
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pyproj
import shapely
from numpy.typing import NDArray

from capecam.grid import Grid
from capecam.ledger import replacing
from capecam.settings import DetectionSettings
from capecam.vectors import COLUMNS, Pieces, first_pixels, join, measure, read_pieces

LAYER = "detections"

BATCH = 64
"""Cells that are joined at once: about a row of a city's."""

ROW_GROUP = 65_536
"""Rows of the GeoParquet that readers can skip together; never those of a batch of cells, so that
the file does not depend on how the work was cut."""


@dataclass(frozen=True, slots=True)
class Part:
    """The pieces of a cell, on disk."""

    row: int
    """The cell's first: no piece begins above it."""
    path: Path


def write_detections(
    out: Path,
    parts: Iterable[Part],
    grid: Grid,
    names: Sequence[str],
    settings: DetectionSettings,
) -> pd.DataFrame:
    """``detections.parquet``, ``detections.gpkg`` and ``summary.csv``.

    Args:
        out: the folder to write to.
        parts: of all cells.
        grid: of the lattice.
        names: of all classes, 0 first.
        settings: how pieces become objects.

    Returns:
        The summary: a row a foreground class, those without a detection included.
    """
    crs = pyproj.CRS.from_wkt(grid.crs)
    with (
        replacing(out / "detections.parquet") as parquet,
        replacing(out / "detections.gpkg") as gpkg,
        replacing(out / "summary.csv") as csv,
    ):
        _write_parquet(parquet, _tables(parts, grid, names, settings), crs)
        _write_gpkg(gpkg, parquet, crs)
        summary = _summary(pd.read_parquet(parquet, columns=["class_id", "area_m2"]), names)
        summary.to_csv(csv, index=False, lineterminator="\n")
    return summary


def _tables(
    parts: Iterable[Part], grid: Grid, names: Sequence[str], settings: DetectionSettings
) -> Iterator[gpd.GeoDataFrame]:
    """Objects from top to bottom, at least one table; what is too small is left out."""
    for objects in sweep(_batches(parts, grid), settings.join_distance_px):
        table = measure(objects, grid, names)
        large = table["area_m2"] > settings.min_area_m2
        yield table.loc[large, [*COLUMNS, "geometry"]]


def _batches(parts: Iterable[Part], grid: Grid) -> Iterator[tuple[Pieces, float]]:
    """The pieces of some cells, and the row above which none of the rest begins."""
    ordered = sorted(parts, key=lambda part: (part.row, part.path))
    for start in range(0, len(ordered), BATCH):
        here, rest = ordered[start : start + BATCH], ordered[start + BATCH :]
        pieces = Pieces.concatenate([read_pieces(part.path, grid) for part in here])
        yield pieces, rest[0].row if rest else inf


def sweep(batches: Iterable[tuple[Pieces, float]], distance_px: float) -> Iterator[Pieces]:
    """What :func:`capecam.vectors.join` makes of all batches at once, in the same order.

    Args:
        batches: pieces, with the row above which no piece of a later batch begins.
        distance_px: up to which pieces of one class belong together.
    """
    held = Pieces.concatenate([])
    for pieces, below in batches:
        held = join(Pieces.concatenate([held, pieces]), distance_px)
        _, top = first_pixels(held.geometry)
        bottom = shapely.bounds(held.geometry)[:, 3]
        whole = bottom + distance_px < below
        ready = whole & (top < np.min(top[~whole].astype(float), initial=below))
        yield held.take(ready)
        held = held.take(~ready)


def _write_parquet(path: Path, tables: Iterable[gpd.GeoDataFrame], crs: pyproj.CRS) -> None:
    """GeoParquet from tables of any length, of which there is at least one.

    ``GeoDataFrame.to_parquet`` wants all rows at once.
    """
    bounds: list[NDArray[np.float64]] = []

    def arrow() -> Iterator[pa.Table]:
        for table in tables:
            bounds.append(table.total_bounds)
            yield pa.table(table.to_arrow(index=False, geometry_encoding="WKB"))

    groups = _row_groups(arrow())
    first = next(groups)
    with pq.ParquetWriter(path, first.schema) as writer:
        for group in chain([first], groups):
            writer.write_table(group)
        writer.add_key_value_metadata({"geo": json.dumps(_geo(crs, np.array(bounds)))})


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Tables of ``ROW_GROUP`` rows; the last has what is left."""
    held: pa.Table | None = None
    for table in tables:
        held = table if held is None else pa.concat_tables([held, table])
        while len(held) > ROW_GROUP:
            yield held.slice(0, ROW_GROUP).combine_chunks()
            held = held.slice(ROW_GROUP)
    if held is not None:
        yield held.combine_chunks()


def _geo(crs: pyproj.CRS, bounds: NDArray[np.float64]) -> dict[str, Any]:
    """What makes it GeoParquet (specification 1.1.0); bounds (N, 4) are NaN for empty tables."""
    column = {"encoding": "WKB", "crs": crs.to_json_dict(), "geometry_types": ["MultiPolygon"]}
    bounds = bounds[~np.isnan(bounds[:, 0])]
    if len(bounds):
        column["bbox"] = [*bounds[:, :2].min(axis=0).tolist(), *bounds[:, 2:].max(axis=0).tolist()]
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _write_gpkg(path: Path, parquet: Path, crs: pyproj.CRS) -> None:
    """The same as a GeoPackage, a row group at a time."""
    with pq.ParquetFile(parquet) as table:
        pyogrio.write_arrow(
            pa.RecordBatchReader.from_batches(table.schema_arrow, table.iter_batches()),
            path,
            driver="GPKG",
            layer=LAYER,
            geometry_name="geometry",
            geometry_type="MultiPolygon",
            crs=crs.to_wkt("WKT1_GDAL"),
            dataset_options={"VERSION": "1.2"},  # 1.3 and later make older QGIS warn
        )


def _summary(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    by_class = table.groupby("class_id")["area_m2"].agg(["count", "sum"])
    by_class = by_class.reindex(range(1, len(names)), fill_value=0)
    return pd.DataFrame(
        {
            "class_id": by_class.index,
            "class": list(names[1:]),
            "count": by_class["count"].to_numpy(int),
            "area_m2": by_class["sum"].to_numpy(float).round(2),
        }
    )
