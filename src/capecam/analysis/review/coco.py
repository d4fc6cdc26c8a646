"""Objects as annotations of COCO (https://cocodataset.org/#format-data).

Coordinates are pixels of a tile from its top left corner, x to the right and y down. Outlines are
lists of polygons, which every reader knows; COCO has no holes, so that a polygon with some is cut
through them into several.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import shapely

from capecam.grid import Window


def annotation(shape: shapely.Geometry, window: Window) -> dict[str, Any]:
    """Return ``segmentation``, ``area``, ``bbox`` and ``iscrowd`` of an object in a tile.

    Args:
        shape: its part in the tile, in lattice pixels.
        window: the tile.
    """
    left, top, right, bottom = shape.bounds
    box = [left - window.col, top - window.row, right - left, bottom - top]
    rings = [part.exterior for whole in shapely.get_parts(shape) for part in without_holes(whole)]
    return {
        "segmentation": [_flat(ring, window) for ring in rings],
        "area": _number(shape.area),
        "bbox": [_number(value) for value in box],
        "iscrowd": 0,
    }


def _flat(ring: shapely.LinearRing, window: Window) -> list[float]:
    """Return x1, y1, x2, y2 ... without the last point, which is the first."""
    points = shapely.get_coordinates(ring)[:-1] - (window.col, window.row)
    return [_number(value) for value in points.ravel().tolist()]


def _number(value: float) -> float:
    return round(float(value), 3)


def without_holes(polygon: shapely.Polygon) -> Iterator[shapely.Polygon]:
    """Yield polygons that cover another's area once, cut where it has holes."""
    if not polygon.interiors:
        yield polygon
        return
    left, top, right, bottom = polygon.bounds
    hole_left, _, hole_right, _ = polygon.interiors[0].bounds
    middle = (hole_left + hole_right) / 2
    corner = np.floor(middle)
    cut = corner if corner > hole_left else middle  # on the pixels' edges where it can be
    for side in (shapely.box(left, top, cut, bottom), shapely.box(cut, top, right, bottom)):
        for part in shapely.get_parts(shapely.intersection(polygon, side)):
            if part.geom_type == "Polygon":
                yield from without_holes(part)
