"""Objects that a file holds several times, and several objects that it holds as one.

Merged deliveries hold buildings or annotations twice or thrice; a dissolved layer holds all objects
of a class as one feature. Counts and scores of such files are wrong without looking wrong.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

log = logging.getLogger(__name__)

SAME_IOU = 0.95
"""IoU of one outline that was rounded or drawn again; two objects never overlap so much."""

APART_M = 2.0
"""Gap between parts that are several objects; rows of modules on a roof are closer. Parts of a
detection are at most some pixels apart."""

DEDUPLICATE = "take them out with 'Delete duplicate geometries' of QGIS"
FIND = "find them with the rule 'must not overlap' of the Topology Checker of QGIS"
SPLIT = "split them with 'Multipart to singleparts' of QGIS or ogr2ogr -explodecollections"


def without_repeated(
    table: gpd.GeoDataFrame, path: Path, what: str, unit_m: float = 1.0
) -> gpd.GeoDataFrame:
    """Return a table without the exact copies of earlier objects; warn of them, and of others.

    Args:
        table: objects in a projection; with ``class_id``, copies have the same.
        path: file, for messages.
        what: plural of the objects.
        unit_m: length of a unit of the projection.
    """
    copies = _repeats(table, ["shape", "class"])
    if copies.any():
        log.warning(
            "%s: %d of %d %s are exact copies of others, which count once; %s",
            path, copies.sum(), len(table), what, DEDUPLICATE,
        )  # fmt: skip
    once = table[~copies]
    disputed = _repeats(once, ["shape"])
    if disputed.any():
        log.warning(
            "%s: %d of %d %s have the outline of one of another class, and both count; correct "
            "their class",
            path, disputed.sum(), len(table), what,
        )  # fmt: skip
    warn_of_repeated(once, path, what, unit_m)
    return once


def warn_of_repeated(table: gpd.GeoDataFrame, path: Path, what: str, unit_m: float = 1.0) -> None:
    """Warn of objects that are there twice, or several in one: see :func:`without_repeated`."""
    repeated = _near_copies(table)
    if repeated:
        log.warning(
            "%s: %d of %d %s are nearly the same as others (IoU over %g), and all count; %s",
            path, repeated, len(table), what, SAME_IOU, FIND,
        )  # fmt: skip
    groups = _groups(np.asarray(table.geometry.to_numpy()), APART_M / unit_m)
    several = groups > 1
    if several.any():
        log.warning(
            "%s: %d of %d %s have parts more than %g m apart, %d groups of parts that count as %d; "
            "if they are objects of their own, %s",
            path, several.sum(), len(table), what, APART_M, groups[several].sum(), several.sum(),
            SPLIT,
        )  # fmt: skip


def _repeats(table: gpd.GeoDataFrame, keys: list[str]) -> NDArray[np.bool_]:
    """Return (N,) True for rows with the shape, or shape and class, of an earlier one."""
    shapes = shapely.to_wkb(shapely.normalize(table.geometry.to_numpy()))
    rows = pd.DataFrame({"shape": shapes, "class": _classes(table)})
    return np.asarray(rows.duplicated(keys))


def _near_copies(table: gpd.GeoDataFrame) -> int:
    """Return the number of rows that overlap an earlier one of their class nearly wholly."""
    shapes, classes = np.asarray(table.geometry.to_numpy()), _classes(table)
    a, b = shapely.STRtree(shapes).query(shapes)
    area = shapely.area(shapes)
    alike = np.minimum(area[a], area[b]) >= SAME_IOU * np.maximum(area[a], area[b])
    chosen = (a < b) & alike & (classes[a] == classes[b])
    a, b = a[chosen], b[chosen]
    common = shapely.area(shapely.intersection(shapes[a], shapes[b]))
    return len(np.unique(b[common > SAME_IOU * (area[a] + area[b] - common)]))


def _classes(table: gpd.GeoDataFrame) -> NDArray[Any]:
    return table["class_id"].to_numpy() if "class_id" in table else np.zeros(len(table), np.int64)


def _groups(shapes: NDArray[np.object_], gap: float) -> NDArray[np.intp]:
    """Return (N,) the number of groups of parts with at most a gap between neighbours."""
    multiple = np.flatnonzero(shapely.get_num_geometries(shapes) > 1)
    parts, owner = shapely.get_parts(shapes[multiple], return_index=True)
    a, b = shapely.STRtree(parts).query(parts, predicate="dwithin", distance=gap)
    own = owner[a] == owner[b]
    links = coo_array((np.ones(own.sum(), np.int8), (a[own], b[own])), shape=(len(parts),) * 2)
    _, group = connected_components(links, directed=False)
    _, first = np.unique(group, return_index=True)
    groups = np.ones(len(shapes), np.intp)
    groups[multiple] = np.bincount(owner[first], minlength=len(multiple))
    return groups
