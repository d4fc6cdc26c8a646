"""How large pixels are on the ground, in any CRS."""

from __future__ import annotations

from functools import cache
from math import sqrt

import numpy as np
import pyproj
from numpy.typing import NDArray

from capecam.imagery.crs import is_in_degrees, metres_a_unit
from capecam.imagery.header import Header

Floats = NDArray[np.float64]

SIMILAR = 1.15
"""How far the resolution of imagery may be off the model's before it is worth a warning."""

TRUE_TO_SCALE = 0.01
"""Projections are taken at their word where they are right to this share: those made for a city
or a country are, mostly by 0.1 %; Web Mercator is not, by 21 % in Cape Town."""

STEP_M = 10.0
"""Over which a projection's scale is measured."""

STEP_DEGREES = 1e-4


def unit_m(crs: str, points: Floats) -> Floats:
    """(N, 2) metres on the ground of one CRS unit to the right and upwards.

    Args:
        crs: WKT.
        points: (N, 2) map coordinates.
    """
    if is_in_degrees(crs):
        return _measured(crs, points, STEP_DEGREES)
    unit = metres_a_unit(crs)
    found = _measured(crs, points, STEP_M / unit)
    true = (np.abs(found / unit - 1) <= TRUE_TO_SCALE).all(axis=1, keepdims=True)
    return np.where(true, unit, found)


def ground_m(header: Header) -> tuple[float, float]:
    """Width and height of an image's pixels on the ground, in its middle."""
    left, bottom, right, top = header.bounds
    across, along = unit_m(header.crs, np.array([[(left + right) / 2, (bottom + top) / 2]]))[0]
    return header.pixel[0] * float(across), header.pixel[1] * float(along)


def ratio_to_model(header: Header, gsd_m: float) -> float:
    """How much coarser (over 1) or finer an image is than what a model was trained on.

    Args:
        header: of the image.
        gsd_m: edge of a pixel in training, ``model.gsd_m``.
    """
    width, height = ground_m(header)
    return sqrt(width * height) / gsd_m


def is_similar(ratio: float) -> bool:
    """Whether a resolution is near enough to another not to matter."""
    return 1 / SIMILAR <= ratio <= SIMILAR


def pixel_of(gsd_m: float, crs: str, middle: tuple[float, float]) -> tuple[float, float]:
    """A pixel in CRS units that is a square of this edge on the ground.

    Measured at a whole degree or at a multiple of 100 km, so that a mosaic that grows seldom gets
    another grid; that is off by less than 1 % in a city, where it matters at all.
    """
    coarse = 1.0 if is_in_degrees(crs) else 1e5 / metres_a_unit(crs)
    place = np.array([[round(value / coarse) * coarse for value in middle]])
    across, along = (float(f"{gsd_m / unit:.9g}") for unit in unit_m(crs, place)[0])
    return across, along


def _measured(crs: str, points: Floats, step: float) -> Floats:
    """On the CRS's own ellipsoid."""
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
