"""An object's ring and neighbourhood, pixel by pixel; distances are between their centres."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from capecam.detections.regions import mask
from capecam.grid import Window

RING_M = 2.0
REACH_M = 12.8
"""Five samples of a CAM of 2.56 m: about a house."""

STRIP = 1024
"""Rows of an object's surroundings looked at together: an object as large as an image takes no
more memory than a house."""

SLACK = 1e-9
"""In pixels: 2 m are 25 pixels of 8 cm, and 2 / 0.08 is a little more."""


@dataclass(frozen=True, slots=True)
class NeighbourhoodStrip:
    """A strip of an object's surroundings."""

    window: Window
    """In pixels of the lattice."""
    own: Window | None
    """The part of it in which the object lies; None: above or below it."""
    inside: NDArray[np.bool_]
    """(height, width): the object's own pixels."""
    ring: NDArray[np.bool_]
    """Those outside it within ``RING_M``."""
    around: NDArray[np.bool_]
    """Those outside it within ``REACH_M``, the ring included."""

    def blocks(self, stride: int) -> Blocks:
        """The same, counted in blocks of the lattice."""
        w, n = self.window, stride
        window = Window.between(w.row // n, w.col // n, -(-w.bottom // n), -(-w.right // n))
        if n == 1:
            return Blocks(window, self.inside, self.ring, self.around)
        top, left = w.row - window.row * n, w.col - window.col * n
        margins = (
            (top, window.height * n - top - w.height),
            (left, window.width * n - left - w.width),
        )

        def count(part: NDArray[np.bool_]) -> NDArray[np.int64]:
            whole = np.pad(part, margins).reshape(window.height, n, window.width * n)
            rows = whole.sum(axis=1, dtype=np.int64)
            return np.asarray(rows.reshape(*window.shape, n).sum(axis=2))

        return Blocks(window, count(self.inside), count(self.ring), count(self.around))

    def pixels_around(self, blocks: NDArray[np.bool_], stride: int) -> NDArray[np.int64]:
        """(N, 2) row and column of the surrounding pixels that lie in some of those blocks."""
        w, n = self.window, stride
        hit = np.argwhere(blocks) + np.array([w.row // n, w.col // n])
        (top, left), (bottom, right) = hit.min(axis=0).tolist(), hit.max(axis=0).tolist()
        # One block of a thousand, most often: what lies elsewhere is not looked at.
        near = Window.between(top, left, bottom + 1, right + 1).scaled(n).intersection(w) or w
        rows = np.arange(near.row, near.bottom) // n - w.row // n
        cols = np.arange(near.col, near.right) // n - w.col // n
        at = np.argwhere(self.around[near.slices(w)] & blocks[rows[:, None], cols])
        return np.asarray(at + np.array([near.row, near.col]))


@dataclass(frozen=True, slots=True)
class Blocks:
    """How many pixels of a sight each block has."""

    window: Window
    """In blocks."""
    inside: NDArray[Any]
    ring: NDArray[Any]
    around: NDArray[Any]


def neighbourhood_strips(geometry: Any, pixel: tuple[float, float]) -> Iterator[NeighbourhoodStrip]:
    """Everything within reach of an object, strip by strip.

    Args:
        geometry: in lattice pixels.
        pixel: width and height in metres.
    """
    own = _bounds(geometry)
    reach, near = (_grown(own, metres, pixel) for metres in (REACH_M, RING_M))
    dy = own.row - reach.row
    for row in range(reach.row, reach.bottom, STRIP):
        stop = min(row + STRIP, reach.bottom)
        window = Window.between(row, reach.col, stop, reach.right)
        # What lies above and below the strip reaches into it.
        seen = own.intersection(Window.between(row - dy, own.col, stop + dy, own.right)) or own
        region = mask(geometry, seen)
        inside = np.zeros(window.shape, np.bool_)
        if part := seen.intersection(window):
            inside[part.slices(window)] = region[part.slices(seen)]
        around = within(region, seen, REACH_M, pixel, window) & ~inside
        ring = np.zeros(window.shape, np.bool_)
        if part := near.intersection(window):
            ring[part.slices(window)] = within(region, seen, RING_M, pixel, part)
        ring &= ~inside
        yield NeighbourhoodStrip(window, own.intersection(window), inside, ring, around)


def within(
    region: NDArray[np.bool_],
    place: Window,
    reach_m: float,
    pixel: tuple[float, float],
    window: Window,
) -> NDArray[np.bool_]:
    """Pixels of a window that are at most so far from a pixel of a region, centre to centre.

    A run of the region's pixels in one row covers a run in each row nearby, as wide as Pythagoras
    says: exact, and ten times as fast as a distance transform.

    Args:
        region: (H, W) of ``place``.
        place: where the region lies.
        reach_m: in metres.
        pixel: width and height in metres.
        window: what is asked for.
    """
    height, width = window.shape
    steps = np.diff(region.astype(np.int8), axis=1, prepend=0, append=0)
    rows, starts = np.nonzero(steps == 1)
    _, stops = np.nonzero(steps == -1)
    most = int(reach_m / pixel[1] + SLACK)
    down = np.arange(-most, most + 1)
    aside = np.sqrt(np.maximum(reach_m**2 - (down * pixel[1]) ** 2, 0)) / pixel[0]
    aside = np.floor(aside + SLACK).astype(np.int64)
    row = rows[:, None] + down + (place.row - window.row)
    held = (row >= 0) & (row < height)
    line = row[held] * (width + 1)
    left = place.col - window.col
    start = line + np.clip(starts[:, None] + left - aside, 0, width)[held]
    stop = line + np.clip(stops[:, None] + left + aside, 0, width)[held]
    size = height * (width + 1)
    change = np.bincount(start, minlength=size) - np.bincount(stop, minlength=size)
    covered = np.cumsum(change.reshape(height, width + 1), axis=1, dtype=np.int32)
    return np.asarray(covered[:, :width] > 0)


class Nearest:
    """How far pixels are from an object: from its edge, since none of its pixels is nearer."""

    def __init__(self, pixel: tuple[float, float]) -> None:
        self._size = np.array([pixel[1], pixel[0]])
        self._edge: list[NDArray[np.int64]] = []

    def add(self, sight: NeighbourhoodStrip) -> None:
        """A strip of the object; all of them before anything is asked."""
        if sight.own is not None:
            edge = _edge(sight.inside[sight.own.slices(sight.window)])
            self._edge.append(np.argwhere(edge) + np.array([sight.own.row, sight.own.col]))

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(np.concatenate(self._edge) * self._size)

    def distance_m(self, at: NDArray[np.int64]) -> float:
        """From the nearest of (N, 2) pixels (row, column) outside to the object's nearest pixel."""
        return float(self._tree.query(at * self._size)[0].min())


def _edge(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Its pixels that have a neighbour, above, below or beside, which does not belong to it."""
    framed = np.pad(region, 1)
    inner = framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    return np.asarray(region & ~inner)


def _grown(window: Window, reach_m: float, pixel: tuple[float, float]) -> Window:
    """By so many metres on all sides."""
    dx, dy = (ceil(reach_m / size) for size in pixel)
    return Window.between(window.row - dy, window.col - dx, window.bottom + dy, window.right + dx)


def _bounds(geometry: Any) -> Window:
    left, top, right, bottom = (int(edge) for edge in shapely.bounds(geometry))
    return Window.between(top, left, bottom, right)
