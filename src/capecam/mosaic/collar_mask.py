"""Black or white collars of images that mark no nodata: found in the whole file, before warping.

A collar is what its producer filled up with one colour. Blocks of 8 x 8 pixels that have it exactly
are its core, where they hang together and reach the image's edge; around that it grows a little
into what JPEG makes of its rim. Shadows and roofs are not exactly black over whole blocks, or do
not reach a corner of the image, or as far along its edge as a collar does.
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
"""(3, height, width) of a window of the file, in its own pixels."""

BLOCK = 8
"""JPEG's own: a block within a collar comes back as it was, at any quality."""

EXACT = 2
"""Levels of 255 by which the core may be off pure black or white."""

LOOSE = 16
"""Levels by which JPEG's ringing may be off. Measured on real city, drone and aerial pixels in
turned and irregular collars, lossless and at quality 75, 85 and 95 with subsampled colour: with
growth and rim below, under 0.01 pixels of collar were missed for a pixel of rim; 32 or 48 found no
more, and took 1.3 or 1.7 times as much of the imagery."""

GROWTH_PX = 16
"""How far around the core that is looked for: a block of subsampled colour. With 8, 0.05 pixels
more were missed for a pixel of rim."""

RIM_PX = 1
"""Taken beyond that whatever it is: without, 0.1 pixels more were missed at quality 75 for a pixel
of rim; and where imagery was resampled, the collar is mixed into its outermost pixel."""

SHARE = 4
"""Away from corners, a collar runs along at least this part of a side: one in ..."""

RUN_PX = 64
"""A corner's collar that is thinner than a block runs along the edge for at least so many."""

SURE = 2
"""In an edge: pixels that are exact; 1 is loose, 0 neither."""

STRIP = 512
"""Edge of what is looked at together, a multiple of ``BLOCK``."""

HALO = 24
"""Pixels around it that it depends on: ``GROWTH_PX`` and ``RIM_PX``, in whole blocks."""


@dataclass(frozen=True, slots=True)
class Collar:
    """Which pixels of a file are none."""

    width: int
    strips: tuple[bytes, ...]
    """``STRIP`` rows each from top to bottom, a bit a pixel, compressed: some kB an image."""

    def read(self, window: Window) -> Booleans:
        """(height, width) of a window of the file: True is collar."""
        first = window.row // STRIP
        last = (window.bottom - 1) // STRIP
        rows = np.concatenate([self._strip(n) for n in range(first, last + 1)])
        top = window.row - first * STRIP
        return rows[top : top + window.height, window.col : window.right]

    def _strip(self, number: int) -> Booleans:
        packed = np.frombuffer(zlib.decompress(self.strips[number]), np.uint8)
        bits = np.unpackbits(packed.reshape(-1, -(-self.width // 8)), axis=1, count=self.width)
        return bits.view(np.bool_)


def find_collar(read: Read, height: int, width: int) -> Collar | None:
    """That of an image; None: it has none.

    Reads all of it once, and what lies around its collar's rim a second time.

    Args:
        read: its pixels; errors go through.
        height: of the file.
        width: of the file.
    """
    seeds = [_Seeds(height, width, white) for white in (False, True)]
    for window in _strips(height, width):
        pixels = read(window)
        for seed in seeds:
            seed.note(window, pixels)
    found = [seed for seed in seeds if seed.settle()]
    if not found:
        return None
    strips = (_grown_strip(read, window, height, found) for window in _strips(height, width))
    return Collar(width, tuple(map(_packed, strips)))


def _packed(strip: Booleans) -> bytes:
    return zlib.compress(np.packbits(strip, axis=1).tobytes(), 1)


def _strips(height: int, width: int) -> Iterator[Window]:
    for row in range(0, height, STRIP):
        yield Window(row, 0, min(STRIP, height - row), width)


def _off(pixels: NDArray[Any], white: bool) -> NDArray[Any]:
    """(height, width) levels by which a pixel is off the colour, in the band where it is most."""
    if pixels.dtype.kind != "u":  # what is white where there is no largest value?
        return np.where(pixels.any(axis=0) | white, np.inf, 0.0)
    if white:
        return np.asarray(np.iinfo(pixels.dtype).max - pixels.min(axis=0))
    return np.asarray(pixels.max(axis=0))


def _within(levels: int, pixels: NDArray[Any]) -> int:
    """Only what is in bytes comes from JPEG."""
    return levels if pixels.dtype == np.uint8 else 0


class _Seeds:
    """What is certain of a collar of one colour: blocks, and thinner parts along the edge."""

    def __init__(self, height: int, width: int, white: bool) -> None:
        self.white = white
        self._shape = height, width
        self._core = np.zeros((-(-height // BLOCK), -(-width // BLOCK)), np.bool_)
        deep, wide = min(BLOCK, height), min(BLOCK, width)
        self._edges = {
            Window(0, 0, deep, width): np.zeros((deep, width), np.uint8),
            Window(height - deep, 0, deep, width): np.zeros((deep, width), np.uint8),
            Window(0, 0, height, wide): np.zeros((height, wide), np.uint8),
            Window(0, width - wide, height, wide): np.zeros((height, wide), np.uint8),
        }

    def note(self, window: Window, pixels: NDArray[Any]) -> None:
        """A strip of the image."""
        off = _off(pixels, self.white)
        exact, loose = off <= _within(EXACT, pixels), off <= _within(LOOSE, pixels)
        top = window.row // BLOCK
        blocks = _whole_blocks(exact)
        self._core[top : top + len(blocks)] = blocks
        for place, edge in self._edges.items():
            if part := place.intersection(window):
                inside = part.slices(window)
                edge[part.slices(place)] = loose[inside] + exact[inside].astype(np.uint8)

    def settle(self) -> bool:
        """Keep what a collar is; whether there is any."""
        self._core = _reaching_edge(self._core)
        for place, edge in self._edges.items():
            labels, count = ndimage.label(edge)
            sure = self._blocks_of(place) & (edge == SURE)
            sure |= _long_runs(edge == SURE, place, self._shape)
            kept = np.zeros(count + 1, np.bool_)
            kept[labels[sure]] = True
            kept[0] = False
            self._edges[place] = kept[labels].view(np.uint8)
        return bool(self._core.any() or any(edge.any() for edge in self._edges.values()))

    def of(self, window: Window) -> Booleans:
        """(height, width) of a window of the image."""
        mask = self._blocks_of(window)
        for place, edge in self._edges.items():
            if part := place.intersection(window):
                mask[part.slices(window)] |= edge[part.slices(place)].view(np.bool_)
        return mask

    def _blocks_of(self, window: Window) -> Booleans:
        top, left = window.row // BLOCK, window.col // BLOCK
        rows = slice(top, -(-window.bottom // BLOCK))
        cols = slice(left, -(-window.right // BLOCK))
        mask = self._core[rows, cols].repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)
        down, right = window.row - top * BLOCK, window.col - left * BLOCK
        return mask[down : down + window.height, right : right + window.width]


def _whole_blocks(exact: Booleans) -> Booleans:
    """Blocks in which all pixels are so; those over the image's edge are cut there."""
    height, width = exact.shape
    margins = (0, -height % BLOCK), (0, -width % BLOCK)
    padded = np.pad(exact, margins, mode="edge")
    tiles = padded.reshape(padded.shape[0] // BLOCK, BLOCK, padded.shape[1] // BLOCK, BLOCK)
    return np.asarray(tiles.all(axis=(1, 3)))


def _reaching_edge(core: Booleans) -> Booleans:
    """Regions that hold a corner, or lie along a good part of a side."""
    labels, count = ndimage.label(core)
    kept = np.zeros(count + 1, np.bool_)
    kept[labels[[0, 0, -1, -1], [0, -1, 0, -1]]] = True
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        least = max(len(side) / SHARE, RUN_PX / BLOCK)
        kept |= np.bincount(side, minlength=count + 1) >= least
    kept[0] = False
    return np.asarray(kept[labels])


def _long_runs(edge: Booleans, place: Window, image: tuple[int, int]) -> Booleans:
    """Pixels of an edge's outermost line that hang together over a good part of it."""
    marked = np.zeros_like(edge)
    if place.width == image[1]:
        number = 0 if place.row == 0 else -1
        line, target = edge[number], marked[number]
    else:
        number = 0 if place.col == 0 else -1
        line, target = edge[:, number], marked[:, number]
    steps = np.diff(np.concatenate([[False], line, [False]]).astype(np.int8))
    for start, stop in zip(np.flatnonzero(steps == 1), np.flatnonzero(steps == -1), strict=True):
        at_corner = start == 0 or stop == len(line)
        least = min(RUN_PX, len(line)) if at_corner else max(RUN_PX, len(line) / SHARE)
        target[start:stop] = stop - start >= least
    return marked


def _grown_strip(read: Read, strip: Window, height: int, seeds: list[_Seeds]) -> Booleans:
    """(height, width) of a strip's collar."""
    mask = np.zeros(strip.shape, np.bool_)
    for col in range(0, strip.width, STRIP):
        part = Window(strip.row, col, strip.height, min(STRIP, strip.width - col))
        mask[part.slices(strip)] = _grown(read, part, Window(0, 0, height, strip.width), seeds)
    return mask


def _grown(read: Read, part: Window, image: Window, seeds: list[_Seeds]) -> Booleans:
    """(height, width) of a part: what is certain of it, and grown."""
    margin = HALO
    around = Window(
        part.row - margin, part.col - margin, part.height + 2 * margin, part.width + 2 * margin
    ).intersection(image)
    if around is None:
        raise ValueError(f"{part} does not lie in {image}")
    mask = np.zeros(around.shape, np.bool_)
    for seed in seeds:
        sure = seed.of(around)
        mask |= sure
        if rim := _around_rim(sure, around):
            inside, pixels = rim.slices(around), read(rim)
            loose = _off(pixels, seed.white) <= _within(LOOSE, pixels)
            mask[inside] |= _spread(sure[inside], loose)
    return mask[part.slices(around)]


def _around_rim(sure: Booleans, window: Window) -> Window | None:
    """Where what is certain ends within a window, with what depends on it; None: nowhere."""
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
    """What is certain, a little way into what may be, and the rim."""
    square = np.ones((3, 3), np.bool_)
    grown = ndimage.binary_dilation(sure, square, iterations=GROWTH_PX, mask=loose | sure)
    return np.asarray(ndimage.binary_dilation(grown, square, iterations=RIM_PX))
