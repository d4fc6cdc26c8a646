"""Read tiles: threads read ahead bands of rows, which are cut on the device to equal batches."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, islice, pairwise, product
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from capecam.grid import Tiling, Window
from capecam.imagery.bands import COLORS
from capecam.mosaic.aoi import EVERYWHERE, AreaOfInterest, TileIndices
from capecam.mosaic.mosaic import Source
from capecam.mosaic.reader import Reader

T = TypeVar("T")

CPU = torch.device("cpu")
OnRead = Callable[[Window, NDArray[np.uint8], NDArray[np.bool_]], object]
"""Takes a window, its pixels (3, height, width) and its validity (height, width)."""

BAND_PX = 512
"""Smallest height of the bands that are read at once. They are as wide as the core and its halo,
and end where blocks of the image end, so that each of its blocks is decoded once."""

MAX_BAND_PX = 1024
"""Largest height of a band; blocks that are higher are decoded several times."""

AHEAD = 5
"""Smallest number of bands that are read ahead: 2,560 rows if blocks are 512 px high or lower."""


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
    image: Source | None = None,
    interest: AreaOfInterest = EVERYWHERE,
    readers: int = 0,
    device: torch.device = CPU,
    on_read: OnRead = lambda _window, _pixels, _valid: None,
) -> Generator[Tile, None, None]:
    """Yield the windows of a core that are of interest and have a valid pixel, row-major.

    While windows are cut, ``readers`` threads read and upload the bands below, so that no pixel is
    decoded or uploaded twice and nothing waits.

    Args:
        open_reader: of the imagery; called once in each thread.
        tiling: the grid of tiles.
        core: the pixels to cover.
        image: that most of them are of; the reads follow its blocks.
        interest: limits the windows.
        readers: number of threads; 0 reads in the calling thread, with the same result.
        device: of the tiles.
        on_read: called in the reading threads with every window that is read, its pixels and its
            validity.

    Raises:
        ImageError: an image that is needed cannot be decoded.
    """
    selected = interest.selected_windows(tiling, core)
    _, cols = tiling.indices(core)
    bands = list(_bands(tiling, core, image, selected))
    with _reading(open_reader, readers, device, on_read) as submit:
        following = iter(bands)
        ahead = deque(submit(band) for band in islice(following, max(AHEAD, readers)))
        loaded: list[Loaded] = []
        for band in bands:
            loaded.append(ahead.popleft()())
            ahead.extend(submit(band) for band in islice(following, 1))
            for index in product(band.rows, cols):
                if index in selected and (tile := _cut(tiling.window(*index), loaded)):
                    yield tile
            end = band.rows.stop * tiling.step
            loaded = [above for above in loaded if above.extent.bottom > end]


class Band(NamedTuple):
    """Rows of pixels that are read at once."""

    rows: range
    """Row indices of the windows that end in it."""
    extent: Window
    """All its pixels, over the width of the core and its halo."""
    parts: tuple[Window, ...]
    """Parts of it with selected windows, which are read."""


class Loaded(NamedTuple):
    """Pixels of a band."""

    extent: Window
    pixels: Tensor
    """(3, H, W) uint8 on the device; 0 where invalid."""
    valid: Tensor
    """(H, W) bool on the device."""
    valid_on_host: NDArray[np.bool_]
    """The same on the host, to test without waiting for the device."""

    def crop(self, window: Window) -> Loaded:
        """Return the pixels of a window inside."""
        rows, cols = window.slices(self.extent)
        return Loaded(
            window,
            self.pixels[:, rows, cols],
            self.valid[rows, cols],
            self.valid_on_host[rows, cols],
        )


def _bands(
    tiling: Tiling, core: Window, image: Source | None, selected: TileIndices
) -> Iterator[Band]:
    """Yield the bands of a core and its halo, from top to bottom."""
    rows, cols = tiling.indices(core)
    whole = tiling.window_read(core)
    height, origin = BAND_PX, core.row
    if image is not None and not image.warped:
        block, origin = image.header.metadata.block[0], image.window.row
        height = min(-(-BAND_PX // block) * block, MAX_BAND_PX)
    first = core.row + height - (core.row - origin) % height
    stop = rows.start
    for top, bottom in pairwise([whole.row, *range(first, core.bottom, height), whole.bottom]):
        start, stop = stop, max(stop, (bottom - tiling.size) // tiling.step + 1)
        touching = tiling.steps(top, bottom)
        needed = [j for j in cols if any((i, j) in selected for i in touching)]
        extent = Window.between(top, whole.col, bottom, whole.right)
        yield Band(range(start, stop), extent, tuple(_parts(tiling, extent, needed)))


def _parts(tiling: Tiling, band: Window, cols: list[int]) -> Iterator[Window]:
    """Yield the parts of a band that windows of these columns touch."""
    ends = [n for n, (j, following) in enumerate(pairwise(cols), 1) if following > j + 1]
    for start, stop in pairwise([0, *ends, len(cols)]):
        if stop > start:
            left, right = cols[start] * tiling.step, cols[stop - 1] * tiling.step + tiling.size
            yield Window.between(band.row, left, band.bottom, right)


def _cut(window: Window, bands: list[Loaded]) -> Tile | None:
    """Return a window from the bands that it touches; None without a valid pixel."""
    parts = [band.crop(part) for band in bands if (part := window.intersection(band.extent))]
    if not any(part.valid_on_host.any() for part in parts):
        return None
    return Tile(window, _join([p.pixels for p in parts]), _join([p.valid for p in parts]))


def _join(parts: list[Tensor]) -> Tensor:
    """Concatenate along the rows. On a CPU, numpy does it: the threads of ``torch.cat`` wait for
    each other longer than they copy a tile."""
    if len(parts) == 1:
        return parts[0]
    if parts[0].device.type == "cpu":
        return torch.from_numpy(np.concatenate([part.numpy() for part in parts], axis=-2))
    return torch.cat(parts, dim=-2)


@contextmanager
def _reading(
    open_reader: Callable[[], Reader], readers: int, device: torch.device, on_read: OnRead
) -> Iterator[Callable[[Band], Callable[[], Loaded]]]:
    """Return a function that starts to read a band and returns a function for the result."""
    local = threading.local()
    with ExitStack() as opened:

        def read(band: Band) -> Loaded:
            if not hasattr(local, "reader"):
                local.reader = opened.enter_context(open_reader())
                local.upload = _Upload(device)
            upload: _Upload = local.upload
            pixels, valid = _read_band(local.reader, band, on_read)
            return Loaded(band.extent, upload(pixels), upload(valid), valid)

        if readers == 0:
            yield lambda band: lambda: read(band)
            return
        threads = ThreadPoolExecutor(readers, thread_name_prefix="read")
        try:
            yield lambda band: threads.submit(read, band).result
        finally:  # before any file is closed: GDAL crashes if one is closed during a read
            threads.shutdown(cancel_futures=True)


def _read_band(
    reader: Reader, band: Band, on_read: OnRead
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the pixels and the validity of a band; what is not needed is nodata."""
    if band.parts == (band.extent,):
        pixels, valid = reader.read(band.extent)
        on_read(band.extent, pixels, valid)
        return pixels, valid
    pixels = np.zeros((len(COLORS), *band.extent.shape), np.uint8)
    valid = np.zeros(band.extent.shape, np.bool_)
    for part in band.parts:
        slices = part.slices(band.extent)
        pixels[:, *slices], valid[slices] = reader.read(part)
        on_read(part, pixels[:, *slices], valid[slices])
    return pixels, valid


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
