"""Coverage of a layer: the share of a shape with values, and points with a value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize

from capecam.grid import Window
from capecam.io.gdal import open_readonly
from capecam.io.layer_reader import LayerReader
from capecam.io.overview import FACTOR
from capecam.io.pyramid import is_valid
from capecam.io.vrt import Layer

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

FULL_PX = 1 << 24
"""Maximum pixels in the bounding box of a shape, 4,096 x 4,096, that is counted pixel by pixel, in
0.04 s (one core, ZSTD). Larger shapes are counted on the overview: for zones of 1 to 4 km² in
imagery of 8 cm, with a gap of 240 x 160 m in every km², the error of the share was less than
0.0005."""

STRIP_PX = 1 << 24
"""Samples in memory at once, in three arrays of one byte each."""

BLOCK = 512
"""Edge in samples of the blocks of the overview in which points are looked up."""


@dataclass(frozen=True, slots=True)
class _Samples:
    """Validity of a layer at the centres of squares of ``factor`` pixels."""

    factor: int
    corner: NDArray[np.float64]
    """(2,) position (col, row) of the first square, in pixels."""
    read: Callable[[Window], Booleans]
    """Returns (height, width) of a window in samples; False is nodata or outside of the layer."""

    def to_samples(self, points: Floats) -> Floats:
        """Convert (N, 2) pixel positions to samples from the corner."""
        return np.asarray((points - self.corner) / self.factor)

    def share(self, shape: shapely.Polygon) -> float:
        """Return the share of the samples in a shape (in pixels) that have a value."""
        scaled = shapely.transform(shape, self.to_samples)
        inside = valid = 0
        for window in _strips(scaled):
            origin = Affine.translation(window.col, window.row)
            burnt = rasterize([scaled], out_shape=window.shape, transform=origin, dtype="uint8")
            mask = burnt.view(np.bool_)
            inside += int(np.count_nonzero(mask))
            valid += int(np.count_nonzero(mask & self.read(window)))
        if not inside:  # the shape contains no centre of a sample
            (point,) = shapely.get_coordinates(shapely.point_on_surface(scaled))
            return float(self.read(_around(point, 0)).item())
        return valid / inside


def _strips(shape: shapely.Polygon) -> Iterator[Window]:
    """Yield windows around a shape from top to bottom, of at most ``STRIP_PX`` samples."""
    left, top, right, bottom = shape.bounds
    first, last = int(np.floor(left)), int(np.ceil(right))
    rows = max(1, STRIP_PX // (last - first))
    end = int(np.ceil(bottom))
    for row in range(int(np.floor(top)), end, rows):
        yield Window.between(row, first, min(row + rows, end), last)


def _around(point: Floats, margin: int) -> Window:
    """Return the window of the sample at a point, with a margin in samples."""
    col, row = np.floor(point).astype(int)
    return Window(int(row) - margin, int(col) - margin, 2 * margin + 1, 2 * margin + 1)


@dataclass(frozen=True, slots=True)
class Coverage:
    """Coverage of a layer, by its first band."""

    layer: Layer
    overview: Path
    """Overview of the layer, of :func:`capecam.io.overview.write_overview`."""

    def shares(self, shapes: NDArray[np.object_]) -> tuple[Floats, Integers]:
        """Return the shares of the areas of polygons that have values.

        Each polygon of a multipolygon is counted separately: at every pixel, or at the pixels of
        the overview if its bounding box has more than ``FULL_PX``.

        Args:
            shapes: (N,) polygons or multipolygons in pixels.

        Returns:
            (N,) shares, 0..1, NaN for shapes without an area; (N,) edge in pixels of the largest
            square that was counted as one sample: 1 or 16, or 0 if nothing was counted.
        """
        inside = shapely.intersection(shapes, self.layer.grid.window.box)
        parts, owner = shapely.get_parts(inside, return_index=True)
        parts, owner = parts[shapely.area(parts) > 0], owner[shapely.area(parts) > 0]
        left, top, right, bottom = shapely.bounds(parts).T
        small = np.ceil(right - left) * np.ceil(bottom - top) <= FULL_PX
        valid = np.zeros(len(shapes))
        factor = np.zeros(len(shapes), np.int64)
        with self._full() as full, self._coarse() as coarse:
            for part in _spatial_order(parts):
                samples, own = full if small[part] else coarse, owner[part]
                valid[own] += shapely.area(parts[part]) * samples.share(parts[part])
                factor[own] = max(factor[own], samples.factor)
        whole = shapely.area(shapes)
        shares = np.divide(valid, whole, out=np.full(len(shapes), np.nan), where=whole > 0)
        return np.minimum(shares, 1.0), factor  # the sum of parts may be off in the last digit

    def at(self, points: Floats) -> Booleans:
        """Return (N,) True where there is a value at (N, 2) pixel positions (col, row).

        The overview decides where it is the same all around a point, and the pixel itself near an
        edge. Gaps narrower than 16 pixels may be missed away from edges.
        """
        if not len(points):
            return np.empty(0, np.bool_)
        with self._coarse() as coarse:
            around = _sums_around(coarse, coarse.to_samples(points))
        valid = np.asarray(around == 9)
        near_edge = np.flatnonzero((around > 0) & (around < 9))
        near_edge = near_edge[_spatial_order(shapely.points(points[near_edge]))]
        with self._full() as full:
            for index in near_edge:
                valid[index] = full.read(_around(points[index], 0)).item()
        return valid

    def by_square(self, corner: Floats, size: Floats) -> tuple[Integers, Integers]:
        """Count valid imagery in squares, on the overview.

        Args:
            corner: (2,) position (col, row) in pixels of the corner of square (0, 0).
            size: (2,) width and height of a square in pixels.

        Returns:
            (N, 2) column and row of the squares with any, row-major, and (N,) pixels: those of the
            samples of the overview whose centres are in the square and have a value.
        """
        with open_readonly(self.overview) as dataset:
            t = dataset.transform
            (start,) = self.layer.grid.to_lattice(np.array([[t.c, t.f]]))
            cols, rows = (
                np.floor((start[axis] + (np.arange(count) + 0.5) * FACTOR - corner[axis])
                         / size[axis]).astype(np.int64)
                for axis, count in enumerate((dataset.width, dataset.height))
            )  # fmt: skip
            counts = np.zeros((rows[-1] - rows[0] + 1, cols[-1] - cols[0] + 1), np.int64)
            starts = np.flatnonzero(np.diff(cols, prepend=cols[0] - 1))
            height = max(1, STRIP_PX // dataset.width)
            for top in range(0, dataset.height, height):
                strip = Window(top, 0, min(height, dataset.height - top), dataset.width)
                valid = _read_valid(dataset, strip).astype(np.int64)
                sums = np.add.reduceat(valid, starts, axis=1)
                own = rows[top : strip.bottom] - rows[0]
                whole = np.zeros((len(sums), counts.shape[1]), np.int64)
                whole[:, cols[starts] - cols[0]] = sums
                np.add.at(counts, own, whole)
        row, col = np.nonzero(counts)
        places = np.stack([col + cols[0], row + rows[0]], axis=1)
        return places, counts[row, col] * FACTOR**2

    @contextmanager
    def _full(self) -> Iterator[_Samples]:
        with closing(LayerReader(self.layer)) as reader:
            nodata = reader.nodata
            yield _Samples(1, np.zeros(2), lambda window: is_valid(reader.read(1, window), nodata))

    @contextmanager
    def _coarse(self) -> Iterator[_Samples]:
        with open_readonly(self.overview) as dataset:
            t = dataset.transform
            (corner,) = self.layer.grid.to_lattice(np.array([[t.c, t.f]]))
            yield _Samples(FACTOR, corner, lambda window: _read_valid(dataset, window))


def _read_valid(dataset: Any, window: Window) -> Booleans:
    """Return (height, width) of a window that may extend beyond the dataset."""
    valid = np.zeros(window.shape, np.bool_)
    part = window.intersection(Window(0, 0, *dataset.shape))
    if part:
        rows, cols = (part.row, part.bottom), (part.col, part.right)
        values = dataset.read(1, window=(rows, cols))
        valid[part.slices(window)] = is_valid(values, dataset.nodata)
    return valid


def _spatial_order(shapes: NDArray[np.object_]) -> Integers:
    """Return an order of shapes in which few files have to be open at once."""
    if not len(shapes):
        return np.empty(0, np.int64)
    return np.argsort(gpd.GeoSeries(shapes).hilbert_distance().to_numpy(), kind="stable")


def _sums_around(samples: _Samples, points: Floats) -> Integers:
    """Return (N,) numbers of the 3 x 3 samples around (N, 2) points that have a value."""
    samples_at = np.floor(points).astype(np.int64)
    sums = np.zeros(len(points), np.int64)
    blocks, member = np.unique(samples_at // BLOCK, axis=0, return_inverse=True)
    by_block = np.split(np.argsort(member, kind="stable"), np.cumsum(np.bincount(member))[:-1])
    for (col, row), chosen in zip((blocks * BLOCK).tolist(), by_block, strict=True):
        valid = samples.read(Window(row - 1, col - 1, BLOCK + 2, BLOCK + 2))
        cols, rows = (samples_at[chosen] - (col, row)).T
        for down in range(3):
            for right in range(3):
                sums[chosen] += valid[rows + down, cols + right]
    return sums
