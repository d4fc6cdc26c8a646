"""Pixels up: windows read ahead by threads, in row-major order, cut to batches of one shape."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from capecam.grid import Tiling, Window
from capecam.raster import Mosaic, Reader

SUPER_BLOCK = 10
"""Windows along the edge of what is read at once: 2,570 px at 320/70. Reading window by window
decodes most blocks twice and costs 5 to 30 times more (DESIGN section 8)."""


class Tile(NamedTuple):
    """One window's pixels."""

    window: Window
    pixels: NDArray[np.uint8]
    """(3, size, size); 0 where invalid."""
    valid: NDArray[np.bool_]
    """(size, size); True is imagery, False is nodata."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Tiles that go through the network together; the shape is the same for all of a run."""

    windows: tuple[Window, ...]
    """Of the first tiles; the rest of the batch is padding."""
    pixels: Tensor
    """(B, 3, size, size) uint8; 0 where invalid."""
    valid: Tensor
    """(B, size, size) bool; True is imagery, False is nodata or padding."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.windows) <= len(self.pixels):
            raise ValueError(
                f"{len(self.windows)} windows do not fit a batch of {len(self.pixels)}"
            )


def batches(tiles: Iterable[Tile], batch_size: int, *, pin: bool = False) -> Iterator[Batch]:
    """Tiles in order, ``batch_size`` at a time; the last batch is padded with zeros.

    Args:
        tiles: of one size.
        batch_size: B.
        pin: allocate page-locked memory, from which a GPU copies while it computes.
    """
    tiles = iter(tiles)
    while group := list(islice(tiles, batch_size)):
        size = group[0].valid.shape[0]
        pixels = torch.zeros((batch_size, 3, size, size), dtype=torch.uint8, pin_memory=pin)
        valid = torch.zeros((batch_size, size, size), dtype=torch.bool, pin_memory=pin)
        for i, tile in enumerate(group):
            pixels[i] = torch.from_numpy(tile.pixels)
            valid[i] = torch.from_numpy(tile.valid)
        yield Batch(tuple(tile.window for tile in group), pixels, valid)


def read_tiles(mosaic: Mosaic, tiling: Tiling, core: Window, readers: int) -> Iterator[Tile]:
    """All windows of a core that have a valid pixel, row-major.

    While one row of super-blocks is cut, ``readers`` threads read the next; 0 reads in the
    calling thread, with the same result.
    """
    rows = list(_super_rows(tiling, core))
    with _reading(mosaic, readers) as submit:
        ahead = [submit(_extent(tiling, block)) for block in rows[0]]
        for i, row in enumerate(rows):
            loaded = [result() for result in ahead]
            following = rows[i + 1] if i + 1 < len(rows) else []
            ahead = [submit(_extent(tiling, block)) for block in following]
            yield from _cut(tiling, row, loaded)


Block = tuple[range, range]
"""Row and column indices of the windows of a super-block."""
Pixels = tuple[NDArray[np.uint8], NDArray[np.bool_]]


def _super_rows(tiling: Tiling, core: Window) -> Iterator[list[Block]]:
    """Rows of super-blocks, aligned to the lattice and not to the core."""
    rows, cols = tiling.lattice(core)
    for i in _chunks(rows):
        yield [(i, j) for j in _chunks(cols)]


def _chunks(indices: range) -> Iterator[range]:
    start = indices.start
    while start < indices.stop:
        stop = min((start // SUPER_BLOCK + 1) * SUPER_BLOCK, indices.stop)
        yield range(start, stop)
        start = stop


def _extent(tiling: Tiling, block: Block) -> Window:
    rows, cols = block
    return tiling.window(rows[0], cols[0]).hull(tiling.window(rows[-1], cols[-1]))


def _cut(tiling: Tiling, row: list[Block], loaded: list[Pixels]) -> Iterator[Tile]:
    """The windows of a row of super-blocks, row-major over the whole row."""
    for i in row[0][0]:
        for block, (pixels, valid) in zip(row, loaded, strict=True):
            extent = _extent(tiling, block)
            for j in block[1]:
                window = tiling.window(i, j)
                place = window.slices(extent)
                if valid[place].any():
                    yield Tile(window, pixels[:, *place], valid[place])


@contextmanager
def _reading(mosaic: Mosaic, readers: int) -> Iterator[Callable[[Window], Callable[[], Pixels]]]:
    """A function that starts reading a window and returns how to get the result."""
    local = threading.local()
    with ExitStack() as stack:

        def read(window: Window) -> Pixels:
            if not hasattr(local, "reader"):
                local.reader = stack.enter_context(Reader(mosaic))
            reader: Reader = local.reader
            return reader.read(window)

        if readers == 0:
            yield lambda window: lambda: read(window)
            return
        threads = ThreadPoolExecutor(readers, thread_name_prefix="read")
        stack.callback(threads.shutdown, cancel_futures=True)
        yield lambda window: threads.submit(read, window).result
