"""Masks of an object, the ring around it and its neighbourhood, as strips of pixels or blocks.

Distances are between centres of pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import ceil

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree

from capecam.detections.regions import Integers, mask
from capecam.grid import Window

Mask = NDArray[np.bool_]

RING_M = 2.0
"""Width of the ring around an object."""

NEIGHBOURHOOD_M = 12.8
"""Distance up to which pixels are in an object's neighbourhood: five samples of a CAM of 2.56 m,
about a house."""

STRIP = 1024
"""Rows of a strip: an object as large as an image takes no more memory than a house."""

TOLERANCE_PX = 1e-9
"""Distances of 2 m are 25 pixels of 8 cm, and 2 / 0.08 is not exactly 25."""


@dataclass(frozen=True, slots=True)
class NeighbourhoodStrip:
    """Strip of an object's neighbourhood."""

    window: Window
    """In lattice pixels."""
    object_window: Window | None
    """The part of it within the object's bounds; None for a strip above or below the object."""
    inside: Mask
    """(height, width); True in the object."""
    ring: Mask
    """(height, width); True outside of the object, within ``RING_M`` of it."""
    around: Mask
    """(height, width); True outside of the object, within ``NEIGHBOURHOOD_M``; has the ring."""

    def blocks(self, stride: int) -> BlockCounts:
        """Count the pixels of each mask in the blocks of a raster of this stride."""
        w, n = self.window, stride
        window = Window.between(w.row // n, w.col // n, -(-w.bottom // n), -(-w.right // n))
        if n == 1:
            return BlockCounts(window, self.inside, self.ring, self.around)
        top, left = w.row - window.row * n, w.col - window.col * n
        bottom, right = window.height * n - top - w.height, window.width * n - left - w.width

        def count(pixels: Mask) -> Integers:  # three times as fast as np.add.reduceat
            padded = np.pad(pixels, ((top, bottom), (left, right)))
            rows = padded.reshape(window.height, n, window.width * n).sum(axis=1, dtype=np.int64)
            return np.asarray(rows.reshape(*window.shape, n).sum(axis=2))

        return BlockCounts(window, count(self.inside), count(self.ring), count(self.around))

    def pixels_around(self, blocks: Mask, stride: int) -> Integers:
        """Return (N, 2) row and column of the pixels of ``around`` in some blocks of the strip."""
        w, n = self.window, stride
        selected = np.argwhere(blocks) + np.array([w.row // n, w.col // n])
        (top, left), (bottom, right) = selected.min(axis=0).tolist(), selected.max(axis=0).tolist()
        # Mostly one block of a thousand: only pixels in their bounds are searched.
        near = Window.between(top, left, bottom + 1, right + 1).scaled(n).intersection(w) or w
        rows = np.arange(near.row, near.bottom) // n - w.row // n
        cols = np.arange(near.col, near.right) // n - w.col // n
        pixels = np.argwhere(self.around[near.slices(w)] & blocks[rows[:, None], cols])
        return np.asarray(pixels + np.array([near.row, near.col]))


@dataclass(frozen=True, slots=True)
class BlockCounts:
    """Number of pixels of a strip's masks in each block."""

    window: Window
    """In blocks."""
    inside: Mask | Integers
    ring: Mask | Integers
    around: Mask | Integers


def neighbourhood_strips(
    geometry: shapely.Geometry, pixel: tuple[float, float]
) -> Iterator[NeighbourhoodStrip]:
    """Yield an object's neighbourhood from top to bottom.

    Args:
        geometry: in lattice pixels.
        pixel: width and height in metres.
    """
    left, top, right, bottom = (int(edge) for edge in shapely.bounds(geometry))
    bounds = Window.between(top, left, bottom, right)
    extent, near = (buffered(bounds, metres, pixel) for metres in (NEIGHBOURHOOD_M, RING_M))
    dy = bounds.row - extent.row
    for row in range(extent.row, extent.bottom, STRIP):
        window = Window.between(row, extent.col, min(row + STRIP, extent.bottom), extent.right)
        # Rows of the object above and below the strip have their neighbourhood in it.
        rows = Window.between(row - dy, bounds.col, window.bottom + dy, bounds.right)
        part = bounds.intersection(rows) or bounds
        region = mask(geometry, part)
        inside = np.zeros(window.shape, np.bool_)
        if overlap := part.intersection(window):
            inside[overlap.slices(window)] = region[overlap.slices(part)]
        around = within(region, part, NEIGHBOURHOOD_M, pixel, window) & ~inside
        ring = np.zeros(window.shape, np.bool_)
        if overlap := near.intersection(window):
            ring[overlap.slices(window)] = within(region, part, RING_M, pixel, overlap)
        ring &= ~inside
        yield NeighbourhoodStrip(window, bounds.intersection(window), inside, ring, around)


def within(
    region: Mask,
    region_window: Window,
    distance_m: float,
    pixel: tuple[float, float],
    window: Window,
) -> Mask:
    """Return the pixels of a window within a distance of a region, from centre to centre.

    A run of the region's pixels in one row covers a run in each row nearby, as wide as Pythagoras
    says: exact, and ten times as fast as a distance transform.

    Args:
        region: (H, W) of ``region_window``.
        region_window: position of the region.
        distance_m: in metres.
        pixel: width and height in metres.
        window: position and size of the result.
    """
    height, width = window.shape
    edges = np.diff(region.astype(np.int8), axis=1, prepend=0, append=0)
    rows, starts = np.nonzero(edges == 1)
    _, stops = np.nonzero(edges == -1)
    max_dy = int(distance_m / pixel[1] + TOLERANCE_PX)
    dy = np.arange(-max_dy, max_dy + 1)
    dx = np.sqrt(np.maximum(distance_m**2 - (dy * pixel[1]) ** 2, 0)) / pixel[0]
    dx = np.floor(dx + TOLERANCE_PX).astype(np.int64)
    row = rows[:, None] + dy + (region_window.row - window.row)
    in_window = (row >= 0) & (row < height)
    offset = row[in_window] * (width + 1)
    left = region_window.col - window.col
    start = offset + np.clip(starts[:, None] + left - dx, 0, width)[in_window]
    stop = offset + np.clip(stops[:, None] + left + dx, 0, width)[in_window]
    size = height * (width + 1)
    change = np.bincount(start, minlength=size) - np.bincount(stop, minlength=size)
    covered = np.cumsum(change.reshape(height, width + 1), axis=1, dtype=np.int32)
    return np.asarray(covered[:, :width] > 0)


class EdgeDistance:
    """Distances to an object, whose nearest pixel is always on its edge."""

    def __init__(self, pixel: tuple[float, float]) -> None:
        self._pixel = np.array([pixel[1], pixel[0]])
        self._edges: list[Integers] = []

    def add(self, strip: NeighbourhoodStrip) -> None:
        """Add a strip of the object; all strips come before the first distance."""
        if strip.object_window is not None:
            region = strip.inside[strip.object_window.slices(strip.window)]
            edge = np.argwhere(region & ~binary_erosion(region))
            self._edges.append(edge + np.array([strip.object_window.row, strip.object_window.col]))

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(np.concatenate(self._edges) * self._pixel)

    def minimum_m(self, pixels: Integers) -> float:
        """Return the smallest distance of (N, 2) pixels (row, column) outside of the object."""
        return float(self._tree.query(pixels * self._pixel)[0].min())


def buffered(window: Window, distance_m: float, pixel: tuple[float, float]) -> Window:
    """Return a window that is larger by a distance on all sides."""
    dx, dy = (ceil(distance_m / size) for size in pixel)
    return Window.between(window.row - dy, window.col - dx, window.bottom + dy, window.right + dx)
