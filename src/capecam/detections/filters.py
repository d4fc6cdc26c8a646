"""Filters for detections: too small, too unsure, not on a building."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class DetectionFilter:
    """The rules of a run, by class."""

    min_area_m2: tuple[float, ...]
    """By class id, the background included."""
    min_confidence: tuple[float, ...]
    """By class id, 0..1."""
    buildings: shapely.STRtree | None = None
    """Footprints in lattice pixels; None for no rule about buildings."""
    building_share: float = 0.0
    """Smallest share of an object's area on buildings, 0..1."""

    @classmethod
    def of(
        cls,
        settings: DetectionSettings,
        names: Sequence[str],
        buildings: Polygons | None = None,
    ) -> DetectionFilter:
        """Create the filter from the settings.

        Args:
            settings: the rules.
            names: of all classes, 0 first.
            buildings: (N,) footprints in lattice pixels, if there are any.
        """
        return cls(
            tuple(settings.by_class("min_area_m2", names)),
            tuple(settings.by_class("min_confidence", names)),
            None if buildings is None else shapely.STRtree(buildings),
            settings.footprint_share,
        )

    def reasons(self, objects: Pieces, table: pd.DataFrame) -> NDArray[np.object_]:
        """Return (N,) one of ``REASONS`` each, or an empty text for objects that are kept.

        Args:
            objects: in lattice pixels.
            table: their ``class_id``, ``area_m2`` and ``confidence``.
        """
        class_id = table["class_id"].to_numpy()
        small = table["area_m2"].to_numpy() <= np.array(self.min_area_m2)[class_id]
        unsure = table["confidence"].to_numpy() < np.array(self.min_confidence)[class_id]
        off = np.zeros(len(objects), np.bool_)
        if self.buildings is not None:
            rest = np.flatnonzero(~small & ~unsure)
            share = share_on_buildings(objects.geometry[rest], self.buildings)
            off[rest] = share < self.building_share - TOLERANCE
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
