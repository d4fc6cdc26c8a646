"""Where an image lies: its transform or ground control points, and in which CRS."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, isfinite
from pathlib import Path
from typing import Any, Literal

from affine import Affine
from rasterio.errors import RasterioError
from rasterio.warp import calculate_default_transform

from capecam.errors import ImageError
from capecam.raster.crs import crs_of_file, crs_of_setting, is_in_degrees, metres_a_unit

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
    pixel: tuple[float, float]
    """Lengths of a step along a row and along a column, in CRS units."""
    orientation: Orientation
    bounds: Bounds
    """Of the straight box around it."""

    @property
    def corner(self) -> tuple[float, float]:
        """Top left of the box."""
        return self.bounds[0], self.bounds[3]


def placement_of(path: Path, dataset: Any, assigned: str | None) -> Placement:
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
    if transform != Affine.identity():
        return _by_transform(path, dataset, transform, _crs(path, dataset.crs, assigned))
    if points:
        return _by_points(path, dataset, _crs(path, points_crs or dataset.crs, assigned))
    if dataset.rpcs:
        raise ImageError(
            f"{path}: has rational polynomials (RPCs) and is no map yet; orthorectify it with "
            "gdalwarp -rpc -to RPC_DEM=<elevation>"
        )
    raise ImageError(
        f"{path}: has no georeference (transform or ground control points), so that it lies "
        "nowhere; deliver its world file (.tfw) with it, or place it with gdal_edit.py -a_ullr"
    )


def _crs(path: Path, found: Any, assigned: str | None) -> str:
    crs = crs_of_file(path, found) or crs_of_setting(assigned)
    if crs is None:
        raise ImageError(
            f"{path}: has no coordinate reference system; say which it is with --crs, or write it "
            "into the file with gdal_edit.py -a_srs"
        )
    return crs


def _by_transform(path: Path, dataset: Any, t: Affine, crs: str) -> Placement:
    if not all(map(isfinite, t[:6])) or t.determinant == 0:
        numbers = ", ".join(f"{value:g}" for value in t.to_gdal())
        raise ImageError(
            f"{path}: its transform ({numbers}) makes no pixels that have a size; "
            "place it anew with gdal_edit.py -a_ullr"
        )
    width, height = dataset.width, dataset.height
    skewed = abs(t.b) * height > SKEW_PX * abs(t.a) or abs(t.d) * width > SKEW_PX * abs(t.e)
    if not skewed:
        left, right = sorted((t.c, t.c + width * t.a))
        bottom, top = sorted((t.f, t.f + height * t.e))
        straight = Placement(crs, (abs(t.a), abs(t.e)), _facing(t), (left, bottom, right, top))
        return _checked(path, straight)
    corners = [(col, row) for col in (0, width) for row in (0, height)]
    xs = [t.a * col + t.b * row + t.c for col, row in corners]
    ys = [t.d * col + t.e * row + t.f for col, row in corners]
    pixel = _rounded(hypot(t.a, t.d)), _rounded(hypot(t.b, t.e))
    return _checked(path, Placement(crs, pixel, "rotated", (min(xs), min(ys), max(xs), max(ys))))


def _facing(t: Affine) -> Orientation:
    if t.a < 0:
        return "mirrored"
    return "north-up" if t.e < 0 else "south-up"


def _by_points(path: Path, dataset: Any, crs: str) -> Placement:
    points, _ = dataset.gcps
    try:
        t, width, height = calculate_default_transform(
            crs, crs, dataset.width, dataset.height, gcps=points
        )
    except (RasterioError, ValueError) as error:
        raise ImageError(
            f"{path}: its {len(points)} ground control points do not say where it lies "
            f"({' '.join(str(error).split())}); give it at least three that are not in a line"
        ) from error
    bounds = t.c, t.f + height * t.e, t.c + width * t.a, t.f
    return _checked(path, Placement(crs, (_rounded(t.a), _rounded(-t.e)), "gcps", bounds))


def _checked(path: Path, place: Placement) -> Placement:
    """Pixels that a double cannot tell apart lie nowhere."""
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
