"""Images whose pixels are those of the grid in another order: south-up, mirrored, or turned by 90°.

They are read as they are and turned in memory, which is exact: the warper would mix a pixel that is
not a number into its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capecam.grid import Grid, Window
from capecam.imagery.datum import same_crs
from capecam.imagery.header import Header

ROUNDING_PX = Fraction(1, 1_000)
"""Distance of a corner from one of the grid's pixels that is a rounding error of the writer."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Order in which a file's pixels come in the grid: reversed axes, then swapped ones."""

    shape: tuple[int, int]
    """Height and width of the file."""
    down: bool = False
    """The rows are reversed."""
    left: bool = False
    """The columns are reversed."""
    swap: bool = False
    """Rows of the file are columns of the grid."""

    def to_file(self, window: Window) -> Window:
        """Return the file's window of a window of the turned image."""
        row, col, height, width = window.row, window.col, window.height, window.width
        if self.swap:
            row, col, height, width = col, row, width, height
        return self._reverse(Window(row, col, height, width))

    def to_image(self, window: Window) -> Window:
        """Return the window of the turned image of a file's window."""
        w = self._reverse(window)
        return Window(w.col, w.row, w.width, w.height) if self.swap else w

    def apply(self, values: NDArray[Any]) -> NDArray[Any]:
        """Turn an array (..., height, width) of a part of the file."""
        values = values[..., :: -1 if self.down else 1, :: -1 if self.left else 1]
        return np.swapaxes(values, -1, -2) if self.swap else values

    def _reverse(self, window: Window) -> Window:
        row = self.shape[0] - window.bottom if self.down else window.row
        col = self.shape[1] - window.right if self.left else window.col
        return Window(row, col, window.height, window.width)


def turn_of(header: Header, grid: Grid) -> tuple[Turn, Window] | None:
    """Return the turn and the window of an image on the grid; None if its pixels are not the
    grid's."""
    if not same_crs(header.crs, grid.crs):
        return None
    t, height, width = header.placement.transform, header.placement.height, header.placement.width
    corners = [(0, 0), (width, 0), (0, height)]
    exact = [
        grid.to_lattice_exact(t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f)
        for col, row in corners
    ]
    if any(abs(value - round(value)) > ROUNDING_PX for corner in exact for value in corner):
        return None
    (x, y), (x1, y1), (x2, y2) = ((round(col), round(row)) for col, row in exact)
    if (abs(x1 - x), y1, x2, abs(y2 - y)) == (width, y, x, height):
        turn = Turn((height, width), down=y2 < y, left=x1 < x)
    elif (x1, abs(y1 - y), abs(x2 - x), y2) == (x, width, height, y):
        turn = Turn((height, width), down=x2 < x, left=y1 < y, swap=True)
    else:
        return None
    xs, ys = (x, x1, x2), (y, y1, y2)
    return turn, Window.between(min(ys), min(xs), max(ys), max(xs))
