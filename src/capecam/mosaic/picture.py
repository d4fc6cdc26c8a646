"""A small picture of the imagery, from no more pixels than a few seconds can decode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from capecam.errors import ImageError
from capecam.grid import Window
from capecam.imagery.bands import COLORS
from capecam.imagery.opening import open_image
from capecam.io.block_sums import BlockSums
from capecam.io.paths import VsiPath
from capecam.mosaic.decoder import Decoder
from capecam.mosaic.mosaic import Mosaic, Source
from capecam.mosaic.reader import Reader, in_bytes

BUDGET_PX = 1_300_000_000
"""Maximum number of pixels to decode, half a minute of a core: eight images of 12,500 x 12,500 px,
or 2,799 of them with overviews, which are opened twice."""

OPENING_PX, OPENING_REMOTE_PX = 220_000, 8_000_000
"""Number of pixels that are decoded in the time that takes to open a file, 5.6 ms (GDAL 3.10), and
to open one over a network."""

ROWS = 512
"""Rows of samples that are held at a time, 26 MB where they are 12,500 wide."""

Samples = tuple[NDArray[np.uint8], NDArray[np.bool_], tuple[float, float], tuple[float, float]]
"""Colours (3, h, w), validity (h, w), and corner and step as :meth:`BlockSums.add` takes them."""


def draw_picture(
    mosaic: Mosaic, window: Window, longest_px: int, budget_px: int = BUDGET_PX
) -> tuple[Window, NDArray[np.uint8]] | None:
    """Draw the imagery of a window at a small size.

    Images are read from their overviews, where they have any. One that cannot be decoded is left
    out.

    Args:
        mosaic: images.
        window: pixels to draw.
        longest_px: maximum edge of the picture.
        budget_px: maximum number of pixels to decode; opening an image counts as ``OPENING_PX``.

    Returns:
        The pixels that the picture covers, and (height, width, 4) red, green, blue and alpha, 0 or
        255; None if more than ``budget_px`` would have to be decoded, or nothing is valid.
    """
    sums = BlockSums(window, longest_px, len(COLORS))
    sources, levels = mosaic.touching(window), list[int | None]()
    for source in sources:
        level, pixels = _level(mosaic, source, sums.factor)
        levels.append(level)
        remote = isinstance(source.header.path, VsiPath)
        opened = 1 if level is None else 2
        budget_px -= pixels + opened * (OPENING_REMOTE_PX if remote else OPENING_PX)
        if budget_px < 0:
            return None
    with closing(Reader(mosaic)) as reader:
        for source, level in zip(sources, levels, strict=True):
            reader.needed = source.name
            try:
                for samples in (
                    _pixels(reader, source) if level is None else _overview(mosaic, source, level)
                ):
                    sums.add(*samples)
            except (ImageError, RasterioError):
                continue
    if not sums.count.any():
        return None
    alpha = np.where(sums.count > 0, 255, 0)[None]
    colors = np.concatenate([np.rint(sums.means()), alpha]).astype(np.uint8)
    return sums.extent, np.ascontiguousarray(colors.transpose(1, 2, 0))


def _level(mosaic: Mosaic, source: Source, factor: int) -> tuple[int | None, int]:
    """Return the overview to read, None for the image itself, and its number of pixels.

    It is the coarsest that is finer than the picture. What is turned or resampled, or may have a
    collar, has none.
    """
    whole = source.window.height * source.window.width
    if source.warped or mosaic.collars is not None:
        return None, whole
    try:
        with closing(open_image(source.header.path)) as dataset:
            factors: list[int] = dataset.overviews(1)
    except (ImageError, RasterioError):
        return None, 0
    usable = [each for each in factors if each <= factor]
    if not usable:
        return None, whole
    return factors.index(max(usable)), whole // max(usable) ** 2


def _pixels(reader: Reader, source: Source) -> Iterator[Samples]:
    """Yield an image as it is."""
    window = source.window
    for row in range(window.row, window.bottom, ROWS):
        bottom = min(row + ROWS, window.bottom)
        colors, valid = reader.read(Window.between(row, window.col, bottom, window.right))
        yield colors, valid, (row, window.col), (1.0, 1.0)


def _overview(mosaic: Mosaic, source: Source, level: int) -> Iterator[Samples]:
    """Yield an overview of an image."""
    window, pixels = source.window, source.header.pixels
    with closing(open_image(source.header.path, level)) as dataset:
        decoder = Decoder.of(dataset, pixels, dataset)
        step = window.height / dataset.height, window.width / dataset.width
        for row in range(0, dataset.height, ROWS):
            rows = min(ROWS, dataset.height - row)
            values, valid = decoder.read(RasterWindow(0, row, dataset.width, rows))
            colors = in_bytes(source, mosaic.value_range, values)
            yield colors, valid, (window.row + row * step[0], window.col), step
