"""Colours of the stored bytes of rasters, as the viewer draws them: those of the QGIS styles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from capecam.io.cog import LEVELS, NODATA
from capecam.io.heat_layer import OBJECT_SHARE_MAX
from capecam.settings import ClassSettings
from capecam.views.styles.layers import CLASS_ALPHA
from capecam.views.styles.raster_styles import HEAT, SHARES, ColorRamp, shades

LEGEND_STEPS = 5
"""Number of entries in the legend of a ramp."""


@dataclass(frozen=True, slots=True, eq=False)
class Palette:
    """Colours by stored byte, with a legend."""

    colors: NDArray[np.uint8]
    """(256, 4) red, green, blue and alpha."""
    legend: tuple[tuple[str, str], ...]
    """Labels, and colours #RRGGBB as they look on white."""
    unit: str = ""

    def to_hex(self) -> list[str]:
        """Return the colours as #rrggbbaa."""
        return [f"#{bytes(color).hex()}" for color in self.colors]


def classes_palette(classes: Sequence[ClassSettings]) -> Palette:
    """Return the colours of ``classes``; the background is transparent."""
    colors = np.zeros((256, 4), np.uint8)
    for index, entry in enumerate(classes[1:], start=1):
        colors[index] = *entry.rgb, CLASS_ALPHA
    return Palette(colors, tuple((entry.name, entry.color) for entry in classes[1:]))


def probability_palette(color: str) -> Palette:
    """Return the colours of a band of ``probability``, in the colour of its class."""
    return _ramp_palette(shades(color), "{:.2g}".format, "probability")


def heat_palette(*, by_root: bool = False) -> Palette:
    """Return the colours of the levels of a heatmap.

    Args:
        by_root: levels are square roots of the shares of the city's scale.
    """

    def label(level: float) -> str:
        return f"{level**2 if by_root else level:.2g}"

    return _ramp_palette(HEAT, label, "share of the city's scale")


def object_palette() -> Palette:
    """Return the colours of ``objects``."""

    def label(level: float) -> str:
        return f"{100 * OBJECT_SHARE_MAX * level:.2g}{' and more' if level == 1 else ''}"

    return _ramp_palette(SHARES, label, "% of the object's explanation in a block")


def _ramp_palette(ramp: ColorRamp, label: Callable[[float], str], unit: str) -> Palette:
    levels = np.arange(NODATA) / LEVELS
    colors = np.zeros((256, 4), np.uint8)
    colors[:NODATA] = ramp.at(levels)
    steps = np.linspace(0, 1, LEGEND_STEPS)
    shown = [_on_white(color) for color in ramp.at(steps)]
    return Palette(colors, tuple(zip(map(label, steps.tolist()), shown, strict=True)), unit)


def _on_white(color: NDArray[np.uint8]) -> str:
    """Return a colour with an alpha as it looks on white, #rrggbb."""
    red, green, blue, alpha = color.tolist()
    mixed = (round(255 + (value - 255) * alpha / 255) for value in (red, green, blue))
    return f"#{bytes(mixed).hex()}"
