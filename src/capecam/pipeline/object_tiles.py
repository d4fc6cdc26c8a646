"""Tiles in which objects are explained: each with its object in the centre."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from math import ceil

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from capecam.detections.regions import mask
from capecam.grid import Window

PART = 5 / 8
"""Largest part of an object wider than a tile, as a share of the tile's edge: 200 of 320 px."""

TOLERANCE_M = 1e-6
"""Distances of 2 m are 25 pixels of 8 cm, and 2 / 0.08 is not exactly 25."""


@dataclass(frozen=True, slots=True)
class ExplainedObject:
    """An object of the city that is to be explained."""

    id: str
    class_id: int
    shape: shapely.Geometry
    """Its pixels, in lattice pixels."""
    others: tuple[shapely.Geometry, ...] = ()
    """Other objects of the class nearby, in lattice pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class ObjectTile:
    """A tile with an object, or a part of one that is wider than a tile."""

    window: Window
    part: NDArray[np.bool_]
    """(S, S); True is a pixel of the part."""
    inside: NDArray[np.bool_]
    """(S, S); True is a pixel of the object."""
    others: NDArray[np.bool_]
    """(S, S); True is a pixel of another object of the class."""
    outside_m: NDArray[np.float64]
    """(S, S) metres to the object, between centres of pixels; 0 inside."""
    depth_m: NDArray[np.float64]
    """(S, S) metres to the nearest pixel outside; 0 outside."""

    def within(self, distance_m: float) -> NDArray[np.bool_]:
        """Return the pixels (S, S) inside, or within a distance."""
        return self.outside_m <= distance_m + TOLERANCE_M


def object_tiles(
    target: ExplainedObject, size: int, stride: int, extent: Window, pixel_m: tuple[float, float]
) -> Iterator[ObjectTile]:
    """Yield the tile of an object, or those of its parts if it is wider than a tile.

    Args:
        target: the object.
        size: edge of a tile in pixels.
        stride: edge of a block in pixels.
        extent: of the mosaic, on which tiles lie where they can.
        pixel_m: width and height of a pixel.
    """
    for part in _parts(target.shape, size, stride):
        window = centred(part, size, stride, extent)
        inside = mask(target.shape, window)
        others = [each for each in target.others if shapely.intersects(each, window.box)]
        sampling = (pixel_m[1], pixel_m[0])
        yield ObjectTile(
            window,
            mask(part, window) & inside,
            inside,
            mask(shapely.union_all(others), window) & ~inside if others else np.zeros_like(inside),
            distance_transform_edt(~inside, sampling),
            distance_transform_edt(inside, sampling),
        )


def tile_windows(shape: shapely.Geometry, size: int, stride: int, extent: Window) -> list[Window]:
    """Return the windows of :func:`object_tiles`."""
    return [centred(part, size, stride, extent) for part in _parts(shape, size, stride)]


def centred(shape: shapely.Geometry, size: int, stride: int, extent: Window) -> Window:
    """Return the tile with a shape in its centre, moved to lie on the mosaic where it can.

    It is a whole number of blocks from the anchor, so that its blocks are those of the rasters.
    """
    left, top, right, bottom = shapely.bounds(shape).tolist()

    def start(first: float, last: float, low: int, high: int) -> int:
        """Return the first pixel of an axis."""
        middle = round((first + last - size) / 2 / stride)
        return stride * max(low // stride, min(middle, ceil((high - size) / stride)))

    row = start(top, bottom, extent.row, extent.bottom)
    return Window(row, start(left, right, extent.col, extent.right), size, size)


def _parts(shape: shapely.Geometry, size: int, stride: int) -> Iterator[shapely.Geometry]:
    """Yield an object that fits a tile, or its parts on a grid."""
    left, top, right, bottom = shapely.bounds(shape).tolist()
    if max(right - left, bottom - top) <= size - stride:  # a tile may be half a block off centre
        yield shape
        return
    ys, xs = (
        np.round(np.linspace(first, last, ceil((last - first) / (PART * size)) + 1))
        for first, last in ((top, bottom), (left, right))
    )
    for (y0, y1), (x0, x1) in product(pairwise(ys), pairwise(xs)):
        part = shapely.intersection(shape, shapely.box(x0, y0, x1, y1))
        if shapely.area(part):
            yield part
