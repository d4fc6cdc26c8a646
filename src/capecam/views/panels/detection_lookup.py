"""Lookup of detections by id or by their rank in the review queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from capecam.errors import UsageError
from capecam.grid import Grid
from capecam.io.vector_writer import data_columns

SUGGESTIONS = 3
"""Number of similar ids that are suggested for an unknown one."""


@dataclass(frozen=True, slots=True)
class Detection:
    """A detection of a run."""

    row: Mapping[str, Any]
    """Its row of ``detections.parquet``, without the geometry (docs/outputs.md)."""
    outline: shapely.Geometry
    """Shape in exact pixel coordinates of the grid."""

    @property
    def id(self) -> str:
        """Return the id."""
        return str(self.row["id"])

    @property
    def class_id(self) -> int:
        """Return the index of the class, from 1."""
        return int(self.row["class_id"])

    @property
    def lonlat(self) -> tuple[float, float]:
        """Return a point inside, in degrees, WGS 84."""
        return float(self.row["lon"]), float(self.row["lat"])

    @property
    def images(self) -> tuple[str, ...]:
        """Return the names of the images that it is on."""
        return tuple(str(self.row["images"]).split(","))


def find(path: Path, id_: str, grid: Grid) -> Detection:
    """Return the detection with an id.

    Args:
        path: ``detections.parquet``.
        id_: id of the detection.
        grid: pixel grid of the run.

    Raises:
        UsageError: there is no such detection; the message names the nearest.
    """
    row = _read_row(path, id_)
    if row is None:
        raise UsageError(f"{path}: there is no detection {id_!r}{_suggestion(path, id_)}")
    outline = shapely.transform(row.pop("geometry"), grid.to_lattice)
    return Detection(row, outline)


def _read_row(path: Path, id_: str) -> dict[str, Any] | None:
    """Return one row, or None; reads all ids, then only the row group that has it."""
    columns = data_columns(path)
    with pq.ParquetFile(path) as file:
        index = pc.index(file.read(columns=["id"])["id"], id_).as_py()
        for group in range(file.num_row_groups if index >= 0 else 0):
            count = file.metadata.row_group(group).num_rows
            if index < count:
                part = file.read_row_group(group, columns=columns).slice(index, 1)
                rows = gpd.GeoDataFrame.from_arrow(part)
                row: dict[str, Any] = rows.iloc[0].to_dict()
                return row
            index -= count
    return None


def queue(path: Path, count: int) -> list[str]:
    """Return the ids of the first ``count`` detections of the review queue.

    Raises:
        UsageError: there are no detections.
    """
    table = pd.read_parquet(path, columns=["id", "review"])
    if table.empty:
        raise UsageError(f"{path}: holds no detection, so nothing can be shown; try --at LON,LAT")
    return [str(id_) for id_ in table.nsmallest(count, "review")["id"]]


def _suggestion(path: Path, id_: str) -> str:
    """Return the ids whose first pixels are nearest to that in the id, CLASS_COLUMN_ROW."""
    ids = pd.read_parquet(path, columns=["id"])["id"]
    if ids.empty:
        return ": it holds none"
    numbers = _numbers([id_])
    if not len(numbers):
        return f"; an id is CLASS_COLUMN_ROW, such as {ids.iloc[0]}"
    difference = np.abs(_numbers(ids.tolist()) - numbers)
    order = np.lexsort((difference[:, 0], difference[:, 1:].sum(axis=1)))
    return f"; the nearest are {', '.join(ids.iloc[order[:SUGGESTIONS]])}"


def _numbers(ids: Sequence[str]) -> NDArray[np.int64]:
    """Return class, column and row of ids, (N, 3); malformed ids are left out."""
    parts = [id_.split("_") for id_ in ids]
    valid = [p for p in parts if len(p) == 3 and all(n.lstrip("-").isdigit() for n in p)]
    return np.array(valid, np.int64).reshape(-1, 3)
