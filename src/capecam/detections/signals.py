"""Signals of an object from the probabilities at it and from its shape, for ``p_right``.

Definitions are in docs/method.md#signals. All sums are of integers, or in the order of pixels, so
that numbers do not depend on strips.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import pi

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from capecam.detections.neighbourhood import STRIP, Mask, buffered, within
from capecam.detections.regions import Integers, mask
from capecam.grid import Window
from capecam.io.cog import LEVELS, NODATA

SIGNALS = (
    "soft_edge",
    "margin",
    "border_entropy",
    "near_probability",
    "compactness",
    "rectangularity",
)
"""Columns of detections, in this order."""

EDGE_PX = 3
"""Width of the strip around an object in which its edge fades. The signals are in pixels, not in
metres, since edges are as soft as the network makes them."""

NEAR_PX = 12
"""Distance up to which ``near_probability`` looks, beyond ``EDGE_PX``."""

SMOOTH_PX = 1.0
"""Tolerance of the outline whose perimeter is measured: that of a staircase of pixels is up to
1.4 times as long as the edge that it follows."""

UNIT = (1.0, 1.0)
"""Size of a pixel in pixels."""


@dataclass(frozen=True, slots=True)
class EdgeStrip:
    """Strip of an object and its nearest surroundings."""

    window: Window
    """In lattice pixels."""
    inside: Mask
    """(height, width); True in the object."""
    border: Mask
    """(height, width); True in the object, beside a pixel (of four) that is not."""
    edge: Mask
    """(height, width); True outside of the object, within ``EDGE_PX`` of it."""
    near: Mask
    """(height, width); True beyond ``EDGE_PX`` and within ``NEAR_PX``."""


def edge_strips(geometry: shapely.Geometry) -> Iterator[EdgeStrip]:
    """Yield the strips of an object in lattice pixels, from top to bottom."""
    left, top, right, bottom = (int(edge) for edge in shapely.bounds(geometry))
    bounds = Window.between(top, left, bottom, right)
    extent = buffered(bounds, NEAR_PX, UNIT)
    for row in range(extent.row, extent.bottom, STRIP):
        window = Window.between(row, extent.col, min(row + STRIP, extent.bottom), extent.right)
        rows = Window.between(row - NEAR_PX, bounds.col, window.bottom + NEAR_PX, bounds.right)
        part = bounds.intersection(rows) or bounds
        region = mask(geometry, part)
        inside, border = np.zeros((2, *window.shape), np.bool_)
        if overlap := part.intersection(window):
            inside[overlap.slices(window)] = region[overlap.slices(part)]
            # Rows at which the part is cut look like a border, but lie outside of the strip.
            rim = region & ~binary_erosion(region)
            border[overlap.slices(window)] = rim[overlap.slices(part)]
        edge = within(region, part, EDGE_PX, UNIT, window) & ~inside
        near = within(region, part, NEAR_PX, UNIT, window) & ~inside & ~edge
        yield EdgeStrip(window, inside, border, edge, near)


class ProbabilitySums:
    """Sums of the stored probability levels over the strips of an object.

    Args:
        class_id: of the object.
        classes: number of classes, background included.
    """

    def __init__(self, class_id: int, classes: int) -> None:
        self._class_id = class_id
        self.levels = np.zeros(classes, np.int64)
        """Sums of the levels inside by class id; 0 for the background."""
        self._inside_px = self._edge_px = self._near_px = 0
        self._margin = self._edge = self._near = 0
        self._entropies = [np.empty(0)]

    def add(self, strip: EdgeStrip, levels: NDArray[np.uint8]) -> None:
        """Add the (C, H, W) levels of the foreground classes in a strip."""
        valid = levels[0] != NODATA
        foreground = levels.astype(np.int64)
        background = np.maximum(LEVELS - foreground.sum(axis=0), 0)  # levels are rounded
        every = np.concatenate([background[None], foreground])
        own = every[self._class_id]
        margin = own - np.delete(every, self._class_id, axis=0).max(axis=0)
        inside = strip.inside & valid
        self.levels[1:] += foreground[:, inside].sum(axis=1)
        self._inside_px += int(inside.sum())
        self._margin += int(margin[inside].sum())
        outside = valid & (margin <= 0)  # not another object of the class
        edge, near = strip.edge & outside, strip.near & outside
        self._edge, self._edge_px = self._edge + int(own[edge].sum()), self._edge_px + edge.sum()
        self._near, self._near_px = self._near + int(own[near].sum()), self._near_px + near.sum()
        self._entropies.append(entropy(every[:, strip.border & valid]))

    def measures(self) -> tuple[float, float, float, float]:
        """Return soft_edge, margin, border_entropy and near_probability; NaN where undefined."""
        own = int(self.levels[self._class_id])
        edge = self._edge / self._edge_px if self._edge_px else np.nan
        entropies = np.concatenate(self._entropies)
        return (
            edge / (own / self._inside_px) if own else np.nan,
            self._margin / self._inside_px / LEVELS if self._inside_px else np.nan,
            float(entropies.mean()) if len(entropies) else np.nan,
            self._near / self._near_px / LEVELS if self._near_px else np.nan,
        )


def entropy(levels: Integers) -> NDArray[np.float64]:
    """Return (N,) entropies in bits of (classes, N) levels, each column as parts of its sum."""
    p = levels / np.maximum(levels.sum(axis=0), 1)
    return np.asarray(-(p * np.log2(np.where(p > 0, p, 1))).sum(axis=0))


def shape_measures(geometry: shapely.Geometry, pixel: tuple[float, float]) -> tuple[float, float]:
    """Return compactness and rectangularity of an object.

    Args:
        geometry: in lattice pixels.
        pixel: width and height in metres.
    """
    smooth = shapely.simplify(geometry, SMOOTH_PX)
    outline, metres = (shapely.transform(g, lambda xy: xy * pixel) for g in (smooth, geometry))
    rectangle = shapely.minimum_rotated_rectangle(metres)
    return (
        float(4 * pi * shapely.area(metres) / shapely.length(outline) ** 2),
        float(shapely.area(metres) / shapely.area(rectangle)),
    )
