"""Change between two runs of one city: detections that are kept, new or gone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import shapely
from numpy.typing import NDArray

from capecam.analysis.matching import match
from capecam.detections.measurement import inside_points
from capecam.errors import UsageError
from capecam.grid import Grid
from capecam.imagery.datum import registered_crs
from capecam.io.coverage import Coverage
from capecam.io.reprojection import reproject_table
from capecam.settings import ClassSettings
from capecam.store.file_names import DETECTIONS
from capecam.store.run_folder import RunFolder, product

Integers = NDArray[np.int64]

MIN_IOU = 0.1
"""Minimum IoU of the same object in two runs. The 0.5 of scores is too strict for two years: images
of 8 cm are off by some decimetres, and roofs lean with the position of the aircraft. A water heater
of 2.3 m² (1.5 x 1.5 m) shifted by 0.5 m in both directions has an IoU of 0.29, by 1 m of 0.06."""

READ = ("id", "class_id", "class", "area_m2", "confidence", "lon", "lat")
"""Columns of detections that are read."""

STATUSES = ("kept", "new", "gone", "unseen")

CHANGES = ("run", "status", "id", "other_id", "iou", *READ[1:])
"""Columns of the changes, before the geometry."""


@dataclass(frozen=True, slots=True)
class RunYear:
    """Detections of a run, and its coverage by valid imagery."""

    out: Path
    classes: tuple[ClassSettings, ...]
    """Foreground classes, class 1 first."""
    grid: Grid
    """Pixel grid of the mosaic."""
    detections: gpd.GeoDataFrame
    """Columns ``READ`` and geometry, in the imagery's CRS."""
    coverage: Coverage
    """Coverage of the layer ``classes``: imagery is valid where it has a value."""

    @classmethod
    def open(cls, out: Path) -> RunYear:
        """Open the run in an output folder.

        Raises:
            OutputError: the folder holds no run with city products.
        """
        run = RunFolder.open_finished(out)
        path, overview = (product(out, name) for name in (DETECTIONS, "classes.overview.tif"))
        table = gpd.read_parquet(path, columns=[*READ, "geometry"])
        coverage = Coverage(run.layer("classes.tif"), overview)
        return cls(out, run.settings.model.classes[1:], run.grid, table, coverage)

    @property
    def crs(self) -> pyproj.CRS:
        """Return the CRS of the imagery."""
        return registered_crs(self.grid.crs)

    @property
    def extent(self) -> shapely.Polygon:
        """Return the extent of the mosaic in the imagery's CRS, gaps and nodata included."""
        return shapely.transform(self.grid.window.box, self.grid.to_map)

    def is_covered(self, points: gpd.GeoSeries) -> NDArray[np.bool_]:
        """Return (N,) True where there is valid imagery at points in any CRS."""
        xy = shapely.get_coordinates(points.to_crs(self.crs).to_numpy())
        return self.coverage.at(self.grid.to_pixels(xy))


def check_comparable(before: RunYear, after: RunYear) -> None:
    """Raise UsageError if two runs have different classes."""
    names = [[entry.name for entry in year.classes] for year in (before, after)]
    if names[0] != names[1]:
        raise UsageError(
            f"{before.out} and {after.out} have different classes "
            f"({', '.join(names[0])}; {', '.join(names[1])}) and cannot be compared"
        )


def compare_runs(before: RunYear, after: RunYear, min_iou: float = MIN_IOU) -> gpd.GeoDataFrame:
    """Return all detections of both runs in the CRS of the later one: ``CHANGES`` and geometry.

    Detections of one class are matched one to one (``matching.match``). ``kept`` has a
    partner in the other run; without one a detection is ``new`` (in the later run), ``gone`` (in
    the earlier), or ``unseen``: its inside point has no valid imagery in the other run.

    Args:
        before: the earlier run.
        after: the later.
        min_iou: minimum overlap of the same object.
    """
    old = reproject_table(before.detections, after.crs, after.extent)
    new = after.detections
    i, j, iou = _pairs(old, new, min_iou)
    changes = [
        _with_partners(old.assign(run="before"), i, new["id"].to_numpy()[j], iou),
        _with_partners(new.assign(run="after"), j, old["id"].to_numpy()[i], iou),
    ]
    for table, alone, other in zip(changes, ("gone", "new"), (after, before), strict=True):
        table["status"] = _statuses(table, alone, other)
    both = pd.concat(changes, ignore_index=True)
    return both[[*CHANGES, "geometry"]].set_crs(after.crs, allow_override=True)


def _with_partners(
    table: gpd.GeoDataFrame, rows: Integers, ids: NDArray[Any], iou: NDArray[np.float64]
) -> gpd.GeoDataFrame:
    """Return the table with ``other_id`` and ``iou``, which are set in these rows only."""
    partner, overlap = np.full(len(table), None, object), np.full(len(table), np.nan)
    partner[rows], overlap[rows] = ids, iou
    return table.assign(other_id=pd.Series(partner, index=table.index, dtype="str"), iou=overlap)


def _statuses(table: gpd.GeoDataFrame, alone: str, other: RunYear) -> pd.Series:
    """Return the status of each detection: ``kept``, ``unseen``, or ``alone``."""
    status = np.where(table["other_id"].notna(), "kept", alone).astype(object)
    lone = np.flatnonzero(status == alone)
    seen = other.is_covered(inside_points(table.iloc[lone], other.crs, other.extent.centroid.x))
    status[lone[~seen]] = "unseen"
    return pd.Series(status, index=table.index, dtype="str")


def _pairs(
    old: gpd.GeoDataFrame, new: gpd.GeoDataFrame, min_iou: float
) -> tuple[Integers, Integers, NDArray[np.float64]]:
    """Return the rows of both tables that are the same object, and their IoU."""
    pairs = []
    for class_id in np.intersect1d(old["class_id"], new["class_id"]):
        a, b = (np.flatnonzero(table["class_id"] == class_id) for table in (old, new))
        i, j, iou = match(
            old.geometry.to_numpy()[a], new.geometry.to_numpy()[b], min_iou, most_pairs=False
        )
        pairs.append((a[i], b[j], iou))
    if not pairs:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    i, j, iou = (np.concatenate(column) for column in zip(*pairs, strict=True))
    return i, j, iou
