"""Vectorization of class rasters into regions, strip by strip.

GDAL's polygonize and rasterize hold the GIL while they run, and so stop all threads of a cell;
numpy releases it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from capecam.detections.outlines import corners_of, outlines
from capecam.detections.pixel_runs import Runs
from capecam.detections.regions import Integers, Pieces, components


class Tracer:
    """Traces 4-connected regions from strips of class indices that come from top to bottom.

    A region becomes a polygon with the strip that ends it; until then only its corners are kept.
    Memory is that of the runs of a strip, at most one a pixel, and of the polygons.
    """

    def __init__(self, col: int, image: str) -> None:
        self._col, self._image = col, image
        self._bottom = 0
        """Row below the last strip."""
        self._last, self._last_region = Runs.none(), np.empty(0, np.int64)
        """Runs of the last row, and their regions."""
        self._regions, self._corners = Runs.none(), np.empty((4, 0), np.int64)
        """First runs of the regions that reach the last row, with the level sums of the regions,
        and their corners above it."""
        self._first, self._pieces = Runs.none(), list[Pieces]()
        """Finished regions and their first runs."""

    def add(self, row: int, classes: NDArray[Any], levels: NDArray[Any]) -> None:
        """Trace a strip.

        Args:
            row: of the strip's top edge, in lattice pixels.
            classes: (n, W) class indices.
            levels: (C, n, W) probability levels of the foreground classes, 0..254.
        """
        runs = Runs.find(classes, levels)
        self._extend(runs._replace(row=runs.row + row), row + len(classes))

    def _extend(self, new: Runs, bottom: int) -> None:
        """Connect the runs of a strip that ends at ``bottom`` to the regions above it."""
        runs, nodes = self._last.append(new), self._regions.append(new)
        node = np.append(self._last_region, len(self._regions.row) + np.arange(len(new.row)))
        links = runs.touching()
        region_of = components(len(nodes.row), node[links])
        first = np.unique(region_of, return_index=True)[1]
        level_sum = np.bincount(region_of, nodes.level_sum).astype(np.int64)
        regions, region = nodes.take(first)._replace(level_sum=level_sum), region_of[node]

        is_first, is_last = np.arange(len(node)) < len(self._last.row), runs.row == bottom - 1
        self._corners[0] = region_of[self._corners[0]]
        added = corners_of(runs, region, links, is_first, is_last)
        corners = np.concatenate([self._corners, added], axis=1)

        goes_on = np.isin(np.arange(len(first)), region[is_last])
        number = np.where(goes_on, np.cumsum(goes_on), np.cumsum(~goes_on)) - 1
        keep = goes_on[corners[0]]
        corners[0] = number[corners[0]]
        self._finish(regions.take(~goes_on), corners[:, ~keep])
        self._regions, self._corners = regions.take(goes_on), corners[:, keep]
        self._last, self._last_region = runs.take(is_last), number[region[is_last]]
        self._bottom = bottom

    def _finish(self, regions: Runs, corners: Integers) -> None:
        """Make pieces of regions that are whole."""
        corners[2] += self._col
        images = (frozenset([self._image]),) * len(regions.row)
        self._pieces.append(Pieces(regions.class_id, outlines(corners), regions.level_sum, images))
        self._first = self._first.append(regions)

    def finish(self) -> Pieces:
        """Return all regions, in the order of their first pixels."""
        self._extend(Runs.none(), self._bottom + 1)
        order = np.lexsort((self._first.start, self._first.row))
        return Pieces.concatenate(self._pieces).take(order)
