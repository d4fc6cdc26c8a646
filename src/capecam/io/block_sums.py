"""Rasters reduced to small pictures, by sums over square blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capecam.grid import Window


@dataclass(slots=True)
class BlockSums:
    """Sums of samples over the blocks of a window; parts are added in any order."""

    window: Window
    """Pixels that the blocks cover."""
    longest: int
    """Maximum number of blocks along the longer side."""
    bands: int
    sums: NDArray[np.float64] = field(init=False)
    """(bands, rows, cols)"""
    count: NDArray[np.float64] = field(init=False)
    """(rows, cols) number of valid samples."""

    def __post_init__(self) -> None:
        if self.longest < 1:
            raise ValueError(f"a picture has at least 1 pixel, got {self.longest}")
        rows, cols = (-(-edge // self.factor) for edge in self.window.shape)
        self.sums, self.count = np.zeros((self.bands, rows, cols)), np.zeros((rows, cols))

    @property
    def factor(self) -> int:
        """Edge of a block in pixels."""
        return -(-max(self.window.shape) // self.longest)

    @property
    def extent(self) -> Window:
        """Pixels of all blocks; the last ones may reach beyond the window."""
        rows, cols = self.count.shape
        return Window(self.window.row, self.window.col, rows * self.factor, cols * self.factor)

    def add(
        self,
        values: NDArray[Any],
        valid: NDArray[np.bool_],
        corner: tuple[float, float],
        step: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        """Add samples on a grid; those outside of the window do not count.

        Args:
            values: (bands, h, w)
            valid: (h, w)
            corner: row and column of the upper left corner of the first sample, in pixels.
            step: height and width of a sample in pixels.
        """
        (rows, inside_rows), (cols, inside_cols) = (
            self._blocks(axis, corner[axis], step[axis], valid.shape[axis]) for axis in (0, 1)
        )
        if not len(rows) or not len(cols):
            return
        valid = valid[inside_rows, inside_cols]
        stack = np.concatenate(
            [np.where(valid, values[:, inside_rows, inside_cols], 0), valid[None]]
        )
        for axis, blocks in ((2, cols), (1, rows)):
            first = np.flatnonzero(np.diff(blocks, prepend=-1))
            stack = np.add.reduceat(stack, first, axis=axis, dtype=np.float64)
        at = np.ix_(np.unique(rows), np.unique(cols))
        for sums, added in zip((*self.sums, self.count), stack, strict=True):
            sums[at] += added

    def _blocks(
        self, axis: int, start: float, step: float, samples: int
    ) -> tuple[NDArray[np.int64], slice]:
        """Return the blocks of the samples that are inside the window along an axis, and which
        these are."""
        first = (self.window.row, self.window.col)[axis]
        centres = start - first + (np.arange(samples) + 0.5) * step
        inside = np.flatnonzero((centres >= 0) & (centres < self.window.shape[axis]))
        if not len(inside):
            return np.empty(0, np.int64), slice(0)
        part = slice(int(inside[0]), int(inside[-1]) + 1)
        return np.asarray(centres[part] // self.factor, np.int64), part

    def means(self) -> NDArray[np.float64]:
        """Return (bands, rows, cols) means of the valid samples, 0 where there are none."""
        return np.asarray(self.sums / np.maximum(self.count, 1))
