"""Imagery, classes and heat as arrays of colours: (S, S, 4) in 0..1, clear where nodata is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float64]
Mask = NDArray[np.bool_]

LUMA = np.array([0.299, 0.587, 0.114])
"""ITU-R BT.601: how bright red, green and blue are to the eye."""

DIMMED = 0.62
"""Of the greyed tile under a heatmap, so that the ramp's bright end stands out."""

FULL_FROM = 0.45
"""Stretched heat from which the ramp hides most of the tile."""

MOST = 0.9
"""Of the tile that is hidden there: roofs stay visible."""

OWN, OTHER = 0.5, 0.18
"""How strongly the class of a row, and the others, colour the tile."""

TONE = 0.5
"""Exponent for maps of pixels: a few edges hold most of their energy."""


@dataclass(frozen=True, slots=True)
class HeatColormap:
    """How stretched heat becomes colour over a tile."""

    name: str
    """Of matplotlib."""
    grey: bool
    """Whether the tile under it is greyed."""
    cover: Callable[[Image], Image]
    """Stretched heat -> how much of the tile is hidden, 0..1."""

    def over(self, tile: Image, heat: Image) -> Image:
        """(..., 3) colours of 0..1 under (...,) stretched heat."""
        below = (tile @ LUMA * DIMMED)[..., None] if self.grey else tile
        cover = self.cover(heat)[..., None]
        return (1 - cover) * below + cover * self.colours(heat)

    def colours(self, heat: Image) -> Image:
        """(...,) of 0..1 to (..., 3)."""
        return np.asarray(matplotlib.colormaps[self.name](heat))[..., :3]


def _rising(heat: Image) -> Image:
    """Nothing is hidden where there is no heat."""
    return MOST * np.clip(heat / FULL_FROM, 0, 1)


def _half(heat: Image) -> Image:
    return np.full(heat.shape, 0.5)


RAMPS = {
    "inferno": HeatColormap("inferno", True, _rising),
    "jet": HeatColormap("jet", False, _half),
}


def stretched(heat: Image, valid: Mask) -> Image:
    """``(x - min) / (max - min)`` over the valid pixels; 0 for a map that is even there."""
    low, high = heat[valid].min(), heat[valid].max()
    if high == low:
        return np.zeros(heat.shape)
    return np.asarray(np.clip((heat.astype(float) - low) / (high - low), 0, 1))


def tinted(tile: Image, decided: NDArray[np.int64], colours: Image, own: int) -> Image:
    """(S, S, 3): the prediction over the tile, one class strong, the others faint.

    Args:
        tile: (S, S, 3).
        decided: (S, S) index of the class; 0 is left as it is.
        colours: (1 + C, 3).
        own: the class that is strong.
    """
    share = np.where(decided == own, OWN, np.where(decided > 0, OTHER, 0))[..., None]
    return (1 - share) * tile + share * colours[decided]


def clear(image: Image, valid: Mask) -> Image:
    """(S, S, 3) to (S, S, 4): nothing where there is no imagery."""
    return np.dstack([image, valid])
