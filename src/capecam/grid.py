"""Windows, grids, the grid of tiles, and cells.

All positions are whole pixels on one pixel grid whose origin (0, 0) is the *anchor*, a fixed point
in map coordinates. Offsets in a file, a cell or a strip are differences of such positions; map
coordinates appear only in :class:`Grid`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray

from capecam.tile_size import TileSize


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """A rectangle of whole pixels, which may start at negative positions; sorts row-major."""

    row: int
    """Top edge, in pixels below the anchor."""
    col: int
    """Left edge, in pixels right of the anchor."""
    height: int
    width: int

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"window {name} must be at least 1, got {getattr(self, name)}")

    @property
    def box(self) -> shapely.Polygon:
        """The window as a polygon: x is the column, y the row."""
        return shapely.box(self.col, self.row, self.right, self.bottom)

    @property
    def bottom(self) -> int:
        """First row below the window."""
        return self.row + self.height

    @property
    def right(self) -> int:
        """First column right of the window."""
        return self.col + self.width

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @classmethod
    def between(cls, row: int, col: int, bottom: int, right: int) -> Window:
        """Return the window from (row, col) to the first row and column outside it."""
        return cls(row, col, bottom - row, right - col)

    def intersection(self, other: Window) -> Window | None:
        """Return the window of the pixels in both windows, or None."""
        row, col = max(self.row, other.row), max(self.col, other.col)
        bottom, right = min(self.bottom, other.bottom), min(self.right, other.right)
        return Window.between(row, col, bottom, right) if bottom > row and right > col else None

    def hull(self, other: Window) -> Window:
        """Return the smallest window that contains both windows."""
        return Window.between(
            min(self.row, other.row),
            min(self.col, other.col),
            max(self.bottom, other.bottom),
            max(self.right, other.right),
        )

    def contains(self, other: Window) -> bool:
        """Return True if every pixel of the other window is in this one."""
        return self.hull(other) == self

    def slices(self, inside: Window) -> tuple[slice, slice]:
        """Return the index of this window in an array that covers ``inside``."""
        if not inside.contains(self):
            raise ValueError(f"{self} is not inside {inside}")
        row, col = self.row - inside.row, self.col - inside.col
        return slice(row, row + self.height), slice(col, col + self.width)

    def scaled(self, stride: int) -> Window:
        """Return the pixels of a window that is given in blocks."""
        row, col, height, width = self.row, self.col, self.height, self.width
        return Window(row * stride, col * stride, height * stride, width * stride)

    def blocks(self, stride: int) -> Window | None:
        """Return the blocks of ``stride`` px whose top-left pixel is in this window.

        Returns:
            A window in blocks, or None if no block starts inside, which is possible for a window
            that is narrower than a block.
        """
        row, col = -(-self.row // stride), -(-self.col // stride)
        bottom, right = -(-self.bottom // stride), -(-self.right // stride)
        return Window.between(row, col, bottom, right) if bottom > row and right > col else None


def decimal(value: float) -> Fraction:
    """Return a number as it is written in decimals: 8/100 for 0.08."""
    return Fraction(repr(float(value)))


@dataclass(frozen=True, slots=True)
class Grid:
    """A north-up pixel grid over a window, closed under crop and coarsen.

    Map coordinates are computed in exact decimals and rounded once, so that the corner of a cell is
    the same number as in the header of its image (``-57000.0``, not ``-56999.99999999999``).
    """

    crs: str
    """WKT of the CRS, as in the first image of the mosaic."""
    anchor: tuple[float, float]
    """Map coordinates of pixel position (0, 0)."""
    pixel: tuple[float, float]
    """Width and height of a pixel in CRS units, both positive; rows run down, y runs up."""
    window: Window

    def __post_init__(self) -> None:
        if not min(self.pixel) > 0:
            raise ValueError(f"pixel width and height must be positive, got {self.pixel}")

    @property
    def transform(self) -> Affine:
        """Affine transform of the window, as GDAL and rasterio use it."""
        x, y = self.xy(self.window.col, self.window.row)
        return Affine(self.pixel[0], 0.0, x, 0.0, -self.pixel[1], y)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Map coordinates of the window: left, bottom, right, top."""
        left, top = self.xy(self.window.col, self.window.row)
        right, bottom = self.xy(self.window.right, self.window.bottom)
        return left, bottom, right, top

    def xy(self, col: int, row: int) -> tuple[float, float]:
        """Return the map coordinates of a pixel corner."""
        x = decimal(self.anchor[0]) + col * decimal(self.pixel[0])
        y = decimal(self.anchor[1]) - row * decimal(self.pixel[1])
        return float(x), float(y)

    def to_lattice_exact(self, x: float, y: float) -> tuple[Fraction, Fraction]:
        """Return the exact (col, row) of a point in map coordinates; whole numbers on the grid."""
        col = (decimal(x) - decimal(self.anchor[0])) / decimal(self.pixel[0])
        row = (decimal(self.anchor[1]) - decimal(y)) / decimal(self.pixel[1])
        return col, row

    def to_map(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert (N, 2) pixel positions (col, row) to map coordinates."""
        steps = np.array([self.pixel[0], -self.pixel[1]])
        return np.asarray(np.asarray(self.anchor) + points * steps)

    def to_pixels(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert (N, 2) map coordinates to pixel positions (col, row)."""
        steps = np.array([self.pixel[0], -self.pixel[1]])
        return np.asarray((points - np.asarray(self.anchor)) / steps)

    def to_lattice(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert (N, 2) map coordinates of pixel corners to whole positions (col, row)."""
        return np.rint(self.to_pixels(points))

    def crop(self, window: Window) -> Grid:
        """Return the grid over another window."""
        return Grid(self.crs, self.anchor, self.pixel, window)

    def coarsen(self, stride: int) -> Grid | None:
        """Return the grid of the blocks of ``stride`` px that start in this grid's window."""
        blocks = self.window.blocks(stride)
        if blocks is None:
            return None
        width, height = (float(stride * decimal(size)) for size in self.pixel)
        return Grid(self.crs, self.anchor, (width, height), blocks)


@dataclass(frozen=True, slots=True)
class Tiling(TileSize):
    """The grid of tiles: they start at ``k * step`` for every integer k, on both axes."""

    def steps(self, start: int, stop: int) -> range:
        """Return the k of all tiles that touch pixels ``start`` to ``stop - 1`` of one axis."""
        return range((start - self.size) // self.step + 1, -(-stop // self.step))

    def indices(self, core: Window) -> tuple[range, range]:
        """Return the row and column indices k of all tiles that touch ``core``."""
        return self.steps(core.row, core.bottom), self.steps(core.col, core.right)

    def window(self, i: int, j: int) -> Window:
        """Return the window of the tile in row i and column j."""
        return Window(i * self.step, j * self.step, self.size, self.size)

    def extent(self, rows: range, cols: range) -> Window:
        """Return the window of all tiles with these indices."""
        return self.window(rows[0], cols[0]).hull(self.window(rows[-1], cols[-1]))

    def window_read(self, core: Window) -> Window:
        """Return the window that is read for ``core``: core and halo, all tiles that touch it."""
        return self.extent(*self.indices(core))

    def count(self, core: Window) -> int:
        """Return the number of tiles that touch ``core``.

        It is 51 x 51 for an image of 12,500 x 12,500 px, tiles of 320 px and an overlap of 70 px.
        """
        rows, cols = self.indices(core)
        return len(rows) * len(cols)

    def parts(self, core: Window, cell_size: int) -> Iterator[tuple[int, int, Window]]:
        """Cut ``core`` at tile starts into parts of at most ``cell_size`` px.

        Yields:
            Row and column number of a part, and its window.
        """
        for i, (top, bottom) in enumerate(self._cuts(core.row, core.bottom, cell_size)):
            for j, (left, right) in enumerate(self._cuts(core.col, core.right, cell_size)):
                yield i, j, Window.between(top, left, bottom, right)

    def _cuts(self, start: int, stop: int, cell_size: int) -> Iterator[tuple[int, int]]:
        """Yield the (start, stop) of consecutive parts of one axis."""
        while stop - start > cell_size:
            cut = (start + cell_size) // self.step * self.step
            yield start, cut
            start = cut
        yield start, stop

    def weights(self, unit: int = 1) -> NDArray[np.float32]:
        """Return the blending weights along one axis, counted in blocks of ``unit`` px.

        They are ``min(i + .5, size - i - .5, overlap) / overlap``; 1 without an overlap.

        Returns:
            (size / unit,) float32 in (0, 1].
        """
        size, overlap = self.size // unit, self.overlap // unit
        if overlap == 0:
            return np.ones(size, np.float32)
        i = np.arange(size)
        ramp = np.minimum(np.minimum(i + 0.5, size - i - 0.5), overlap) / overlap
        return np.asarray(ramp, np.float32)


@dataclass(frozen=True, slots=True)
class Cell:
    """The unit of work: one image, or a part of a large one."""

    name: str
    """Stem of the file, with ``_r<i>c<j>`` for parts; with six hexadecimal digits of the path
    where it would not be unique."""
    image: str
    """Name of the image, as in the column ``images``."""
    core: Window
    """Pixels that the products of the cell cover."""
    taken: tuple[Window, ...] = ()
    """Parts of the core that belong to other cells, where images overlap; they are nodata in this
    cell, so that every pixel belongs to one cell."""
