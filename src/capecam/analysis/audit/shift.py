"""The same object in tiles whose lattice is shifted: do their maps agree?

Where a tile begins is nobody's choice, and says nothing about the roof; what a map owes to it is
the map's own error.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from capecam.analysis.audit.block_maps import Heat, correlation
from capecam.grid import Tiling, Window


def shift_px(tiling: Tiling) -> int:
    """A quarter of a tile in whole blocks, and at least one: what both tiles see is compared block
    by block."""
    return max(tiling.size // 4 // tiling.stride, 1) * tiling.stride


class Sighting(NamedTuple):
    """The maps of one tile."""

    window: Window
    heat: Heat
    """(M, n, n)."""


def agreement(
    first: Sighting, second: Sighting, inside: Heat, seen: NDArray[np.bool_]
) -> tuple[Heat, Heat]:
    """How alike the maps of two tiles are where both see the same.

    Args:
        first: maps of a tile.
        second: those of another, whole blocks away.
        inside: (n, n), the share of each block of the first tile that belongs to the object.
        seen: (n, n), its blocks with imagery.

    Returns:
        (M,) correlation over the blocks that both see, NaN where a map is even there; and (M,) the
        smaller of the two means inside the object by the larger, NaN where both are 0.
    """
    common = first.window.intersection(second.window)
    if common is None:
        raise ValueError(f"{first.window} and {second.window} see nothing in common")
    stride = first.window.width // first.heat.shape[-1]
    here, there = (_blocks(common.slices(each.window), stride) for each in (first, second))
    both, weight = seen[here], inside[here]
    a, b = first.heat[:, *here], second.heat[:, *there]
    mean_a, mean_b = ((x * weight).sum(axis=(1, 2)) for x in (a, b))
    larger = np.maximum(mean_a, mean_b)
    ratio = np.minimum(mean_a, mean_b) / np.where(larger > 0, larger, np.nan)
    return correlation(a[:, both], b[:, both]), np.asarray(ratio)


def _blocks(place: tuple[slice, slice], stride: int) -> tuple[slice, slice]:
    rows, cols = (slice(part.start // stride, part.stop // stride) for part in place)
    return rows, cols
