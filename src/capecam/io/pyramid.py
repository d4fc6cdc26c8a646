"""A raster and its overviews as compressed blocks, which come in any order."""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BLOCK = 512
"""Edge of a block. Blocks are written whole and once; writing windows of 320 px to a compressed
file makes it 39 % larger."""

HALF = BLOCK // 2

ZSTD_LEVEL = 1

SPOOL_BYTES = 16 << 20
"""Compressed blocks that are held in memory; beyond that they go to an unnamed file."""


def is_valid(
    values: NDArray[Any], nodata: float, out: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Return a mask of the same shape, in ``out`` if given; True is a value, False is nodata."""
    if np.isnan(nodata):
        return np.asarray(np.equal(values, values, out=out))
    # A nodata of type float would convert all values to float64.
    return np.asarray(np.not_equal(values, values.dtype.type(nodata), out=out))


def level_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """Return (height, width) of a raster and of its overviews, as GDAL's COG driver has them.

    Each is half of the one before, rounded down, until both edges fit into a block. Of an odd
    number of rows or columns the last is left out, where GDAL weights fractions of pixels.
    """
    shapes = [(height, width)]
    while max(shapes[-1]) > BLOCK:
        shapes.append((max(shapes[-1][0] // 2, 1), max(shapes[-1][1] // 2, 1)))
    return shapes


def mean_of_2x2(pixels: NDArray[Any], valid: NDArray[np.bool_], nodata: float) -> NDArray[Any]:
    """Return means over the valid pixels of (bands, 2 n, 2 m), rounded half up if integer.

    These are the numbers of GDAL's AVERAGE for uint8 and float32.

    Args:
        pixels: uint8 or float32.
        valid: the same shape; False does not count.
        nodata: mean over no pixel.
    """
    if pixels.dtype == np.uint8 and valid.all():
        total = _sum_of_2x2(pixels, "total")
        total += 2
        total >>= 2
        return total.astype(np.uint8)
    count = _sum_of_2x2(valid.view(np.uint8), "count")
    total = _sum_of_2x2(np.where(valid, pixels, pixels.dtype.type(0)), "total")
    if pixels.dtype == np.uint8:
        total += count >> 1
        means = total // np.maximum(count, 1)
    else:
        means = total / np.maximum(count, 1)
    means = np.where(count > 0, means.astype(pixels.dtype), pixels.dtype.type(nodata))
    return np.asarray(means)


def _sum_of_2x2(pixels: NDArray[Any], name: str) -> NDArray[Any]:
    """Return (bands, n, m) sums of (bands, 2 n, 2 m) in an array of this name, until the next call.

    Sums of uint8 are uint16, those of floats are float64.
    """
    bands, height, width = pixels.shape
    dtype = np.uint16 if pixels.dtype == np.uint8 else np.float64
    rows = _scratch(f"rows of {name}", (bands, height, width // 2), dtype)
    np.add(pixels[..., ::2], pixels[..., 1::2], out=rows, dtype=dtype)
    total = _scratch(name, (bands, height // 2, width // 2), dtype)
    return np.asarray(np.add(rows[:, ::2], rows[:, 1::2], out=total))


_arrays = threading.local()


def _scratch(name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return an array of this thread, with the values of its last use.

    New arrays of this size are paged in again and again by glibc: sums of a block of three bands
    take 1.4 ms instead of 0.3.
    """
    known: dict[str, NDArray[Any]] = _arrays.__dict__
    found = known.get(name)
    if found is None or (found.shape, found.dtype) != (shape, np.dtype(dtype)):
        found = known[name] = np.empty(shape, dtype)
    return found


@dataclass(slots=True)
class _PartialBlock:
    """A block of an overview, some of whose four parts have not come yet."""

    missing: int
    pixels: NDArray[Any] | None = None
    """(bands, BLOCK, BLOCK); None while all of it is nodata."""


@dataclass(slots=True)
class Level:
    """The raster or one of its overviews."""

    height: int
    width: int
    places: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    """Offset and bytes in the spool of each block (row, col) that is not all nodata."""
    partial: dict[tuple[int, int], _PartialBlock] = field(default_factory=dict)

    @property
    def blocks(self) -> tuple[int, int]:
        """Number of blocks in a column and in a row."""
        return -(-self.height // BLOCK), -(-self.width // BLOCK)

    def corners(self) -> Iterator[tuple[int, int]]:
        """Yield (row, col) of each block in the order of the file."""
        rows, cols = self.blocks
        return ((row, col) for row in range(rows) for col in range(cols))


class Pyramid:
    """Compressed blocks of a raster and of its overviews.

    A block is compressed when it comes, and its 2 x 2 means (or nearest pixels) become a quarter of
    a block of the next level, which is compressed when its quarters are there. Blocks may come in
    any order and from many threads; what is stored of each depends on its pixels alone. Blocks
    that never come, and those of nodata only, take no space.
    """

    def __init__(
        self, shape: tuple[int, int], nodata: float, folder: Path, *, nearest: bool
    ) -> None:
        """Start with no blocks.

        Args:
            shape: (height, width).
            nodata: value of missing pixels.
            folder: folder of the unnamed file, if there has to be one.
            nearest: make overviews by the nearest pixel; otherwise by means.
        """
        self.levels = [Level(*each) for each in level_shapes(*shape)]
        self._nodata, self._nearest = nodata, nearest
        self._spool = tempfile.SpooledTemporaryFile(SPOOL_BYTES, "w+b", dir=str(folder))  # noqa: SIM115
        self._lock = threading.Lock()
        self._compressors = threading.local()

    def put(self, row: int, col: int, pixels: NDArray[Any]) -> None:
        """Add a block of the raster, once.

        Args:
            row: index of the row of blocks.
            col: index of the column of blocks.
            pixels: (bands, BLOCK, BLOCK); nodata beyond the raster's edges.
        """
        self._put(0, row, col, pixels)

    def finish(self) -> None:
        """Complete the overviews, of which parts are missing where no block came."""
        for number, level in enumerate(self.levels):
            for (row, col), block in sorted(level.partial.items()):
                self._put(number, row, col, block.pixels)
            level.partial.clear()

    def stored(self, level: Level) -> Iterator[bytes]:
        """Yield the compressed blocks of a level in the order of the file."""
        for corner in level.corners():
            if corner in level.places:
                offset, size = level.places[corner]
                self._spool.seek(offset)
                yield self._spool.read(size)

    def close(self) -> None:
        """Give up memory and disk."""
        self._spool.close()

    def _put(self, number: int, row: int, col: int, pixels: NDArray[Any] | None) -> None:
        """Store a block of a level, and pass it on to the next one; None is nodata."""
        quarter = None
        if pixels is not None:
            valid = is_valid(pixels, self._nodata, _scratch("valid", pixels.shape, np.bool_))
            if valid.any():
                self._store(self.levels[number], (row, col), pixels)
                if number + 1 < len(self.levels):
                    quarter = self._reduced(pixels, valid)
        if number + 1 < len(self.levels):
            self._pass_on(number, row, col, quarter)

    def _reduced(self, pixels: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[Any]:
        """Return (bands, HALF, HALF) pixels of the next level."""
        return pixels[:, ::2, ::2] if self._nearest else mean_of_2x2(pixels, valid, self._nodata)

    def _store(self, level: Level, corner: tuple[int, int], pixels: NDArray[Any]) -> None:
        interleaved = _scratch("interleaved", (BLOCK, BLOCK, len(pixels)), pixels.dtype)
        for band, values in enumerate(pixels):
            interleaved[..., band] = values
        compressor = getattr(self._compressors, "own", None)
        if compressor is None:  # one a thread
            compressor = self._compressors.own = zstd.ZstdCompressor(ZSTD_LEVEL)
        data = compressor.compress(interleaved.data, compressor.FLUSH_FRAME)
        with self._lock:
            level.places[corner] = self._spool.tell(), len(data)
            self._spool.write(data)

    def _pass_on(self, number: int, row: int, col: int, quarter: NDArray[Any] | None) -> None:
        """Add a quarter of a block to the next level; None is nodata."""
        level, above = self.levels[number], self.levels[number + 1]
        corner = row // 2, col // 2
        if corner[0] >= above.blocks[0] or corner[1] >= above.blocks[1]:
            return  # the last row or column of an odd number of pixels
        parts = [min(2, n - 2 * at) for n, at in zip(level.blocks, corner, strict=True)]
        with self._lock:
            block = above.partial.setdefault(corner, _PartialBlock(parts[0] * parts[1]))
            if quarter is not None and block.pixels is None:
                shape = (len(quarter), BLOCK, BLOCK)
                block.pixels = np.full(shape, self._nodata, quarter.dtype)
        if quarter is not None and block.pixels is not None:
            top, left = row % 2 * HALF, col % 2 * HALF
            height = min(HALF, above.height - row * HALF)
            width = min(HALF, above.width - col * HALF)
            inside = block.pixels[:, top : top + height, left : left + width]
            inside[:] = quarter[:, :height, :width]
        with self._lock:
            block.missing -= 1
            complete = not block.missing
            if complete:
                del above.partial[corner]
        if complete:
            self._put(number + 1, *corner, block.pixels)
