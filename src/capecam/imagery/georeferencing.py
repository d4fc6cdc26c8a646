"""Where an image lies: its transform or ground control points, and in which CRS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot, isfinite
from typing import Any, Literal

import numpy as np
from affine import Affine
from rasterio.control import GroundControlPoint

from capecam.errors import ImageError
from capecam.imagery.crs import crs_of_file, crs_of_setting, is_in_degrees, metres_a_unit
from capecam.io.paths import Location

POINTS_PX = 2.0
"""By which a ground control point may be off the plane through all of them: what is more comes
from relief or from a camera's lens, and needs more than a plane to be undone."""

Orientation = Literal["north-up", "south-up", "mirrored", "rotated", "gcps"]
"""Of a file's rows and columns. ``gcps``: it has ground control points and no transform."""

SKEW_PX = 1e-3
"""A rotation that moves no corner by as much as this is a rounding error of the writer's."""

DIGITS = 12
"""Of a pixel's size that is computed from a rotation: 0.08, and not 0.08000000000000002."""

MOST_DEGREES = 540.0, 90.001
"""Beyond 180 where an image crosses the antimeridian, or counts from 0 to 360."""

LEAST_M = 1e-4
"""The edge of a pixel: 5 cm in degrees are 4.5e-7."""

Bounds = tuple[float, float, float, float]
"""Left, bottom, right, top."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an image lies."""

    crs: str
    """WKT."""
    transform: Affine
    """From columns and rows of the file to map coordinates."""
    width: int
    height: int
    by_points: bool = False
    """The transform is not the file's own, but fits its ground control points best."""
    assigned: bool = False
    """The CRS is not the file's own, but that of the settings."""

    @property
    def pixel(self) -> tuple[float, float]:
        """Lengths of a step along a row and along a column, in CRS units."""
        t = self.transform
        if self._is_straight:
            return abs(t.a), abs(t.e)
        return _rounded(hypot(t.a, t.d)), _rounded(hypot(t.b, t.e))

    @property
    def bounds(self) -> Bounds:
        """Of the straight box around it."""
        t = self.transform
        b, d = (0.0, 0.0) if self._is_straight else (t.b, t.d)
        corners = [(col, row) for col in (0, self.width) for row in (0, self.height)]
        xs = [t.a * col + b * row + t.c for col, row in corners]
        ys = [d * col + t.e * row + t.f for col, row in corners]
        return min(xs), min(ys), max(xs), max(ys)

    @property
    def corner(self) -> tuple[float, float]:
        """Top left of the box."""
        left, _, _, top = self.bounds
        return left, top

    @property
    def orientation(self) -> Orientation:
        """Of its rows and columns."""
        if self.by_points:
            return "gcps"
        if not self._is_straight:
            return "rotated"
        if self.transform.a < 0:
            return "mirrored"
        return "north-up" if self.transform.e < 0 else "south-up"

    @property
    def _is_straight(self) -> bool:
        t = self.transform
        across, down = abs(t.b) * self.height, abs(t.d) * self.width
        return across <= SKEW_PX * abs(t.a) and down <= SKEW_PX * abs(t.e)


def placement_of(path: Location, dataset: Any, assigned: str | None) -> Placement:
    """That of an open dataset.

    Args:
        path: to name it by.
        dataset: open.
        assigned: the CRS of files that say none, as in ``imagery.crs``.

    Raises:
        ImageError: it lies nowhere, or nowhere that can be made out.
    """
    transform: Affine = dataset.transform
    points, points_crs = dataset.gcps
    by_points = bool(points) and transform == Affine.identity()
    if transform != Affine.identity() or by_points:
        crs, is_own = _crs(path, points_crs or dataset.crs if by_points else dataset.crs, assigned)
        t = _by_points(path, points) if by_points else transform
        size = dataset.width, dataset.height
        return _checked(path, Placement(crs, t, *size, by_points, assigned=not is_own))
    if dataset.rpcs:
        raise ImageError(
            f"{path}: has rational polynomials (RPCs) and is no map yet; orthorectify it with "
            "gdalwarp -rpc -to RPC_DEM=<elevation>"
        )
    raise ImageError(
        f"{path}: has no georeference (transform or ground control points), so that it lies "
        "nowhere; deliver its world file (.tfw) with it, or place it with gdal_edit.py -a_ullr"
    )


def _crs(path: Location, found: Any, assigned: str | None) -> tuple[str, bool]:
    """WKT, and whether it is the file's own."""
    own = crs_of_file(path, found)
    crs = own or crs_of_setting(assigned)
    if crs is None:
        raise ImageError(
            f"{path}: has no coordinate reference system; say which it is with --crs, or write it "
            "into the file with gdal_edit.py -a_srs"
        )
    return crs, own is not None


def _by_points(path: Location, points: Sequence[GroundControlPoint]) -> Affine:
    """The plane that fits points best, by least squares.

    Raises:
        ImageError: there is none, or they are off it.
    """
    where = np.array([(point.col, point.row, 1.0) for point in points])
    there = np.array([(point.x, point.y) for point in points])
    center = there.mean(axis=0)
    finite = np.isfinite(there).all() and np.isfinite(where).all()
    rank = np.linalg.matrix_rank
    if not finite or rank(where) < 3 or rank(there - center) < 2:
        raise ImageError(
            f"{path}: its {len(points)} ground control points do not say where it lies; "
            "at least three that are not in a line are needed"
        )
    found = np.linalg.lstsq(where, there - center)[0]
    (a, d), (b, e), (c, f) = found.tolist()
    fitted = Affine(a, b, c + center[0], d, e, f + center[1])
    off = np.abs(where @ found + center - there).max(axis=0)
    off_px = float((off / (hypot(a, b), hypot(d, e))).max())
    if off_px > POINTS_PX:
        raise ImageError(
            f"{path}: its {len(points)} ground control points lie up to {off_px:.1f} px off a "
            "plane; straighten it with gdalwarp -tps, or with an elevation model"
        )
    return fitted


def _checked(path: Location, place: Placement) -> Placement:
    """Pixels without a size, or that a double cannot tell apart, lie nowhere."""
    t = place.transform
    if not all(map(isfinite, t[:6])) or t.determinant == 0:
        numbers = ", ".join(f"{value:g}" for value in t.to_gdal())
        raise ImageError(
            f"{path}: its transform ({numbers}) makes no pixels that have a size; "
            "place it anew with gdal_edit.py -a_ullr"
        )
    left, bottom, right, top = place.bounds
    far = max(map(abs, place.bounds))
    if not isfinite(far) or min(place.pixel) < far * 1e-14 or not (left < right and bottom < top):
        raise ImageError(
            f"{path}: its transform puts pixels of {place.pixel[0]:g} x {place.pixel[1]:g} at "
            f"{left:g}, {top:g}, where no two can be told apart; place it anew with "
            "gdal_edit.py -a_ullr"
        )
    if why := _not_in_units(place):
        raise ImageError(f"{path}: {why}; assign the right CRS with gdal_edit.py -a_srs")
    return place


def _not_in_units(place: Placement) -> str | None:
    """Metres that say they are degrees, and the other way round."""
    left, bottom, right, top = place.bounds
    at = f"its corner is at {left:g}, {top:g}"
    if is_in_degrees(place.crs):
        fits = -MOST_DEGREES[0] <= left and right <= MOST_DEGREES[0]
        fits &= -MOST_DEGREES[1] <= bottom and top <= MOST_DEGREES[1]
        return None if fits else f"{at}, which is no place in degrees, as its CRS has them"
    if min(place.pixel) * metres_a_unit(place.crs) < LEAST_M:
        return f"{at} with pixels of {min(place.pixel):g}: degrees, it seems, not its CRS's"
    return None


def _rounded(size: float) -> float:
    return float(f"{size:.{DIGITS}g}")
