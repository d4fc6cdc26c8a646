"""Size of pixels on the ground, in any CRS."""

from __future__ import annotations

from functools import cache
from math import sqrt

import numpy as np
import pyproj
from numpy.typing import NDArray

from capecam.imagery.crs import is_in_degrees, metres_a_unit
from capecam.imagery.header import Header

Floats = NDArray[np.float64]

TRUE_TO_SCALE = 0.01
"""Relative error up to which a projection is taken to be true to scale: those made for a city or
a country mostly are to 0.1 %; Web Mercator is off by 21 % in Cape Town."""

STEP_M = 10.0
"""Distance over which a projection's scale is measured."""

STEP_DEGREES = 1e-4


def unit_m(crs: str, points: Floats) -> Floats:
    """Return (N, 2) metres on the ground of one CRS unit to the right and upwards.

    Args:
        crs: WKT.
        points: (N, 2) map coordinates.
    """
    if is_in_degrees(crs):
        return _measure(crs, points, STEP_DEGREES)
    unit = metres_a_unit(crs)
    measured = _measure(crs, points, STEP_M / unit)
    true = (np.abs(measured / unit - 1) <= TRUE_TO_SCALE).all(axis=1, keepdims=True)
    return np.where(true, unit, measured)


def ground_m(header: Header) -> tuple[float, float]:
    """Return width and height of an image's pixels on the ground, at its centre."""
    left, bottom, right, top = header.bounds
    across, along = unit_m(header.crs, np.array([[(left + right) / 2, (bottom + top) / 2]]))[0]
    return header.pixel[0] * float(across), header.pixel[1] * float(along)


def ratio_to_model(header: Header, gsd_m: float) -> float:
    """Return how much coarser (over 1) or finer than in training an image's pixels are.

    ``gsd_m`` is the edge of a pixel in training, ``model.gsd_m``.
    """
    width, height = ground_m(header)
    return sqrt(width * height) / gsd_m


def pixel_of(gsd_m: float, crs: str, centre: tuple[float, float]) -> tuple[float, float]:
    """Return the size, in CRS units, of a pixel that is a square with this edge on the ground.

    Measured at a whole degree or at a multiple of 100 km, so that a mosaic that grows seldom gets
    another grid; where that matters, the error is below 1 % in a city.
    """
    coarse = 1.0 if is_in_degrees(crs) else 1e5 / metres_a_unit(crs)
    point = np.array([[round(value / coarse) * coarse for value in centre]])
    across, along = (float(f"{gsd_m / unit:.9g}") for unit in unit_m(crs, point)[0])
    return across, along


def _measure(crs: str, points: Floats, step: float) -> Floats:
    """Measure the length of a CRS unit on the CRS's own ellipsoid."""
    to_degrees, geod = _geodesy(crs)
    sizes = np.empty((len(points), 2))
    for axis, (dx, dy) in enumerate(((step / 2, 0.0), (0.0, step / 2))):
        ends = [to_degrees.transform(*(points + np.array([s * dx, s * dy])).T) for s in (-1, 1)]
        sizes[:, axis] = geod.inv(*ends[0], *ends[1])[2]
    return sizes / step


@cache
def _geodesy(crs: str) -> tuple[pyproj.Transformer, pyproj.Geod]:
    parsed = pyproj.CRS.from_wkt(crs)
    geodetic = parsed.geodetic_crs or pyproj.CRS.from_epsg(4326)
    geod = parsed.get_geod() or pyproj.Geod(ellps="WGS84")
    return pyproj.Transformer.from_crs(parsed, geodetic, always_xy=True), geod
