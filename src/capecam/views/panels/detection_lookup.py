"""The detections of a run that a panel can be about."""

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

from capecam.errors import UsageError
from capecam.grid import Grid

NEAREST = 3
"""Ids that are offered for one that is not there."""


@dataclass(frozen=True, slots=True)
class Detection:
    """A detection."""

    facts: Mapping[str, Any]
    """Its row of ``detections.parquet``, without the geometry (docs/outputs.md)."""
    region: Any
    """Shape in lattice pixels."""

    @property
    def id(self) -> str:
        """As in the column ``id``."""
        return str(self.facts["id"])

    @property
    def class_id(self) -> int:
        """From 1 on."""
        return int(self.facts["class_id"])

    @property
    def lonlat(self) -> tuple[float, float]:
        """A point inside, in degrees, WGS 84."""
        return float(self.facts["lon"]), float(self.facts["lat"])

    @property
    def images(self) -> tuple[str, ...]:
        """Names of those that it lies on."""
        return tuple(str(self.facts["images"]).split(","))


def find(path: Path, id_: str, grid: Grid) -> Detection:
    """The detection of an id.

    Args:
        path: ``detections.parquet``.
        id_: as in the column ``id``.
        grid: of the lattice.

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    row = _row(path, id_)
    if row is None:
        raise UsageError(f"{path}: there is no detection {id_!r}{_instead(path, id_)}")
    region = shapely.transform(row.pop("geometry"), grid.to_lattice)
    return Detection(row, region)


def _row(path: Path, id_: str) -> dict[str, Any] | None:
    """Of all rows only the ids are read, and then the row group with the one that is wanted."""
    with pq.ParquetFile(path) as file:
        place = pc.index(file.read(columns=["id"])["id"], id_).as_py()
        for group in range(file.num_row_groups if place >= 0 else 0):
            count = file.metadata.row_group(group).num_rows
            if place < count:
                rows = gpd.GeoDataFrame.from_arrow(file.read_row_group(group).slice(place, 1))
                row: dict[str, Any] = rows.iloc[0].to_dict()
                return row
            place -= count
    return None


def queue(path: Path, count: int) -> list[str]:
    """The ids of the first ``count`` of the review queue.

    Raises:
        UsageError: there is no detection.
    """
    table = pd.read_parquet(path, columns=["id", "review"])
    if table.empty:
        raise UsageError(f"{path}: holds no detection, so there is nothing to show; try --at X,Y")
    return [str(each) for each in table.nsmallest(count, "review")["id"]]


def _instead(path: Path, id_: str) -> str:
    """The ids whose first pixels are nearest to that in the id: it is CLASS_COLUMN_ROW."""
    known = pd.read_parquet(path, columns=["id"])["id"]
    if known.empty:
        return ": it holds none"
    place = _numbers([id_])
    if not len(place):
        return f"; an id is CLASS_COLUMN_ROW, such as {known.iloc[0]}"
    off = np.abs(_numbers(known.tolist()) - place)
    nearest = known.iloc[np.lexsort((off[:, 0], off[:, 1:].sum(axis=1)))[:NEAREST]]
    return f"; the nearest are {', '.join(nearest)}"


def _numbers(ids: Sequence[str]) -> np.ndarray[Any, Any]:
    """(N, 3) of ids; without those that are none."""
    parts = [id_.split("_") for id_ in ids]
    found = [p for p in parts if len(p) == 3 and all(n.lstrip("-").isdigit() for n in p)]
    return np.array(found, np.int64).reshape(-1, 3)
