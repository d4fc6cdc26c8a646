"""Verdicts of people on the detections of a run as it is now.

A verdict is about the outline that was looked at, and not about an id: ids change when the grid
moves, and the same id may come to mean another outline. So a verdict belongs to the detection that
its outline overlaps by more than half of their union (IoU). No outline overlaps two that are
disjoint by so much, nor two disjoint outlines the same one, so that the match is one to one without
a choice. What has no such detection is listed, and stays in the file.

Another year is another matter: an object may have been built or taken down since, and a verdict on
the images of one year says nothing about those of the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import shapely
from numpy.typing import NDArray

from capecam.analysis.matching import overlaps
from capecam.analysis.review.review_file import RIGHT, WRONG
from capecam.detections.measurement import metric_crs
from capecam.io.reprojection import WGS84, reproject_table
from capecam.store.run_folder import RunFolder

SAME_IOU = 0.5
"""IoU above which two outlines are the same object. From one half on, a match is unique; it is also
the minimum of ``capecam evaluate``."""

UNKNOWN = -1
"""Class of what nobody has looked at."""

COLUMNS = ["id", "class_id", "class", "area_m2", "confidence", "lon", "lat", "geometry"]


@dataclass(frozen=True, slots=True, eq=False)
class MatchedVerdicts:
    """Rows of the layer ``verdicts`` with the detections that they are about."""

    rows: gpd.GeoDataFrame
    """Rows of ``Review.verdicts``, with

    - ``detection``: position in the table of detections, -1 without one;
    - ``iou``: overlap with it, or the best overlap with any;
    - ``by``: ``id`` if the ids are equal, else ``overlap``; "" without a detection;
    - ``truth_id``: class that the object is, 0 if there is none, -1 if nobody has looked;
    - ``is_right``: whether the class of the detection is that;
    - ``reason``: why there is no detection, else "".
    """

    @property
    def matched(self) -> gpd.GeoDataFrame:
        """Return the rows with a detection, also those not yet looked at."""
        return self.rows[self.rows["detection"] >= 0]

    @property
    def looked_at(self) -> gpd.GeoDataFrame:
        """Return the rows with a detection and a verdict."""
        return self.rows[(self.rows["detection"] >= 0) & (self.rows["truth_id"] != UNKNOWN)]

    @property
    def unmatched(self) -> gpd.GeoDataFrame:
        """Return the rows with a verdict and without a detection."""
        return self.rows[(self.rows["detection"] < 0) & (self.rows["truth_id"] != UNKNOWN)]


def detections_of(run: RunFolder) -> gpd.GeoDataFrame:
    """Return the detections of a run as verdicts are matched with them."""
    return gpd.read_parquet(run.detections(), columns=COLUMNS)


def match_verdicts(verdicts: gpd.GeoDataFrame, detections: gpd.GeoDataFrame) -> MatchedVerdicts:
    """Return verdicts with the detections that they are about.

    An object that was looked at several times has several rows with the same detection; see
    :func:`one_per_detection`.

    Args:
        verdicts: rows of ``Review.verdicts``.
        detections: ``id``, ``class_id`` and outlines that do not overlap, in the same CRS.
    """
    theirs = np.asarray(verdicts.geometry.to_numpy(), object)
    ours = np.asarray(detections.geometry.to_numpy(), object)
    best, iou = _best(theirs, ours)
    ids, classes = detections["id"].to_numpy(object), detections["class_id"].to_numpy(np.int64)
    is_same = iou > SAME_IOU
    now = np.where(is_same, classes[best] if len(classes) else 0, 0)
    truth = truth_ids(verdicts)
    changed = is_same & (truth == 0) & (now != verdicts["class_id"].to_numpy())
    is_same &= ~changed
    equal = is_same & (verdicts["id"].to_numpy(object) == (ids[best] if len(ids) else ""))
    reasons = [
        _reason(row_id, row_id in known, overlap)
        for known in [set(ids)]
        for row_id, overlap in zip(verdicts["id"], iou, strict=True)
    ]
    rows = verdicts.assign(
        detection=np.where(is_same, best, -1),
        iou=iou,
        by=np.select([equal, is_same], ["id", "overlap"], ""),
        truth_id=truth,
        is_right=is_same & (truth == now),
        reason=np.select(
            [is_same, changed], ["", "is of another class now, and was wrong as the old one"],
            np.array(reasons, object),
        ),
    )  # fmt: skip
    return MatchedVerdicts(rows)


def truth_ids(verdicts: pd.DataFrame) -> NDArray[np.int64]:
    """Return (N,) the class that each object is, 0 if there is no object, -1 if nobody has looked.

    Args:
        verdicts: rows of ``Review.verdicts``.
    """
    verdict = verdicts["verdict"].to_numpy(object)
    choices = [verdicts["class_id"].to_numpy(), verdicts["true_class_id"].to_numpy()]
    truth = np.select([verdict == RIGHT, verdict == WRONG], choices, UNKNOWN)
    return np.asarray(truth, np.int64)


def _best(
    theirs: NDArray[np.object_], ours: NDArray[np.object_]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return (N,) the index of the outline of ours with the highest IoU, and that IoU."""
    best, highest = np.zeros(len(theirs), np.intp), np.zeros(len(theirs))
    i, j, iou = overlaps(theirs, ours, 0.0)
    order = np.argsort(iou, kind="stable")
    best[i[order]], highest[i[order]] = j[order], iou[order]  # the last, which is the highest
    return best, highest


def _reason(row_id: str, is_known: bool, iou: float) -> str:
    if is_known:
        return f"the outline of {row_id} is another now (IoU {iou:.2f})"
    if iou > 0:
        return f"the outline there is another now (IoU {iou:.2f})"
    return "there is no detection any more"


@dataclass(frozen=True, slots=True, eq=False)
class DistinctVerdicts:
    """At most one verdict on each detection."""

    rows: gpd.GeoDataFrame
    """The last verdict on each detection."""
    disputed: gpd.GeoDataFrame
    """Rows that contradict each other without saying which is the later; none of them counts."""


def one_per_detection(looked_at: gpd.GeoDataFrame) -> DistinctVerdicts:
    """Return the last verdict on each detection, by ``checked_at``.

    Args:
        looked_at: rows of ``MatchedVerdicts.looked_at``, of one kind: queue or sample.
    """
    ordered = looked_at.sort_values(["checked_at", "row"], kind="stable")
    last = ordered.drop_duplicates("detection", keep="last")
    by_detection = last.set_index("detection")
    final = by_detection.loc[ordered["detection"]]
    is_tied = ordered["checked_at"].to_numpy() == final["checked_at"].to_numpy()
    differs = ordered["truth_id"].to_numpy() != final["truth_id"].to_numpy()
    disputed = set(ordered["detection"][is_tied & differs])
    is_disputed = ordered["detection"].isin(disputed)
    return DistinctVerdicts(
        last[~last["detection"].isin(disputed)].sort_index(), ordered[is_disputed].sort_index()
    )


def found_since(missed: gpd.GeoDataFrame, detections: gpd.GeoDataFrame) -> NDArray[np.bool_]:
    """Return (N,) True for missed objects that the map has now, as one of their class.

    Args:
        missed: rows of ``Review.missed``; a point is found where it lies in a detection.
        detections: ``class_id`` and outlines, in the same CRS.
    """
    theirs = np.asarray(missed.geometry.to_numpy(), object)
    ours = np.asarray(detections.geometry.to_numpy(), object)
    is_point = shapely.get_dimensions(theirs) == 0
    points = np.flatnonzero(is_point)
    i, j = shapely.STRtree(ours).query(theirs[points], predicate="intersects")
    outlines = theirs.copy()
    outlines[points] = shapely.Polygon()
    a, b, iou = overlaps(outlines, ours, 0.0)
    near = iou > SAME_IOU
    i, j = np.concatenate([points[i], a[near]]), np.concatenate([j, b[near]])
    same = missed["class_id"].to_numpy()[i] == detections["class_id"].to_numpy()[j]
    found = np.zeros(len(theirs), np.bool_)
    found[i[same]] = True
    return found


def areas_m2(table: gpd.GeoDataFrame, given: str) -> NDArray[np.float64]:
    """Return (N,) areas of rows of a review: what a column says, else those of the outlines."""
    areas: NDArray[np.float64] = table[given].to_numpy(np.float64, copy=True)
    missing = np.isnan(areas)
    if missing.any():
        outlines = table[missing]
        moved = reproject_table(outlines, metric_crs(outlines))
        areas[missing] = shapely.area(moved.geometry.to_numpy())
    return areas


def brief(rows: gpd.GeoDataFrame, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return rows of verdicts for a list: columns, and a point inside in degrees (WGS 84)."""
    points = shapely.point_on_surface(rows.geometry.to_numpy())
    to_degrees = pyproj.Transformer.from_crs(rows.crs, WGS84, always_xy=True)
    lon, lat = to_degrees.transform(shapely.get_x(points), shapely.get_y(points))
    plain = pd.DataFrame(rows[list(columns)]).assign(lon=np.round(lon, 7), lat=np.round(lat, 7))
    found: list[dict[str, Any]] = plain.to_dict("records")
    return found
