"""Notice nearly black or white borders that no file marks as nodata, while tiles are read.

One pixel in 64 is looked at, so that it costs nothing. ``collar_mask`` finds such borders exactly,
on request.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from capecam.grid import Cell, Window
from capecam.mosaic.collar_mask import BLOCK, LOOSE, is_near, reaching_edge

Booleans = NDArray[np.bool_]


@dataclass(slots=True)
class BorderProbe:
    """Samples of a cell's pixels, one per block; several threads may add different windows."""

    cell: Cell
    _valid: Booleans = field(init=False)
    """(rows, cols) of the samples; True is imagery of the cell's own image."""
    _near: tuple[Booleans, Booleans] = field(init=False)
    """(rows, cols) each: True is nearly black, nearly white."""

    def __post_init__(self) -> None:
        core = self.cell.core
        shape = -(-core.height // BLOCK), -(-core.width // BLOCK)
        self._valid = np.zeros(shape, np.bool_)
        self._near = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)

    def add(self, window: Window, pixels: NDArray[np.uint8], valid: Booleans) -> None:
        """Add (3, height, width) pixels and (height, width) validity of a window."""
        core = self.cell.core
        part = window.intersection(core)
        if part is None:
            return
        rows, cols = part.slices(window)
        top, left = (part.row - core.row) % -BLOCK, (part.col - core.col) % -BLOCK
        samples = np.s_[rows.start - top : rows.stop : BLOCK, cols.start - left : cols.stop : BLOCK]
        is_valid = valid[samples]
        first = (part.row - top - core.row) // BLOCK, (part.col - left - core.col) // BLOCK
        target = tuple(slice(n, n + size) for n, size in zip(first, is_valid.shape, strict=True))
        self._valid[target] = is_valid
        for white, near in enumerate(self._near):
            near[target] = is_valid & is_near(pixels[:, *samples], bool(white), LOOSE)

    def share(self) -> float:
        """Return the share of the image's valid pixels in such a border; 0 without any."""
        valid = self._valid.copy()
        for window in self.cell.taken:
            valid[tuple(_blocks(side) for side in window.slices(self.cell.core))] = False
        border = reaching_edge(self._near[0]) | reaching_edge(self._near[1])
        return float((border & valid).sum() / max(valid.sum(), 1))


def _blocks(side: slice) -> slice:
    return slice(side.start // BLOCK, -(-side.stop // BLOCK))
