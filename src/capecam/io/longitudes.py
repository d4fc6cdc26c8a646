"""Longitudes of polygons: counted around one meridian, and joined where they were cut at 180°.

Files have longitudes from -180 to 180, from 0 to 360, or beyond 180 on one side; a polygon across
the antimeridian is in two parts (RFC 7946), or has an edge that seems to go around the world.
"""

from __future__ import annotations

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Shapes = NDArray[np.object_]
Booleans = NDArray[np.bool_]

TURN = 360.0

WHOLE_TURN = 1e-6
"""Rounding error of an edge from -180 to 180, which is one around the world."""

LOWEST, HIGHEST = -1000.0, 1000.0
"""Below and above all latitudes, also of damaged files."""


def nearest_turn(longitudes: Floats, reference: Floats | float) -> Floats:
    """Return longitudes plus the whole turns that bring each nearest to a reference."""
    return np.asarray(longitudes + TURN * np.round((reference - longitudes) / TURN))


def counts_degrees(crs: pyproj.CRS) -> bool:
    """Return whether coordinates of a CRS are longitude and latitude in degrees."""
    return bool(crs.is_geographic) and crs.axis_info[0].unit_name.startswith("degree")


def central_meridian(crs: pyproj.CRS) -> float | None:
    """Return the longitude in the middle of a projection; None if it has none."""
    operation = crs.coordinate_operation
    for parameter in operation.params if operation else ():
        if parameter.name.startswith("Longitude of"):
            return float(np.degrees(float(parameter.value) * parameter.unit_conversion_factor))
    return None


def length_of_turn(crs: pyproj.CRS) -> float | None:
    """Return the distance to the east after which a CRS begins again; None: there is no such one.

    It is 360 in degrees, and the width of the world in a cylindrical projection (Web Mercator).
    """
    if counts_degrees(crs):
        return TURN
    centre = central_meridian(crs)
    if centre is None or not crs.is_projected:
        return None
    to_crs = pyproj.Transformer.from_crs(crs.geodetic_crs, crs, always_xy=True)
    lon, lat = np.meshgrid([-TURN / 4, TURN / 8, TURN / 4], [0.0, 60.0])
    x, _ = to_crs.transform((centre + lon).ravel(), lat.ravel())
    if not np.isfinite(x).all():
        return None
    west, middle, east = np.reshape(x, lon.shape).T
    turns = np.concatenate([2 * (east - west), 8 * (east - middle)])
    return float(turns[0]) if np.allclose(turns, turns[0], rtol=WHOLE_TURN) else None


def without_turns(difference: Floats, turn: float | None) -> Floats:
    """Return differences of longitudes or eastings without whole turns around the Earth."""
    return difference if turn is None else difference - turn * np.round(difference / turn)


def in_one_turn(shapes: Shapes, centre: float) -> Shapes:
    """Return shapes with longitudes of at most 180 from a centre; others are not touched."""
    west = centre - TURN / 2
    left, _, right, _ = shapely.bounds(shapes).T
    turned = shapes.copy()
    for row in np.flatnonzero((left < west) | (right > west + TURN)):
        turned[row] = shapely.union_all(
            [piece for part in shapely.get_parts(shapes[row]) for piece in _pieces(part, west)]
        )
    return turned


def _pieces(part: shapely.Polygon, west: float) -> list[shapely.Geometry]:
    """Cut a polygon at every turn, and move the pieces into the turn that begins at ``west``."""
    left, _, right, _ = part.bounds
    turns = range(int((left - west) // TURN), int(-((west - right) // TURN)))
    pieces = []
    for turn in turns:
        start = west + turn * TURN
        window = shapely.box(start, LOWEST, start + TURN, HIGHEST)
        piece = part if len(turns) == 1 else shapely.intersection(part, window)
        pieces.append(shapely.transform(piece, lambda xy, turn=turn: xy - [turn * TURN, 0.0]))
    return pieces


def uncut(shapes: Shapes) -> Booleans:
    """Return (N,) True for shapes that cross the antimeridian, or go around nearly all the world.

    They have an edge of more than 180° that is no whole turn.
    """
    points, row = shapely.get_coordinates(shapes, return_index=True)
    edge = np.abs(np.diff(points[:, 0]))
    long = (row[1:] == row[:-1]) & (edge > TURN / 2) & (np.abs(edge - TURN) > WHOLE_TURN)
    suspects = np.unique(row[1:][long])
    found = np.zeros(len(shapes), np.bool_)
    found[suspects] = [_has_long_edge(shapes[index]) for index in suspects]
    return found


def _has_long_edge(shape: shapely.Geometry) -> bool:
    """Return whether an edge is longer than 180° and no whole turn; parts may be far apart."""
    rings = shapely.get_rings(shapely.get_parts(shape))
    edges = np.concatenate([np.abs(np.diff(shapely.get_coordinates(ring)[:, 0])) for ring in rings])
    return bool(((edges > TURN / 2) & (np.abs(edges - TURN) > WHOLE_TURN)).any())


def across_antimeridian(shape: shapely.Geometry) -> shapely.Geometry:
    """Return a shape with its western longitudes counted on beyond 180."""
    return shapely.transform(shape, lambda xy: xy + np.where(xy < [0.0, -np.inf], TURN, 0.0))
