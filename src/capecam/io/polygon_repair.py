"""Repairing polygons: rings that cross themselves, nested parts, lines and points."""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

Shapes = NDArray[np.object_]
Booleans = NDArray[np.bool_]

POLYGONAL = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)


def repaired(shapes: Shapes) -> tuple[Shapes, Booleans]:
    """Return shapes as valid polygons, and (N,) True for those that were not valid.

    Everything that a ring encloses counts once, however often the ring winds around it, and so does
    every place that lies in several parts. Valid polygons are not touched; of collections the
    polygons remain, and of points and lines an empty polygon.
    """
    invalid = ~shapely.is_valid(shapes) & ~shapely.is_missing(shapes)
    whole = shapes.copy()
    whole[invalid] = [_repair(shape) for shape in shapes[invalid]]
    for row in np.flatnonzero(~np.isin(shapely.get_type_id(whole), POLYGONAL)):
        whole[row] = polygonal(whole[row])
    return whole, invalid


def _repair(shape: shapely.Geometry) -> shapely.Geometry:
    """Return a valid shape; a hole that is its own shell is the ring given twice."""
    filled = shapely.make_valid(shape, method="structure", keep_collapsed=False)
    return filled if shapely.area(filled) > 0 else shapely.make_valid(shape)


def polygonal(shape: shapely.Geometry | None) -> shapely.Geometry:
    """Return the part of a geometry with an area, without the lines that a repair leaves."""
    if shapely.get_type_id(shape) in POLYGONAL:
        return shape
    if shapely.get_type_id(shape) != shapely.GeometryType.GEOMETRYCOLLECTION:
        return shapely.Polygon()
    return shapely.union_all([polygonal(part) for part in shapely.get_parts(shape)])
