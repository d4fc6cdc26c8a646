"""Images that do not lie on the mosaic's grid, straightened onto it through GDAL's warper."""

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
from capecam.imagery.crs import crs_key
from capecam.imagery.georeferencing import Bounds
from capecam.imagery.header import Header

TOLERANCE_PX = 1e-6
"""By which a place may be off: a rougher approximation depends on what is read at once."""

NOTHING_PX = Fraction(1, 1_000)
"""An image that reaches so far into a pixel does not reach its centre; it is rounding."""

STRETCH = 4.0
"""An image that covers more than so many times the pixels that its middle promises lies where the
mosaic's CRS is not meant to be used. Turned by 45 degrees, a square covers twice."""


def reach(header: Header, grid: Grid) -> Window:
    """The whole pixels of the grid that an image reaches.

    Raises:
        ImageError: it cannot be laid on it.
    """
    if why := _not_told_to_the_warper(header):
        raise ImageError(f"{header.path}: {why}")
    west, south, east, north = _bounds(header, grid)
    (col, row), (end_col, end_row) = (
        grid.to_lattice_exact(west, north),
        grid.to_lattice_exact(east, south),
    )
    top, left = floor(row + NOTHING_PX), floor(col + NOTHING_PX)
    bottom, right = ceil(end_row - NOTHING_PX), ceil(end_col - NOTHING_PX)
    window = Window.between(top, left, max(bottom, top + 1), max(right, left + 1))
    across, down = resampling_factors(header, grid)
    promised = (header.width * across + 2) * (header.height * down + 2)
    if window.height * window.width > STRETCH * promised:
        raise ImageError(
            f"{header.path}: would be stretched to {window.width} x {window.height} px in the CRS "
            "of the mosaic, which is not meant for where it lies; run it by itself"
        )
    return window


def _not_told_to_the_warper(header: Header) -> str | None:
    """Why GDAL's warper would see imagery elsewhere than where the file has it."""
    pixels, bands = header.pixels, header.metadata.kinds
    if pixels.validity == "mask" and pixels.alpha is not None:
        return (
            "has a mask and an alpha band, of which GDAL's warper would heed both; leave one of "
            "them out (gdal_translate -mask none, or -b 1 -b 2 -b 3 -mask auto)"
        )
    if pixels.validity == "nodata" and (
        len(set(pixels.bands)) < len(bands) or len(set(map(repr, pixels.nodata))) > 1
    ):
        return (
            "has nodata and further bands, or a nodata value for each band, and GDAL's warper "
            "would ask for nodata in all of them alike; leave the other bands out "
            "(gdal_translate -b 1 -b 2 -b 3)"
        )
    return None


def _bounds(header: Header, grid: Grid) -> Bounds:
    if crs_key(header.crs) == crs_key(grid.crs):
        return header.bounds
    reason = "no part of it has a place there"
    try:
        found = transform_bounds(
            CRS.from_wkt(header.crs), CRS.from_wkt(grid.crs), *header.bounds, densify_pts=41
        )
    except RasterioError as error:
        found, reason = (0.0,) * 4, " ".join(str(error).split())
    west, south, east, north = found
    if west > east:
        reason = "it lies across the line where the CRS's coordinates begin anew"
    if not (all(map(isfinite, found)) and west < east and south < north):
        raise ImageError(
            f"{header.path}: cannot be reprojected to the CRS of the mosaic ({reason}); "
            "run it by itself"
        )
    return west, south, east, north


def resampling_factors(header: Header, grid: Grid) -> tuple[float, float]:
    """Pixels of the grid for one of the image, along its rows and columns, at its middle.

    GDAL would measure this anew for every chunk it warps, and widen its kernel by it, so that
    pixels would depend on what is read together.
    """
    (dx, dy), (left, bottom, right, top) = header.pixel, header.bounds
    x, y = (left + right) / 2, (bottom + top) / 2
    across, down = (dx, 0.0), (0.0, dy)
    if crs_key(header.crs) != crs_key(grid.crs):
        xs, ys = _transformer(header.crs, grid.crs).transform(
            [x - dx / 2, x + dx / 2, x, x], [y, y, y - dy / 2, y + dy / 2]
        )
        across, down = (xs[1] - xs[0], ys[1] - ys[0]), (xs[3] - xs[2], ys[3] - ys[2])
    steps = [hypot(u / grid.pixel[0], v / grid.pixel[1]) for u, v in (across, down)]
    if not all(map(isfinite, steps)) or min(steps) == 0:
        raise ImageError(
            f"{header.path}: cannot be reprojected to the CRS of the mosaic (its middle has no "
            "place there); run it by itself"
        )
    return round(steps[0], 6), round(steps[1], 6)


@cache
def _transformer(source: str, target: str) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(
        pyproj.CRS.from_wkt(source), pyproj.CRS.from_wkt(target), always_xy=True
    )


def straightened(dataset: Any, header: Header, place: Grid) -> WarpedVRT:
    """A file as a dataset on the mosaic's grid, with an alpha band: 0 where the file has no pixel
    there, or one that its mask, alpha or nodata says no to.

    Bilinear, and where pixels come to be smaller than they were, a mean over all that go into one.

    Args:
        dataset: the file, or another that lies where it does.
        header: of the file.
        place: the part of the grid that it reaches.
    """
    by_points = {"src_transform": header.placement.transform} if header.placement.by_points else {}
    return _warped(dataset, header, place, **by_points, **header.pixels.warp_options)


def straightened_mask(dataset: Any, header: Header, place: Grid) -> WarpedVRT:
    """A mask of an image's pixels, resampled as the image is: not 0 wherever a pixel that the mask
    marks goes in."""
    return _warped(dataset, header, place)


def _warped(dataset: Any, header: Header, place: Grid, **options: Any) -> WarpedVRT:
    across, down = resampling_factors(header, place)
    palette = header.pixels.palette  # between two of its values there is no colour between theirs
    return WarpedVRT(
        dataset,
        src_crs=CRS.from_wkt(header.crs),
        crs=CRS.from_wkt(place.crs),
        transform=place.transform,
        height=place.window.height,
        width=place.window.width,
        resampling=Resampling.nearest if palette else Resampling.bilinear,
        tolerance=TOLERANCE_PX,
        XSCALE=repr(across),
        YSCALE=repr(down),
        **options,
    )
