"""Vectorization of class rasters into regions, strip by strip."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize, shapes
from scipy.ndimage import find_objects, label

from capecam.detections.regions import Integers, Pieces, merge
from capecam.io.cog import NODATA


class Tracer:
    """Traces 4-connected regions from strips of class indices that come from top to bottom."""

    def __init__(self, col: int, image: str) -> None:
        self._col, self._image = col, image
        self._class_id: list[int] = []
        self._geometry: list[shapely.Polygon] = []
        self._level_sum: list[Integers] = [np.empty(0, np.int64)]
        self._links: list[Integers] = [np.empty((2, 0), np.int64)]
        self._last: tuple[NDArray[Any], NDArray[np.int32]] | None = None
        """Classes and region numbers of the last row, to connect the next strip to."""

    def add(self, row: int, classes: NDArray[Any], levels: NDArray[Any]) -> None:
        """Trace a strip.

        Args:
            row: of the strip's top edge, in lattice pixels.
            classes: (n, W) class indices.
            levels: (C, n, W) probability levels of the foreground classes, 0..254.
        """
        foreground = (classes > 0) & (classes != NODATA)
        regions = np.zeros(classes.shape, np.int32)
        occupied, _ = label(foreground.any(axis=0))
        for (cols,) in find_objects(occupied):  # no region crosses an empty column
            self._trace(row, cols, classes[:, cols], foreground[:, cols], regions[:, cols])
        self._sum_levels(classes, regions, levels)
        self._connect(classes[0], regions[0])
        self._last = (classes[-1], regions[-1])

    def _trace(
        self,
        row: int,
        cols: slice,
        classes: NDArray[Any],
        foreground: NDArray[np.bool_],
        regions: NDArray[np.int32],
    ) -> None:
        """Trace a block of columns; write the regions' numbers, from 1, into ``regions``."""
        traced = shapes(np.ascontiguousarray(classes), mask=foreground, connectivity=4)
        outlines, values = zip(*traced, strict=True)
        polygons = np.array([shapely.geometry.shape(outline) for outline in outlines], object)
        corner = np.array([self._col + cols.start, row])
        first = len(self._geometry) + 1
        self._geometry += shapely.transform(polygons, lambda xy: xy + corner).tolist()
        self._class_id += map(int, values)
        numbered = zip(outlines, range(first, first + len(polygons)), strict=True)
        regions[:] = rasterize(numbered, out_shape=regions.shape, dtype="int32")

    def _sum_levels(
        self, classes: NDArray[Any], regions: NDArray[np.int32], levels: NDArray[Any]
    ) -> None:
        """Sum the levels of each new region's class."""
        rows, cols = np.nonzero(regions)
        own = levels[classes[rows, cols].astype(np.intp) - 1, rows, cols]
        sums = np.bincount(regions[rows, cols], own, minlength=len(self._geometry) + 1)
        self._level_sum.append(sums[1 + sum(map(len, self._level_sum)) :].astype(np.int64))

    def _connect(self, classes: NDArray[Any], regions: NDArray[np.int32]) -> None:
        """Link regions of one class that touch across the edge between two strips."""
        if self._last is not None:
            classes_above, regions_above = self._last
            touch = (classes_above == classes) & (regions_above > 0) & (regions > 0)
            pairs = np.stack([regions_above[touch], regions[touch]]).astype(np.int64) - 1
            self._links.append(np.unique(pairs, axis=1))

    def finish(self) -> Pieces:
        """Return all regions, in the order of their first pixels."""
        fragments = Pieces(
            np.array(self._class_id, np.int64),
            np.array(self._geometry, object),
            np.concatenate(self._level_sum),
            (frozenset([self._image]),) * len(self._class_id),
        )
        return merge(fragments, np.concatenate(self._links, axis=1))
