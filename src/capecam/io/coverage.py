"""Where a layer of the city has values at all: in what share of a shape, and at which points."""

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
from capecam.io.vrt import Layer, is_valid

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

FULL_PX = 1 << 24
"""Shapes whose bounding box has at most so many pixels, 4,096 x 4,096, are counted pixel by pixel;
that takes 0.04 s (one core, ZSTD). Larger ones are counted on the overview: of zones of 1 to 4 km²
in imagery of 8 cm with a gap of 240 x 160 m in every km², the share was off by less than 0.0005."""

STRIP_PX = 1 << 24
"""Samples that are held at once, in three arrays of a byte each."""

BLOCK = 512
"""Points are looked up on the overview by blocks of so many samples."""


@dataclass(frozen=True, slots=True)
class _Samples:
    """Where there are values, at the centres of squares of ``factor`` pixels."""

    factor: int
    corner: NDArray[np.float64]
    """(2,) lattice point (col, row) of the first square."""
    read: Callable[[Window], Booleans]
    """(height, width) of a window in samples; False is nodata, and everything beyond the layer."""

    def place(self, points: Floats) -> Floats:
        """(N, 2) lattice points in samples from the corner."""
        return np.asarray((points - self.corner) / self.factor)

    def share(self, shape: shapely.Polygon) -> float:
        """Of the samples in a shape, in lattice pixels, those that have a value."""
        placed = shapely.transform(shape, self.place)
        inside = valid = 0
        for window in _strips(placed):
            origin = Affine.translation(window.col, window.row)
            burnt = rasterize([placed], out_shape=window.shape, transform=origin, dtype="uint8")
            mask = burnt.view(np.bool_)
            inside += int(np.count_nonzero(mask))
            valid += int(np.count_nonzero(mask & self.read(window)))
        if not inside:  # it is thinner than a sample, and holds no centre of one
            (point,) = shapely.get_coordinates(shapely.point_on_surface(placed))
            return float(self.read(_around(point, 0)).item())
        return valid / inside


def _strips(shape: shapely.Polygon) -> Iterator[Window]:
    """The whole samples around a shape, from top to bottom, at most ``STRIP_PX`` at a time."""
    left, top, right, bottom = shape.bounds
    first, last = int(np.floor(left)), int(np.ceil(right))
    rows = max(1, STRIP_PX // (last - first))
    end = int(np.ceil(bottom))
    for row in range(int(np.floor(top)), end, rows):
        yield Window.between(row, first, min(row + rows, end), last)


def _around(point: Floats, margin: int) -> Window:
    """The sample that a point lies in, with so many more on each side."""
    col, row = np.floor(point).astype(int)
    return Window(int(row) - margin, int(col) - margin, 2 * margin + 1, 2 * margin + 1)


@dataclass(frozen=True, slots=True)
class Coverage:
    """Where a layer has values; the first band says it for all."""

    layer: Layer
    overview: Path
    """Of the layer, as :func:`write_overview` makes it."""

    def shares(self, shapes: NDArray[np.object_]) -> tuple[Floats, Integers]:
        """In which share of their area polygons have values.

        A polygon of a multipolygon is counted by itself: at every pixel, or at the centres of
        the overview's where its bounding box has more than ``FULL_PX``.

        Args:
            shapes: (N,) polygons or multipolygons in lattice pixels.

        Returns:
            (N,) shares, 0..1, NaN for shapes without an area; (N,) edge of the largest square that
            a sample stood for, in pixels: 1 or 16, or 0 where nothing was counted.
        """
        inside = shapely.intersection(shapes, self.layer.grid.window.box)
        parts, owner = shapely.get_parts(inside, return_index=True)
        parts, owner = parts[shapely.area(parts) > 0], owner[shapely.area(parts) > 0]
        left, top, right, bottom = shapely.bounds(parts).T
        small = np.ceil(right - left) * np.ceil(bottom - top) <= FULL_PX
        valid = np.zeros(len(shapes))
        factor = np.zeros(len(shapes), np.int64)
        with self._full() as full, self._coarse() as coarse:
            for part in _neighbours_in_a_row(parts):
                samples, own = full if small[part] else coarse, owner[part]
                valid[own] += shapely.area(parts[part]) * samples.share(parts[part])
                factor[own] = max(factor[own], samples.factor)
        whole = shapely.area(shapes)
        shares = np.divide(valid, whole, out=np.full(len(shapes), np.nan), where=whole > 0)
        return np.minimum(shares, 1.0), factor  # the sum of parts may be off in the last digit

    def at(self, points: Floats) -> Booleans:
        """(N,) whether there is a value at each of (N, 2) lattice points (col, row).

        The overview answers where it says the same all around a point; near an edge the pixel
        itself does. So what is narrower than 16 pixels may be missed, away from edges.
        """
        if not len(points):
            return np.empty(0, np.bool_)
        with self._coarse() as coarse:
            around = _sums_around(coarse, coarse.place(points))
        seen = np.asarray(around == 9)
        doubtful = np.flatnonzero((around > 0) & (around < 9))
        doubtful = doubtful[_neighbours_in_a_row(shapely.points(points[doubtful]))]
        with self._full() as full:
            for index in doubtful:
                seen[index] = full.read(_around(points[index], 0)).item()
        return seen

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
    """(height, width) of a window that may reach beyond the dataset."""
    valid = np.zeros(window.shape, np.bool_)
    part = window.intersection(Window(0, 0, *dataset.shape))
    if part:
        rows, cols = (part.row, part.bottom), (part.col, part.right)
        found = dataset.read(1, window=(rows, cols))
        valid[part.slices(window)] = is_valid(found, dataset.nodata)
    return valid


def _neighbours_in_a_row(shapes: NDArray[np.object_]) -> Integers:
    """An order in which few files have to be open at a time."""
    if not len(shapes):
        return np.empty(0, np.int64)
    return np.argsort(gpd.GeoSeries(shapes).hilbert_distance().to_numpy(), kind="stable")


def _sums_around(samples: _Samples, points: Floats) -> Integers:
    """(N,) how many of the 3 x 3 samples around each point, in samples, have a value."""
    places = np.floor(points).astype(np.int64)
    sums = np.zeros(len(points), np.int64)
    blocks, member = np.unique(places // BLOCK, axis=0, return_inverse=True)
    by_block = np.split(np.argsort(member, kind="stable"), np.cumsum(np.bincount(member))[:-1])
    for (col, row), chosen in zip((blocks * BLOCK).tolist(), by_block, strict=True):
        valid = samples.read(Window(row - 1, col - 1, BLOCK + 2, BLOCK + 2))
        cols, rows = (places[chosen] - (col, row)).T
        for down in range(3):
            for right in range(3):
                sums[chosen] += valid[rows + down, cols + right]
    return sums
