"""What is no object, and why: too small, too unsure, not on a building."""

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
"""In the order in which they are asked for; the first that holds is given."""

SLACK = 1e-9
"""Shares of areas are quotients of floats: 80 % may come out a little below."""


@dataclass(frozen=True, slots=True)
class DetectionFilter:
    """The rules of a run, by class."""

    min_area_m2: tuple[float, ...]
    """By class, that of the background included."""
    min_confidence: tuple[float, ...]
    buildings: shapely.STRtree | None = None
    """In lattice pixels; None: there is no rule about them."""
    building_share: float = 0.0

    @classmethod
    def of(
        cls,
        settings: DetectionSettings,
        names: Sequence[str],
        buildings: Polygons | None = None,
    ) -> DetectionFilter:
        """From the settings.

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
        """(N,) one of ``REASONS``, or an empty text for objects that stay.

        Args:
            objects: in lattice pixels.
            table: their ``class_id``, ``area_m2`` and ``confidence``.
        """
        class_id = table["class_id"].to_numpy()
        small = table["area_m2"].to_numpy() <= np.array(self.min_area_m2)[class_id]
        unsure = table["confidence"].to_numpy() < np.array(self.min_confidence)[class_id]
        off = np.zeros(len(objects), np.bool_)
        if self.buildings is not None:
            asked = np.flatnonzero(~small & ~unsure)
            share = built_share(objects.geometry[asked], self.buildings)
            off[asked] = share < self.building_share - SLACK
        return np.select([small, unsure, off], REASONS, "").astype(object)


def built_share(shapes: Polygons, buildings: shapely.STRtree) -> NDArray[np.float64]:
    """(N,) share of each shape's area that lies on a building; overlapping ones count once."""
    shape, building = buildings.query(shapes, predicate="intersects")
    covered = np.zeros(len(shapes))
    order = np.argsort(shape, kind="stable")
    shape, near = shape[order], buildings.geometries[building[order]]
    starts = np.flatnonzero(np.diff(shape, prepend=-1))
    for start, stop in zip(starts, np.append(starts[1:], len(shape)), strict=True):
        one = shapes[shape[start]]
        parts = shapely.intersection(near[start:stop], one)
        covered[shape[start]] = shapely.area(shapely.union_all(parts))
    return np.asarray(covered / np.maximum(shapely.area(shapes), 1))
