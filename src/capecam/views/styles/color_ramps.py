"""Colours over a range of values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np

STOPS = 17
"""Straight lines between so many colours are inferno to within 2 levels of 255."""


@dataclass(frozen=True, slots=True)
class ColorRamp:
    """Colours from 0 to 1, with straight lines between."""

    stops: tuple[tuple[float, str, int], ...]
    """(place, #RRGGBB, alpha 0..255), from 0 to 1."""

    def __post_init__(self) -> None:
        places = [place for place, _, _ in self.stops]
        if places != sorted(places) or (places[0], places[-1]) != (0, 1):
            raise ValueError(f"stops must rise from 0 to 1, got {places}")

    @classmethod
    def of_colormap(
        cls, name: str, alpha: Callable[[float], float], start: float = 0.0
    ) -> ColorRamp:
        """A colormap of matplotlib from ``start`` on, with an alpha of 0..1 by place."""
        colors = mpl.colormaps[name](np.linspace(start, 1, STOPS), bytes=True)
        return cls(
            tuple(
                (place, f"#{red:02X}{green:02X}{blue:02X}", round(255 * alpha(place)))
                for place, (red, green, blue, _) in zip(
                    np.linspace(0, 1, STOPS).tolist(), colors.tolist(), strict=True
                )
            )
        )


HEAT = ColorRamp.of_colormap("inferno", lambda place: 0.8 * min(1.0, 2.5 * place), start=0.15)
"""Perceptually uniform (van der Walt and Smith 2015), without its blackest end: on a dark roof that
would not be seen."""

JET = ColorRamp.of_colormap("jet", lambda place: 0.6 if place else 0.0)
"""As the first figures of this kind had it, half transparent over the photograph."""


def shades(color: str) -> ColorRamp:
    """From nothing to a colour."""
    return ColorRamp(((0.0, color, 0), (0.1, color, 0), (1.0, color, 230)))
