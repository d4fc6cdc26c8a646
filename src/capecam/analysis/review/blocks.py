"""Blocks: squares on the ground that people check completely, and of which samples are drawn."""

from __future__ import annotations

from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from capecam.analysis.change import RunYear
from capecam.detections.measurement import inside_points, middle_pixel_m, pixel_area_m2
from capecam.errors import UsageError
from capecam.grid import Grid
from capecam.mosaic.sampling import index_key

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Shapes = NDArray[np.object_]

MIN_BLOCK_M, MAX_BLOCK_M = 8.0, 1000.0
"""A smaller block is less than a roof; a larger one is hardly checked completely."""


@dataclass(frozen=True, slots=True)
class BlockGrid:
    """Grid of blocks from the origin of a CRS on: columns to the east, rows to the south.

    It does not depend on the imagery, so that blocks stay where they are when the mosaic grows.
    """

    step: tuple[float, float]
    """Width and height of a block in units of the CRS."""

    def __post_init__(self) -> None:
        if not min(self.step) > 0:
            raise ValueError(f"width and height of a block must be positive, got {self.step}")

    @classmethod
    def of(cls, grid: Grid, block_m: float) -> BlockGrid:
        """Return the blocks of a size on the ground, in the CRS of a pixel grid.

        Raises:
            UsageError: the size is out of range.
        """
        if not MIN_BLOCK_M <= block_m <= MAX_BLOCK_M:
            raise UsageError(
                f"--block must be from {MIN_BLOCK_M:g} to {MAX_BLOCK_M:g} m, got {block_m:g}"
            )
        x, y = (block_m / middle_pixel_m(grid) * grid.pixel).tolist()
        return cls((x, y))

    def indices(self, points: Floats) -> Integers:
        """Return (N, 2) column and row of the blocks in which (N, 2) points on the map lie."""
        return np.floor(points * (1, -1) / self.step).astype(np.int64)

    def boxes(self, places: Integers) -> Shapes:
        """Return (N,) the squares of (N, 2) blocks."""
        left, top = (places * self.step * (1, -1)).T
        return np.asarray(shapely.box(left, top - self.step[1], left + self.step[0], top))

    def centres(self, places: Integers) -> Floats:
        """Return (N, 2) the centres of (N, 2) blocks."""
        return np.asarray((places + 0.5) * self.step * (1, -1))


@dataclass(frozen=True, slots=True, eq=False)
class BlockList:
    """N blocks of a grid, row-major."""

    grid: BlockGrid
    places: Integers
    """(N, 2) column and row."""

    def __post_init__(self) -> None:
        if (np.diff(self.keys) <= 0).any():
            raise ValueError("blocks must be different, and row-major")

    def __len__(self) -> int:
        return len(self.places)

    @property
    def keys(self) -> Integers:
        """Return (N,) a number for each block, ascending."""
        return index_key(self.places[:, 1], self.places[:, 0])

    @property
    def names(self) -> list[str]:
        """Return the ids of the blocks: ``<column>_<row>``."""
        return [f"{col}_{row}" for col, row in self.places.tolist()]

    def find(self, places: Integers) -> Integers:
        """Return (M,) the index of each of (M, 2) blocks, -1 if it is not in the list."""
        keys, wanted = self.keys, index_key(places[:, 1], places[:, 0])
        index = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[index] == wanted, index, -1)

    def holding(self, points: Floats) -> Integers:
        """Return (M,) the index of the block of each of (M, 2) points on the map, or -1."""
        return self.find(self.grid.indices(points))


def points_of(detections: gpd.GeoDataFrame, year: RunYear) -> Floats:
    """Return (N, 2) the points on the map in which detections are counted."""
    points = inside_points(detections, year.crs, year.extent.centroid.x)
    return np.asarray(shapely.get_coordinates(points.to_numpy()))


def mapped_blocks(year: RunYear, grid: BlockGrid) -> tuple[BlockList, Floats]:
    """Return the blocks with valid imagery, and their (N,) m² of it.

    Imagery is counted on the overview, at 1/16. A block with less than a sample of it is not in
    the list unless a detection is.
    """
    corner = year.grid.to_pixels(np.zeros((1, 2)))[0]
    places, pixels = year.coverage.by_square(corner, np.asarray(grid.step) / year.grid.pixel)
    every = np.concatenate([places, grid.indices(points_of(year.detections, year))])
    keys, first = np.unique(index_key(every[:, 1], every[:, 0]), return_index=True)
    blocks = BlockList(grid, every[first])
    m2 = np.zeros(len(keys))
    centres = year.grid.to_pixels(grid.centres(places))
    m2[blocks.find(places)] = pixels * pixel_area_m2(year.grid, centres)
    return blocks, m2
