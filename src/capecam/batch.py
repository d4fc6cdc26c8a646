"""Pixels up: windows read ahead by threads, in row-major order, cut to batches of one shape."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from capecam.grid import Cell, Tiling, Window
from capecam.interest import EVERYWHERE, Chosen, Interest
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


def read_tiles(
    mosaic: Mosaic,
    tiling: Tiling,
    cell: Cell,
    readers: int,
    *,
    interest: Interest = EVERYWHERE,
    unreadable: dict[str, str] | None = None,
) -> Iterator[Tile]:
    """All windows of a cell's core that are of interest and have a valid pixel, row-major.

    While one row of super-blocks is cut, ``readers`` threads read the next; 0 reads in the
    calling thread, with the same result.

    Args:
        mosaic: imagery.
        tiling: the lattice.
        cell: whose own image has to be readable.
        readers: number of threads.
        interest: what is to be run.
        unreadable: is told the names of other images that are damaged there, and why.

    Raises:
        ImageError: the cell's own image cannot be decoded.
    """
    wanted = interest.chosen(tiling, cell.core)
    rows = list(_super_rows(tiling, cell.core, wanted))
    reader = partial(Reader, mosaic, cell.image, {} if unreadable is None else unreadable)
    with _reading(reader, readers) as submit:
        ahead = [submit(_extent(tiling, block)) for row in rows[:1] for block in row]
        for row, following in zip(rows, [*rows[1:], []], strict=True):
            loaded = [result() for result in ahead]
            ahead = [submit(_extent(tiling, block)) for block in following]
            yield from _cut(tiling, row, loaded, wanted)


Block = tuple[range, range]
"""Row and column indices of the windows of a super-block."""
Pixels = tuple[NDArray[np.uint8], NDArray[np.bool_]]


def _super_rows(tiling: Tiling, core: Window, wanted: Chosen) -> Iterator[list[Block]]:
    """Rows of super-blocks with a wanted window, aligned to the lattice and not to the core."""
    rows, cols = tiling.lattice(core)
    for i in _chunks(rows):
        blocks = [(i, j) for j in _chunks(cols) if not wanted.isdisjoint(product(i, j))]
        if blocks:
            yield blocks


def _chunks(indices: range) -> Iterator[range]:
    start = indices.start
    while start < indices.stop:
        stop = min((start // SUPER_BLOCK + 1) * SUPER_BLOCK, indices.stop)
        yield range(start, stop)
        start = stop


def _extent(tiling: Tiling, block: Block) -> Window:
    rows, cols = block
    return tiling.window(rows[0], cols[0]).hull(tiling.window(rows[-1], cols[-1]))


def _cut(tiling: Tiling, row: list[Block], loaded: list[Pixels], wanted: Chosen) -> Iterator[Tile]:
    """The wanted windows of a row of super-blocks, row-major over the whole row."""
    for i in row[0][0]:
        for block, (pixels, valid) in zip(row, loaded, strict=True):
            extent = _extent(tiling, block)
            for j in block[1]:
                window = tiling.window(i, j)
                place = window.slices(extent)
                if (i, j) in wanted and valid[place].any():
                    yield Tile(window, pixels[:, *place], valid[place])


@contextmanager
def _reading(
    make_reader: Callable[[], Reader], readers: int
) -> Iterator[Callable[[Window], Callable[[], Pixels]]]:
    """A function that starts reading a window and returns how to get the result."""
    local = threading.local()
    with ExitStack() as stack:

        def read(window: Window) -> Pixels:
            if not hasattr(local, "reader"):
                local.reader = stack.enter_context(make_reader())
            reader: Reader = local.reader
            return reader.read(window)

        if readers == 0:
            yield lambda window: lambda: read(window)
            return
        threads = ThreadPoolExecutor(readers, thread_name_prefix="read")
        stack.callback(threads.shutdown, cancel_futures=True)
        yield lambda window: threads.submit(read, window).result
