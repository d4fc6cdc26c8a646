"""Which tile of the run's lattice shows a place best."""

from __future__ import annotations

from itertools import product
from math import ceil, floor
from typing import Any

import shapely

from capecam.grid import Tiling, Window
from capecam.mosaic.aoi import AreaOfInterest


def tile_of(region: Any, tiling: Tiling, interest: AreaOfInterest) -> Window:
    """The window that holds most of a shape, and of equals the one in whose middle it is.

    Of the windows that the run has looked at; where it has looked at none, of all.

    Args:
        region: shape in lattice pixels, with an area.
        tiling: the lattice.
        interest: what the run has looked at.
    """
    core = _hull(region)
    rows, cols = tiling.indices(core)
    run = interest.selected_windows(tiling, core)
    windows = [tiling.window(i, j) for i, j in sorted(run or product(rows, cols))]
    middle = core.box.centroid

    def rank(window: Window) -> tuple[int, float]:
        held = shapely.intersection(region, window.box).area
        return -round(held), shapely.distance(middle, window.box.centroid)

    return min(windows, key=rank)


def _hull(region: Any) -> Window:
    """The whole pixels that a shape reaches."""
    left, top, right, bottom = region.bounds
    return Window.between(floor(top), floor(left), ceil(bottom), ceil(right))
