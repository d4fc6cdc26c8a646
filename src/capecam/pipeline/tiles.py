"""Read tiles: threads read ahead super-blocks, which are cut on the device to equal batches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, islice, product
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from capecam.grid import Tiling, Window
from capecam.mosaic.aoi import EVERYWHERE, AreaOfInterest, TileIndices
from capecam.mosaic.reader import Reader

T = TypeVar("T")

CPU = torch.device("cpu")
OnRead = Callable[[Window, NDArray[np.uint8], NDArray[np.bool_]], object]
"""Takes a window, its pixels (3, height, width) and its validity (height, width)."""

SUPER_BLOCK = 10
"""Number of windows along the edge of a super-block, 2,570 px at 320/70. Reading window by window
decodes most blocks twice and costs 5 to 30 times more."""


class Tile(NamedTuple):
    """Pixels of one window."""

    window: Window
    pixels: Tensor
    """(3, size, size) uint8; 0 where invalid."""
    valid: Tensor
    """(size, size) bool; True is imagery, False is nodata."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Tiles that go through the network together, in the same number throughout a run."""

    windows: tuple[Window, ...]
    """Windows of the first tiles; the others are padding."""
    pixels: Tensor
    """(B, 3, size, size) uint8; 0 where invalid."""
    valid: Tensor
    """(B, size, size) bool; True is imagery, False is nodata or padding."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.windows) <= len(self.pixels):
            raise ValueError(
                f"{len(self.windows)} windows do not fit a batch of {len(self.pixels)}"
            )


def batches(tiles: Iterable[Tile], batch_size: int) -> Iterator[Batch]:
    """Yield tiles in order, ``batch_size`` at a time; the last batch is padded with zeros.

    Args:
        tiles: of one size and on one device.
        batch_size: B.
    """
    tiles = iter(tiles)
    while group := list(islice(tiles, batch_size)):
        first = group[0]
        pixels = first.pixels.new_zeros((batch_size, *first.pixels.shape))
        valid = first.valid.new_zeros((batch_size, *first.valid.shape))
        for i, tile in enumerate(group):
            pixels[i], valid[i] = tile.pixels, tile.valid
        yield Batch(tuple(tile.window for tile in group), pixels, valid)


def with_first(items: Iterator[T]) -> Iterator[T]:
    """Wait for the first item, and return an iterator of all."""
    return chain(list(islice(items, 1)), items)


def read_tiles(
    open_reader: Callable[[], Reader],
    tiling: Tiling,
    core: Window,
    *,
    interest: AreaOfInterest = EVERYWHERE,
    readers: int = 0,
    device: torch.device = CPU,
    on_read: OnRead = lambda _window, _pixels, _valid: None,
) -> Generator[Tile, None, None]:
    """Yield the windows of a core that are of interest and have a valid pixel, row-major.

    While one row of super-blocks is cut, ``readers`` threads read and upload the next, so that no
    pixel is uploaded twice and nothing waits.

    Args:
        open_reader: of the imagery; called once in each thread.
        tiling: the grid of tiles.
        core: the pixels to cover.
        interest: limits the windows.
        readers: number of threads; 0 reads in the calling thread, with the same result.
        device: of the tiles.
        on_read: called in the reading threads with every window that is read, its pixels and its
            validity.

    Raises:
        ImageError: an image that is needed cannot be decoded.
    """
    selected = interest.selected_windows(tiling, core)
    rows = list(_super_rows(tiling, core, selected))
    with _reading(open_reader, readers, device, on_read) as submit:
        ahead = [submit(block.extent) for row in rows[:1] for block in row]
        for row, following in zip(rows, [*rows[1:], []], strict=True):
            loaded = [result() for result in ahead]
            ahead = [submit(block.extent) for block in following]
            yield from _cut(tiling, row, loaded, selected)


class Block(NamedTuple):
    """Super-block: windows that are read at once."""

    rows: range
    """Row indices of its windows."""
    cols: range
    """Column indices of its windows."""
    extent: Window
    """All pixels of its windows."""


class Loaded(NamedTuple):
    """Pixels of a super-block."""

    pixels: Tensor
    """(3, H, W) uint8 on the device."""
    valid: Tensor
    """(H, W) bool on the device."""
    valid_on_host: NDArray[np.bool_]
    """The same on the host, to test without waiting for the device."""


def _super_rows(tiling: Tiling, core: Window, selected: TileIndices) -> Iterator[list[Block]]:
    """Yield rows of super-blocks with a selected window, aligned to the tile grid, not the core."""
    rows, cols = tiling.indices(core)
    for i in _chunks(rows):
        blocks = [
            Block(i, j, tiling.extent(i, j))
            for j in _chunks(cols)
            if not selected.isdisjoint(product(i, j))
        ]
        if blocks:
            yield blocks


def _chunks(indices: range) -> Iterator[range]:
    start = indices.start
    while start < indices.stop:
        stop = min((start // SUPER_BLOCK + 1) * SUPER_BLOCK, indices.stop)
        yield range(start, stop)
        start = stop


def _cut(
    tiling: Tiling, row: list[Block], loaded: list[Loaded], selected: TileIndices
) -> Iterator[Tile]:
    """Yield the selected windows of a row of super-blocks, row-major over the whole row."""
    for i in row[0].rows:
        for block, (pixels, valid, valid_on_host) in zip(row, loaded, strict=True):
            for j in block.cols:
                window = tiling.window(i, j)
                slices = window.slices(block.extent)
                if (i, j) in selected and valid_on_host[slices].any():
                    yield Tile(window, pixels[:, *slices], valid[slices])


@contextmanager
def _reading(
    open_reader: Callable[[], Reader], readers: int, device: torch.device, on_read: OnRead
) -> Iterator[Callable[[Window], Callable[[], Loaded]]]:
    """Return a function that starts to read a window and returns a function for the result."""
    local = threading.local()
    with ExitStack() as opened:

        def read(window: Window) -> Loaded:
            if not hasattr(local, "reader"):
                local.reader = opened.enter_context(open_reader())
                local.upload = _Upload(device)
            reader: Reader = local.reader
            upload: _Upload = local.upload
            pixels, valid = reader.read(window)
            on_read(window, pixels, valid)
            return Loaded(upload(pixels), upload(valid), valid)

        if readers == 0:
            yield lambda window: lambda: read(window)
            return
        threads = ThreadPoolExecutor(readers, thread_name_prefix="read")
        try:
            yield lambda window: threads.submit(read, window).result
        finally:  # before any file is closed: GDAL crashes if one is closed during a read
            threads.shutdown(cancel_futures=True)


class _Upload:
    """Uploads arrays on a stream of its own, while the device computes; the caller waits."""

    def __init__(self, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        self._device = device
        self._stream = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]

    def __call__(self, array: NDArray[Any]) -> Tensor:
        """Return an array as a tensor on the device."""
        host = torch.from_numpy(array)
        if self._stream is None:
            return host.to(self._device)
        with torch.cuda.stream(self._stream):
            uploaded = host.pin_memory().to(self._device, non_blocking=True)
        self._stream.synchronize()
        # Its memory is not reused before the work that is queued for the tiles cut from it has run.
        uploaded.record_stream(torch.cuda.default_stream(self._device))
        return uploaded
