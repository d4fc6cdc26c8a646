"""Georeference of an image: its CRS, and its transform or ground control points."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import hypot, isfinite
from typing import Any, Literal

import numpy as np
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile
from rasterio.shutil import copy

from capecam.errors import ImageError
from capecam.imagery.crs import crs_of_file, crs_of_setting, is_in_degrees, metres_a_unit, unit_m
from capecam.io.paths import Location

MAX_RESIDUAL_PX = 2.0
"""Distance of a ground control point from the affine fit through all of them; larger ones come from
relief or a camera's lens, which an affine transform cannot undo."""

Orientation = Literal["north-up", "south-up", "mirrored", "rotated", "gcps"]
"""Direction of a file's rows and columns; ``gcps``: ground control points and no transform."""

SKEW_PX = 1e-3
"""A rotation that moves no corner by as much as this is a rounding error of the writer."""

DIGITS = 12
"""Significant digits of a pixel size computed from a rotation: 0.08, not 0.08000000000000002."""

MAX_DEGREES = 540.0, 90.001
"""Largest longitude and latitude; over 180 where an image crosses the antimeridian, or counts
from 0 to 360."""

EPOCH = re.compile(rb'<(?:SRS|GCPList)[^>]* coordinateEpoch="([0-9.]+)"')
"""Coordinate epoch in the XML of a VRT."""

MIN_PIXEL_M = 1e-4
"""Smallest pixel; one of 5 cm is 4.5e-7 in degrees."""

Bounds = tuple[float, float, float, float]
"""Left, bottom, right, top."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Position of an image in map coordinates."""

    crs: str
    """WKT."""
    transform: Affine
    """From columns and rows of the file to map coordinates."""
    width: int
    height: int
    by_points: bool = False
    """The transform is not the file's own but fitted to its ground control points."""
    assigned: bool = False
    """The CRS is not the file's own but that of the settings."""
    epoch: float | None = None
    """Year to which coordinates on moving ground refer; None if the file does not say."""

    @property
    def pixel(self) -> tuple[float, float]:
        """Lengths of a step along a row and along a column, in CRS units."""
        t = self.transform
        if self._is_straight:
            return abs(t.a), abs(t.e)
        width, height = (float(f"{size:.{DIGITS}g}") for size in (hypot(t.a, t.d), hypot(t.b, t.e)))
        return width, height

    @property
    def bounds(self) -> Bounds:
        """Bounding box in map coordinates."""
        t = self.transform
        b, d = (0.0, 0.0) if self._is_straight else (t.b, t.d)
        corners = [(col, row) for col in (0, self.width) for row in (0, self.height)]
        xs = [t.a * col + b * row + t.c for col, row in corners]
        ys = [d * col + t.e * row + t.f for col, row in corners]
        return min(xs), min(ys), max(xs), max(ys)

    @property
    def ground_m(self) -> tuple[float, float]:
        """Width and height of a pixel on the ground in metres, at the image's centre."""
        left, bottom, right, top = self.bounds
        across, along = unit_m(self.crs, np.array([[(left + right) / 2, (bottom + top) / 2]]))[0]
        return self.pixel[0] * float(across), self.pixel[1] * float(along)

    @property
    def corner(self) -> tuple[float, float]:
        """Map coordinates of the top-left corner of the bounding box."""
        left, _, _, top = self.bounds
        return left, top

    @property
    def orientation(self) -> Orientation:
        """Direction of its rows and columns."""
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
    """Return the placement of an open dataset; ``assigned`` is the CRS of files that have none.

    Raises:
        ImageError: it has no usable georeference.
    """
    transform: Affine = dataset.transform
    points, points_crs = dataset.gcps
    by_points = bool(points) and transform == Affine.identity()
    if by_points:
        transform = _fit(path, points)
    elif transform == Affine.identity():
        if dataset.rpcs:
            raise ImageError(
                f"{path}: has rational polynomials (RPCs) and is not a map yet; orthorectify it "
                "with gdalwarp -rpc -to RPC_DEM=<elevation>"
            )
        raise ImageError(
            f"{path}: has no georeference (transform or ground control points); "
            "deliver its world file (.tfw) with it, or place it with gdal_edit.py -a_ullr"
        )
    own = crs_of_file(path, points_crs or dataset.crs if by_points else dataset.crs)
    crs = own or crs_of_setting(assigned)
    if crs is None:
        raise ImageError(
            f"{path}: has no coordinate reference system; say which it is with --crs, or write it "
            "into the file with gdal_edit.py -a_srs"
        )
    size, epoch = (dataset.width, dataset.height), _epoch(dataset)
    placement = Placement(crs, transform, *size, by_points, own is None, epoch)
    _check(path, placement)
    return placement


def _epoch(dataset: Any) -> float | None:
    """Return the epoch of a dataset's coordinates, which rasterio shows in a VRT only."""
    with MemoryFile(ext=".vrt") as file, suppress(RasterioError):
        copy(dataset, file.name, driver="VRT")
        if found := EPOCH.search(file.read()):
            return float(found[1])
    return None


def _fit(path: Location, points: Sequence[GroundControlPoint]) -> Affine:
    """Return the affine transform that fits ground control points best, by least squares."""
    pixels = np.array([(point.col, point.row, 1.0) for point in points])
    coordinates = np.array([(point.x, point.y) for point in points])
    center = coordinates.mean(axis=0)
    finite = np.isfinite(coordinates).all() and np.isfinite(pixels).all()
    rank = np.linalg.matrix_rank
    if not finite or rank(pixels) < 3 or rank(coordinates - center) < 2:
        raise ImageError(
            f"{path}: its {len(points)} ground control points do not define its position; "
            "at least three that are not in a line are needed"
        )
    solution = np.linalg.lstsq(pixels, coordinates - center)[0]
    (a, d), (b, e), (c, f) = solution.tolist()
    residuals = np.abs(pixels @ solution + center - coordinates).max(axis=0)
    residual_px = float((residuals / (hypot(a, b), hypot(d, e))).max())
    if residual_px > MAX_RESIDUAL_PX:
        raise ImageError(
            f"{path}: its {len(points)} ground control points are up to {residual_px:.1f} px off a "
            "plane; straighten it with gdalwarp -tps, or with an elevation model"
        )
    return Affine(a, b, c + center[0], d, e, f + center[1])


def _check(path: Location, placement: Placement) -> None:
    """Refuse pixels without a size, ones that float64 cannot tell apart, and impossible units."""
    t, pixel = placement.transform, placement.pixel
    if not all(map(isfinite, t[:6])) or t.determinant == 0:
        numbers = ", ".join(f"{value:g}" for value in t.to_gdal())
        raise ImageError(
            f"{path}: its transform ({numbers}) makes no pixels that have a size; "
            "place it again with gdal_edit.py -a_ullr"
        )
    left, bottom, right, top = placement.bounds
    largest = max(map(abs, placement.bounds))
    if not isfinite(largest) or min(pixel) < largest * 1e-14 or not (left < right and bottom < top):
        raise ImageError(
            f"{path}: its transform puts pixels of {pixel[0]:g} x {pixel[1]:g} at {left:g}, "
            f"{top:g}, where no two can be told apart; place it again with gdal_edit.py -a_ullr"
        )
    problem = None
    if is_in_degrees(placement.crs):
        lon, lat = MAX_DEGREES
        if not (-lon <= left and right <= lon and -lat <= bottom and top <= lat):
            problem = ", which cannot be degrees, the unit of its CRS"
    elif min(pixel) * metres_a_unit(placement.crs) < MIN_PIXEL_M:
        problem = f" with pixels of {min(pixel):g}: degrees, it seems, not the unit of its CRS"
    if problem:
        raise ImageError(
            f"{path}: its corner is at {left:g}, {top:g}{problem}; "
            "assign the right CRS with gdal_edit.py -a_srs"
        )
