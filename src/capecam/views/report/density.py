"""Objects by square of the map: what is drawn of a city, however many objects it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZES_M = tuple(size * 10**power for power in range(1, 6) for size in (1, 2.5, 5))
"""Edges of squares that people can imagine: 10, 25, 50, 100 m ..."""

ACROSS = 40
"""Squares along the longer side of the coarsest level."""

MOST = 16_000
"""Squares of the finest level: half a megabyte of the page."""


@dataclass(frozen=True, slots=True)
class Level:
    """Objects by square of one size; squares without any are left out."""

    size_m: float
    squares: NDArray[np.int64]
    """(B, 2) column and row, from the anchor."""
    count: NDArray[np.int64]
    """(B, C) by foreground class."""
    area_m2: NDArray[np.float64]
    """(B, C)"""

    def to_json(self) -> dict[str, Any]:
        """``squares``: column, row, then count and m² by class, one square after the other."""
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
    """From coarse to fine.

    Args:
        points_m: (N, 2) metres right of and below the anchor.
        class_id: (N,) from 1.
        area_m2: (N,)
        extent_m: width and height of the city.
        classes: how many there are, without the background.
    """
    longest = max(extent_m)
    coarsest = next((s for s in SIZES_M if longest / s <= ACROSS), SIZES_M[-1])
    found: list[Level] = []
    for size in reversed([s for s in SIZES_M if s <= coarsest]):
        level = _level(points_m, class_id, area_m2, size, classes)
        if found and len(level.squares) > MOST:
            break
        found.append(level)
    return found


def _level(
    points_m: NDArray[np.float64],
    class_id: NDArray[np.int64],
    area_m2: NDArray[np.float64],
    size: float,
    classes: int,
) -> Level:
    places = np.floor(points_m / size).astype(np.int64)
    squares, square = np.unique(places, axis=0, return_inverse=True)
    cell = square.ravel() * classes + class_id - 1
    shape = len(squares), classes
    count = np.bincount(cell, minlength=len(squares) * classes).reshape(shape)
    area = np.bincount(cell, area_m2, minlength=len(squares) * classes).astype(np.float64)
    return Level(size, squares, count, area.reshape(shape))
