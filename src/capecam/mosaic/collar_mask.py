"""Find black or white collars of images that mark no nodata, in the whole file, before warping.

A collar is a margin that was filled with one colour. Blocks of 8 x 8 pixels that have it exactly
form its core, if they are connected and reach the image's edge; from there it grows a little into
the pixels that JPEG changes at its rim. Shadows and roofs are not exactly black over whole blocks,
or do not reach a corner of the image or as far along its edge as a collar does.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from capecam.grid import Window

Booleans = NDArray[np.bool_]
Read = Callable[[Window], NDArray[Any]]
"""Reads (3, height, width) of a window of the file, in its own pixels."""

BLOCK = 8
"""Edge of a JPEG block: one within a collar is decoded without loss, at any quality."""

EXACT = 2
"""Levels of 255 by which the core may be off pure black or white."""

LOOSE = 16
"""Levels by which JPEG's ringing may be off. Measured on real city, drone and aerial pixels in
rotated and irregular collars, lossless and at quality 75, 85 and 95 with subsampled colour: with
growth and rim below, under 0.01 pixels of collar were missed for a pixel of rim; 32 or 48 found no
more, and took 1.3 or 1.7 times as much of the imagery."""

GROWTH_PX = 16
"""Distance from the core up to which the collar grows: a block of subsampled colour. With 8, 0.05
pixels more were missed for a pixel of rim."""

RIM_PX = 1
"""Pixels added beyond that in any case: without, 0.1 pixels more were missed at quality 75 for a
pixel of rim; and where imagery was resampled, its outermost pixel is mixed with the collar."""

SIDE_FRACTION = 4
"""Away from corners, a collar runs along at least a side's length divided by this."""

RUN_PX = 64
"""Shortest run along the edge of a collar at a corner that is thinner than a block."""

STRIP = 512
"""Edge of the windows that are processed at once, a multiple of ``BLOCK``."""

HALO = 24
"""Margin of pixels that a window's result depends on: ``GROWTH_PX`` and ``RIM_PX``, in whole
blocks."""


@dataclass(frozen=True, slots=True)
class Collar:
    """Mask of the pixels of a file that are not imagery."""

    width: int
    strips: tuple[bytes, ...]
    """``STRIP`` rows each from top to bottom, one bit per pixel, compressed: some kB per image."""

    def read(self, window: Window) -> Booleans:
        """Return (height, width) of a window of the file: True is collar."""
        first = window.row // STRIP
        last = (window.bottom - 1) // STRIP
        rows = np.concatenate([self._unpack(n) for n in range(first, last + 1)])
        top = window.row - first * STRIP
        return rows[top : top + window.height, window.col : window.right]

    def _unpack(self, number: int) -> Booleans:
        packed = np.frombuffer(zlib.decompress(self.strips[number]), np.uint8)
        bits = np.unpackbits(packed.reshape(-1, -(-self.width // 8)), axis=1, count=self.width)
        return bits.view(np.bool_)


def find_collar(read: Read, height: int, width: int) -> Collar | None:
    """Return the collar of an image, or None if it has none.

    Reads all of it once, and the surroundings of the collar's rim a second time.
    """
    seeds = [_Seeds(height, width, white) for white in (False, True)]
    for window in strips(height, width):
        pixels = read(window)
        for seed in seeds:
            seed.add(window, pixels)
    seeds = [seed for seed in seeds if seed.select()]
    if not seeds:
        return None
    masks = (_grow_strip(read, window, height, seeds) for window in strips(height, width))
    packed = (np.packbits(mask, axis=1).tobytes() for mask in masks)
    return Collar(width, tuple(zlib.compress(bits, 1) for bits in packed))


def strips(height: int, width: int) -> Iterator[Window]:
    """Yield windows of at most ``STRIP`` rows that cover an image, from top to bottom."""
    for row in range(0, height, STRIP):
        yield Window(row, 0, min(STRIP, height - row), width)


def is_near(pixels: NDArray[Any], white: bool, levels: int) -> Booleans:
    """Return (height, width): True where all bands are within some levels of black or white.

    Args:
        pixels: (bands, height, width).
        white: near white, not black.
        levels: of 8-bit values; others have to be exact.
    """
    if pixels.dtype.kind != "u":  # white is undefined without a largest value
        return np.asarray((pixels == 0).all(axis=0) & (not white))
    off = np.iinfo(pixels.dtype).max - pixels.min(axis=0) if white else pixels.max(axis=0)
    # Only 8-bit values come from JPEG.
    return np.asarray(off <= (levels if pixels.dtype == np.uint8 else 0))


class _Seeds:
    """Certain parts of a collar of one colour: blocks, and thinner parts along the edge."""

    def __init__(self, height: int, width: int, white: bool) -> None:
        self.white = white
        self._shape = height, width
        self._core = np.zeros((-(-height // BLOCK), -(-width // BLOCK)), np.bool_)
        """(rows, cols) of blocks; True is collar."""
        deep, wide = min(BLOCK, height), min(BLOCK, width)
        edges = (
            Window(0, 0, deep, width),
            Window(height - deep, 0, deep, width),
            Window(0, 0, height, wide),
            Window(0, width - wide, height, wide),
        )
        self._edges = {window: np.zeros(window.shape, np.uint8) for window in edges}
        """Pixels along the edges: 2 is within ``EXACT``, 1 within ``LOOSE``, else 0; True and
        False once selected."""

    def add(self, window: Window, pixels: NDArray[Any]) -> None:
        """Add a strip of the image."""
        exact, loose = (is_near(pixels, self.white, levels) for levels in (EXACT, LOOSE))
        top = window.row // BLOCK
        blocks = _whole_blocks(exact)
        self._core[top : top + len(blocks)] = blocks
        for edge, values in self._edges.items():
            if part := edge.intersection(window):
                inside = part.slices(window)
                values[part.slices(edge)] = loose[inside] + exact[inside].astype(np.uint8)

    def select(self) -> bool:
        """Drop regions that are not a collar; return whether any is left."""
        self._core = reaching_edge(self._core)
        for edge, values in self._edges.items():
            labels, count = ndimage.label(values)
            exact = values == 2
            sure = (self._blocks(edge) & exact) | _long_runs(exact, edge, self._shape)
            kept = np.zeros(count + 1, np.bool_)
            kept[labels[sure]] = True
            kept[0] = False
            self._edges[edge] = kept[labels].view(np.uint8)
        return bool(self._core.any() or any(edge.any() for edge in self._edges.values()))

    def read(self, window: Window) -> Booleans:
        """Return (height, width) of a window of the image; True is collar."""
        mask = self._blocks(window)
        for edge, values in self._edges.items():
            if part := edge.intersection(window):
                mask[part.slices(window)] |= values[part.slices(edge)].view(np.bool_)
        return mask

    def _blocks(self, window: Window) -> Booleans:
        top, left = window.row // BLOCK, window.col // BLOCK
        rows = slice(top, -(-window.bottom // BLOCK))
        cols = slice(left, -(-window.right // BLOCK))
        mask = self._core[rows, cols].repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)
        down, right = window.row - top * BLOCK, window.col - left * BLOCK
        return mask[down : down + window.height, right : right + window.width]


def _whole_blocks(exact: Booleans) -> Booleans:
    """Return the blocks of which all pixels are True; those across the image's edge are cut."""
    height, width = exact.shape
    padded = np.pad(exact, ((0, -height % BLOCK), (0, -width % BLOCK)), mode="edge")
    tiles = padded.reshape(padded.shape[0] // BLOCK, BLOCK, padded.shape[1] // BLOCK, BLOCK)
    return np.asarray(tiles.all(axis=(1, 3)))


def reaching_edge(core: Booleans) -> Booleans:
    """Return the regions that hold a corner, or run along a good part of a side."""
    labels, count = ndimage.label(core)
    kept = np.zeros(count + 1, np.bool_)
    kept[labels[[0, 0, -1, -1], [0, -1, 0, -1]]] = True
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        minimum = max(len(side) / SIDE_FRACTION, RUN_PX / BLOCK)
        kept |= np.bincount(side, minlength=count + 1) >= minimum
    kept[0] = False
    return np.asarray(kept[labels])


def _long_runs(exact: Booleans, edge: Window, image: tuple[int, int]) -> Booleans:
    """Return the long runs of pixels in an edge's outermost line."""
    mask = np.zeros_like(exact)
    if edge.width == image[1]:
        outermost: Any = 0 if edge.row == 0 else -1
    else:
        outermost = (slice(None), 0 if edge.col == 0 else -1)
    line, target = exact[outermost], mask[outermost]
    for (run,) in ndimage.find_objects(ndimage.label(line)[0]):
        at_corner = run.start == 0 or run.stop == len(line)
        minimum = min(RUN_PX, len(line)) if at_corner else max(RUN_PX, len(line) / SIDE_FRACTION)
        target[run] = run.stop - run.start >= minimum
    return mask


def _grow_strip(read: Read, strip: Window, height: int, seeds: list[_Seeds]) -> Booleans:
    """Return (height, width) of a strip's collar."""
    mask = np.zeros(strip.shape, np.bool_)
    for col in range(0, strip.width, STRIP):
        part = Window(strip.row, col, strip.height, min(STRIP, strip.width - col))
        mask[part.slices(strip)] = _grow(read, part, Window(0, 0, height, strip.width), seeds)
    return mask


def _grow(read: Read, part: Window, image: Window, seeds: list[_Seeds]) -> Booleans:
    """Return (height, width) of the collar in a part: the seeds, and what they grow into."""
    around = Window.between(
        max(part.row - HALO, 0),
        max(part.col - HALO, 0),
        min(part.bottom + HALO, image.bottom),
        min(part.right + HALO, image.right),
    )
    mask = np.zeros(around.shape, np.bool_)
    for seed in seeds:
        sure = seed.read(around)
        mask |= sure
        if rim := _around_rim(sure, around):
            inside = rim.slices(around)
            mask[inside] |= _spread(sure[inside], is_near(read(rim), seed.white, LOOSE))
    return mask[part.slices(around)]


def _around_rim(sure: Booleans, window: Window) -> Window | None:
    """Return the part of a window within ``HALO`` of a boundary of the mask; None without one."""
    down, right = sure[1:] != sure[:-1], sure[:, 1:] != sure[:, :-1]
    rows = np.flatnonzero(np.pad(down.any(axis=1), (0, 1)) | right.any(axis=1))
    cols = np.flatnonzero(np.pad(right.any(axis=0), (0, 1)) | down.any(axis=0))
    if not len(rows):
        return None
    rim = Window.between(
        window.row + int(rows[0]) - HALO,
        window.col + int(cols[0]) - HALO,
        window.row + int(rows[-1]) + 2 + HALO,
        window.col + int(cols[-1]) + 2 + HALO,
    )
    return rim.intersection(window)


def _spread(sure: Booleans, loose: Booleans) -> Booleans:
    """Grow a mask into loose pixels by up to ``GROWTH_PX``, and into all by ``RIM_PX``."""
    square = np.ones((3, 3), np.bool_)
    grown = ndimage.binary_dilation(sure, square, iterations=GROWTH_PX, mask=loose | sure)
    return np.asarray(ndimage.binary_dilation(grown, square, iterations=RIM_PX))
