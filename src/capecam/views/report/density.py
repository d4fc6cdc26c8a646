"""Counts of objects by square, for the map of a city of any size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZES_M = tuple(size * 10**power for power in range(1, 6) for size in (1, 2.5, 5))
"""Edges of squares: 10, 25, 50, 100 m ..."""

COARSEST = 40
"""Maximum number of squares along the longer side at the coarsest level."""

FINEST = 16_000
"""Maximum number of squares at the finest level: half a megabyte of the page."""


@dataclass(frozen=True, slots=True)
class Level:
    """Counts by square of one size; empty squares are left out."""

    size_m: float
    squares: NDArray[np.int64]
    """(B, 2) column and row, from the anchor."""
    count: NDArray[np.int64]
    """(B, C) number of objects by foreground class."""
    area_m2: NDArray[np.float64]
    """(B, C) area by foreground class."""

    def to_json(self) -> dict[str, Any]:
        """Return the size and a flat list: column, row, then count and m² by class, per square."""
        count, classes = self.count.shape
        measures = np.stack([self.count, self.area_m2.round(1)], axis=2)
        measures = measures.reshape(count, 2 * classes)
        rows = np.concatenate([self.squares, measures], axis=1).ravel().tolist()
        flat = [int(value) if value == int(value) else value for value in rows]
        return {"size": self.size_m, "squares": flat}


def levels(
    points_m: NDArray[np.float64],
    class_id: NDArray[np.int64],
    area_m2: NDArray[np.float64],
    extent_m: tuple[float, float],
    classes: int,
) -> list[Level]:
    """Count objects in squares of several sizes, from coarse to fine.

    Args:
        points_m: (N, 2) metres right of and below the anchor.
        class_id: (N,) from 1.
        area_m2: (N,)
        extent_m: width and height of the city.
        classes: number of foreground classes.
    """
    longest = max(extent_m)
    coarsest = next((s for s in SIZES_M if longest / s <= COARSEST), SIZES_M[-1])
    result: list[Level] = []
    for size in reversed([s for s in SIZES_M if s <= coarsest]):
        level = _level(points_m, class_id, area_m2, size, classes)
        if result and len(level.squares) > FINEST:
            break
        result.append(level)
    return result


def _level(
    points_m: NDArray[np.float64],
    class_id: NDArray[np.int64],
    area_m2: NDArray[np.float64],
    size: float,
    classes: int,
) -> Level:
    indices = np.floor(points_m / size).astype(np.int64)
    squares, square = np.unique(indices, axis=0, return_inverse=True)
    cell = square.ravel() * classes + class_id - 1
    shape = len(squares), classes
    count = np.bincount(cell, minlength=len(squares) * classes).reshape(shape)
    area = np.bincount(cell, area_m2, minlength=len(squares) * classes).astype(np.float64)
    return Level(size, squares, count, area.reshape(shape))
