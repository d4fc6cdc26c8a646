"""Filters for detections: too small, too unsure, not on a building."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from capecam.detections.regions import Pieces, Polygons
from capecam.settings import DetectionSettings

REASONS = ("small", "unsure", "off building")
"""Reasons to reject an object, in the order of the rules; the first that holds is given."""

TOLERANCE = 1e-9
"""Of a share: the quotient of two areas may be slightly below 80 % where it is meant to be 80 %."""


def rejection_reasons(
    objects: Pieces,
    table: pd.DataFrame,
    settings: DetectionSettings,
    names: Sequence[str],
    buildings: shapely.STRtree | None = None,
) -> NDArray[np.object_]:
    """Return (N,) one of ``REASONS`` each, or an empty text for objects that are kept.

    Args:
        objects: in lattice pixels.
        table: their ``class_id``, ``area_m2`` and ``confidence``.
        settings: the rules.
        names: of all classes, 0 first.
        buildings: footprints in lattice pixels; None for no rule about buildings.
    """
    class_id = table["class_id"].to_numpy()
    min_area_m2, min_confidence = (
        np.array(settings.by_class(key, names))[class_id]
        for key in ("min_area_m2", "min_confidence")
    )
    small = table["area_m2"].to_numpy() <= min_area_m2
    unsure = table["confidence"].to_numpy() < min_confidence
    off = np.zeros(len(objects), np.bool_)
    if buildings is not None:
        rest = np.flatnonzero(~small & ~unsure)
        share = share_on_buildings(objects.geometry[rest], buildings)
        off[rest] = share < settings.footprint_share - TOLERANCE
    return np.select([small, unsure, off], REASONS, "").astype(object)


def share_on_buildings(shapes: Polygons, buildings: shapely.STRtree) -> NDArray[np.float64]:
    """Return (N,) the share of each shape's area on buildings; overlapping ones count once."""
    shape, building = buildings.query(shapes, predicate="intersects")
    order = np.argsort(shape, kind="stable")
    shape, building = shape[order], building[order]
    overlaps = shapely.intersection(buildings.geometries[building], shapes[shape])
    covered = np.zeros(len(shapes))
    _, starts = np.unique(shape, return_index=True)
    for start, parts in zip(starts, np.split(overlaps, starts)[1:], strict=True):
        covered[shape[start]] = shapely.union_all(parts).area
    return np.asarray(covered / np.maximum(shapely.area(shapes), 1))
