"""From rows of class pixels to regions, while the rows come in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize, shapes

from capecam.detections.regions import Pieces, merge
from capecam.io.cog import NODATA


class Tracer:
    """Traces 4-connected regions from rows of class indices that come from top to bottom."""

    def __init__(self, col: int, image: str) -> None:
        self._col, self._image = col, image
        self._class_id: list[int] = []
        self._geometry: list[Any] = []
        self._level_sum: list[int] = []
        self._links: list[tuple[int, int]] = []
        self._last: tuple[NDArray[np.uint8], NDArray[np.int32]] | None = None
        """Classes and region numbers of the last row, to connect the next rows to."""

    def add(self, row: int, classes: NDArray[Any], probability: NDArray[Any]) -> None:
        """Trace (n, W) class indices and (C, n, W) probability levels that start at ``row``."""
        found = (classes > 0) & (classes != NODATA)
        regions = np.zeros(classes.shape, np.int32)
        for cols in _runs(np.asarray(found.any(axis=0))):
            self._trace(row, cols, classes[:, cols], found[:, cols], regions[:, cols])
        self._sum_levels(classes, found, regions, probability)
        self._connect(classes[0], regions[0])
        self._last = (classes[-1], regions[-1])

    def _trace(
        self,
        row: int,
        cols: slice,
        classes: NDArray[Any],
        found: NDArray[Any],
        regions: NDArray[Any],
    ) -> None:
        """Polygons of a block of columns; writes the regions' numbers (from 1) into ``regions``."""
        traced = shapes(np.ascontiguousarray(classes), mask=found, connectivity=4)
        outlines, values = zip(*traced, strict=True)
        polygons = np.array([shapely.geometry.shape(outline) for outline in outlines], object)
        corner = np.array([self._col + cols.start, row])
        first = len(self._geometry) + 1
        self._geometry += shapely.transform(polygons, lambda xy: xy + corner).tolist()
        self._class_id += map(int, values)
        self._level_sum += [0] * len(polygons)
        numbered = zip(outlines, range(first, first + len(polygons)), strict=True)
        regions[:] = rasterize(numbered, out_shape=regions.shape, dtype="int32")

    def _sum_levels(
        self,
        classes: NDArray[Any],
        found: NDArray[Any],
        regions: NDArray[Any],
        levels: NDArray[Any],
    ) -> None:
        rows, cols = np.nonzero(found)
        own = levels[classes[rows, cols].astype(np.intp) - 1, rows, cols]
        sums = np.bincount(regions[rows, cols], weights=own, minlength=1)
        for region in np.flatnonzero(sums):
            self._level_sum[region - 1] += int(sums[region])

    def _connect(self, classes: NDArray[Any], regions: NDArray[Any]) -> None:
        """Link regions of one class that meet at the edge between the last rows and these."""
        if self._last is not None:
            above, numbers = self._last
            meet = (above == classes) & (numbers > 0) & (regions > 0)
            pairs = np.unique(np.stack([numbers[meet], regions[meet]], axis=1), axis=0)
            self._links.extend((int(a) - 1, int(b) - 1) for a, b in pairs)

    def finish(self) -> Pieces:
        """All regions, in the order of their first pixels."""
        count = len(self._class_id)
        geometry = np.empty(count, object)
        geometry[:] = self._geometry
        fragments = Pieces(
            np.array(self._class_id, np.int64),
            geometry,
            np.array(self._level_sum, np.int64),
            (frozenset([self._image]),) * count,
        )
        return merge(fragments, self._links)


def _runs(occupied: NDArray[np.bool_]) -> Iterator[slice]:
    """Stretches of occupied columns; no region crosses an empty one."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], occupied, [False]])))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        yield slice(int(start), int(stop))
