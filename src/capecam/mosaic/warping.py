"""Resample images onto the mosaic's grid with GDAL's warper."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from math import ceil, floor, hypot, isfinite
from typing import Any

import pyproj
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds

from capecam.errors import ImageError
from capecam.grid import Grid, Window
from capecam.imagery.datum import same_crs
from capecam.imagery.georeferencing import Bounds
from capecam.imagery.header import Header

TOLERANCE_PX = 1e-6
"""Largest error of a warped position; with a coarser approximation, pixels would depend on the
window that is read."""

ROUNDING_PX = Fraction(1, 1_000)
"""Part of a pixel that an image may cover by rounding; it does not reach the pixel's centre."""

MAX_STRETCH = 4.0
"""Ratio of the pixels that an image covers to the number estimated at its middle. Above it, the
image is outside the area of use of the mosaic's CRS; a square rotated by 45 degrees has 2."""


def window_on_grid(header: Header, grid: Grid) -> Window:
    """Return the window of the grid that an image covers.

    Raises:
        ImageError: it cannot be resampled onto the grid.
    """
    if problem := _validity_problem(header):
        raise ImageError(f"{header.path}: {problem}")
    west, south, east, north = _bounds(header, grid)
    (col, row), (end_col, end_row) = (
        grid.to_lattice_exact(west, north),
        grid.to_lattice_exact(east, south),
    )
    top, left = floor(row + ROUNDING_PX), floor(col + ROUNDING_PX)
    bottom, right = ceil(end_row - ROUNDING_PX), ceil(end_col - ROUNDING_PX)
    window = Window.between(top, left, max(bottom, top + 1), max(right, left + 1))
    across, down = resampling_factors(header, grid)
    estimate = (header.placement.width * across + 2) * (header.placement.height * down + 2)
    if window.height * window.width > MAX_STRETCH * estimate:
        raise ImageError(
            f"{header.path}: would be stretched to {window.width} x {window.height} px in the CRS "
            "of the mosaic, which is not meant for its location; run it by itself"
        )
    return window


def _validity_problem(header: Header) -> str | None:
    """Describe why GDAL's warper would use another validity than ``header.pixels``."""
    pixels, bands = header.pixels, header.metadata.kinds
    if pixels.validity == "mask" and pixels.alpha is not None:
        return (
            "has a mask and an alpha band, of which GDAL's warper would use both; leave one of "
            "them out (gdal_translate -mask none, or -b 1 -b 2 -b 3 -mask auto)"
        )
    if pixels.validity == "nodata" and (
        len(set(pixels.bands)) < len(bands) or len(set(map(repr, pixels.nodata))) > 1
    ):
        return (
            "has nodata and further bands, or a nodata value for each band, and GDAL's warper "
            "would require nodata in all of them; leave the other bands out "
            "(gdal_translate -b 1 -b 2 -b 3)"
        )
    return None


def _bounds(header: Header, grid: Grid) -> Bounds:
    if same_crs(header.crs, grid.crs):
        return header.bounds
    reason = "no part of it is inside that CRS"
    try:
        bounds = transform_bounds(
            CRS.from_wkt(header.crs), CRS.from_wkt(grid.crs), *header.bounds, densify_pts=41
        )
    except RasterioError as error:
        bounds, reason = (0.0,) * 4, " ".join(str(error).split())
    west, south, east, north = bounds
    if west > east:
        reason = "it crosses the line where the CRS's coordinates wrap around"
    if not (all(map(isfinite, bounds)) and west < east and south < north):
        raise ImageError(
            f"{header.path}: cannot be reprojected to the CRS of the mosaic ({reason}); "
            "run it by itself"
        )
    return west, south, east, north


def resampling_factors(header: Header, grid: Grid) -> tuple[float, float]:
    """Return the pixels of the grid per pixel of the image, along its rows and columns, at its
    middle.

    GDAL would compute this for every chunk that it warps and widen its kernel accordingly, so that
    pixels would depend on the window that is read.
    """
    (dx, dy), (left, bottom, right, top) = header.pixel, header.bounds
    x, y = (left + right) / 2, (bottom + top) / 2
    across, down = (dx, 0.0), (0.0, dy)
    if not same_crs(header.crs, grid.crs):
        xs, ys = _transformer(header.crs, grid.crs).transform(
            [x - dx / 2, x + dx / 2, x, x], [y, y, y - dy / 2, y + dy / 2]
        )
        across, down = (xs[1] - xs[0], ys[1] - ys[0]), (xs[3] - xs[2], ys[3] - ys[2])
    steps = [hypot(u / grid.pixel[0], v / grid.pixel[1]) for u, v in (across, down)]
    if not all(map(isfinite, steps)) or min(steps) == 0:
        raise ImageError(
            f"{header.path}: cannot be reprojected to the CRS of the mosaic (its middle is "
            "outside that CRS); run it by itself"
        )
    return round(steps[0], 6), round(steps[1], 6)


@cache
def _transformer(source: str, target: str) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(
        pyproj.CRS.from_wkt(source), pyproj.CRS.from_wkt(target), always_xy=True
    )


def warp(dataset: Any, header: Header, grid: Grid) -> WarpedVRT:
    """Return a file as a dataset on the mosaic's grid, with an alpha band: 0 where the file has no
    pixel, or one that its mask, alpha or nodata excludes.

    Resampling is bilinear, and where pixels become coarser, a weighted mean. ``grid`` is the part
    of the mosaic's grid that the file covers.
    """
    by_points = {"src_transform": header.placement.transform} if header.placement.by_points else {}
    return _warp(dataset, header, grid, **by_points, **header.pixels.warp_options)


def warp_mask(dataset: Any, header: Header, grid: Grid) -> WarpedVRT:
    """Return a mask of an image's pixels, resampled as the image is: not 0 wherever a marked pixel
    contributes."""
    return _warp(dataset, header, grid)


def _warp(dataset: Any, header: Header, grid: Grid, **options: object) -> WarpedVRT:
    across, down = resampling_factors(header, grid)
    palette = header.pixels.palette  # its values cannot be interpolated
    own = grid.crs if same_crs(header.crs, grid.crs) else header.crs
    return WarpedVRT(
        dataset,
        src_crs=CRS.from_wkt(own),
        crs=CRS.from_wkt(grid.crs),
        transform=grid.transform,
        height=grid.window.height,
        width=grid.window.width,
        resampling=Resampling.nearest if palette else Resampling.bilinear,
        tolerance=TOLERANCE_PX,
        XSCALE=repr(across),
        YSCALE=repr(down),
        **options,
    )
