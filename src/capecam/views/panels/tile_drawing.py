"""Drawing of one tile: colours of imagery, prediction and heatmaps, and marks over them.

Colours are arrays of 0..1; (S, S, 3) is RGB, (S, S, 4) is RGBA and transparent where nodata is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import floor, log10

import matplotlib
import numpy as np
import shapely
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.patheffects import AbstractPathEffect, Normal, withStroke
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from capecam.grid import Window
from capecam.views.palette import BLACK, HATCH, NODATA
from capecam.views.panels.page_layout import FONT

Image = NDArray[np.float64]
Mask = NDArray[np.bool_]

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in luma (ITU-R BT.601)."""

GREY = 0.62
"""Brightness of the grey tile under a heatmap, so that the bright end of the ramp stands out."""

FULL_FROM = 0.45
"""Stretched heat at which the opacity of the ramp reaches its maximum."""

MAX_OPACITY = 0.9
"""Maximum opacity of the ramp: roofs stay visible."""

OWN, OTHER = 0.5, 0.18
"""Opacity of the prediction: class of the row, and other classes."""

GAMMA = 0.5
"""Exponent for pixel-wise maps, whose energy is in a few edges."""

FAINT_OPACITY = 0.25
"""Factor of the opacity of negligible maps."""

CASING = f"{BLACK}B0"
"""Casing of white lines and letters, so that they show on any background."""

CROSS = 0.015, 0.05
"""Start and end of the arms of a cross, as shares of the width of the tile."""

MAX_SCALE_BAR = 0.35
"""Maximum length of a scale bar, as a share of the width of the tile."""


@dataclass(frozen=True, slots=True)
class HeatColormap:
    """Colours of stretched heat over a tile."""

    name: str
    """Name of the colormap in matplotlib."""
    grey: bool
    """Whether the tile under the heat is grey."""
    opacity: Callable[[Image], Image]
    """Function from stretched heat to opacity, both 0..1."""

    def picture(self, heat: Image, tile: Image | None, factor: float = 1.0) -> Image:
        """Return the colours of stretched heat.

        Args:
            heat: (...) of 0..1.
            tile: (..., 3) under it; without one, the square root of the heat is drawn.
            factor: factor of the opacity.
        """
        if tile is None:
            background, opacity = self.colours(np.zeros(heat.shape)), np.ones((*heat.shape, 1))
            heat = heat**GAMMA
        else:
            background = (tile @ LUMA * GREY)[..., None] if self.grey else tile
            opacity = self.opacity(heat)[..., None]
        return (1 - factor * opacity) * background + factor * opacity * self.colours(heat)

    def colours(self, heat: Image) -> Image:
        """Return the colours of heat, (...) to (..., 3)."""
        return np.asarray(matplotlib.colormaps[self.name](heat))[..., :3]


def _rising(heat: Image) -> Image:
    return MAX_OPACITY * np.clip(heat / FULL_FROM, 0, 1)


def _half(heat: Image) -> Image:
    return np.full(heat.shape, 0.5)


COLORMAPS = {
    "inferno": HeatColormap("inferno", True, _rising),
    "jet": HeatColormap("jet", False, _half),
}


def stretched(heat: NDArray[np.floating], low: float, high: float) -> Image:
    """Return ``(x - low) / (high - low)``, clipped to 0..1; 0 for a constant map."""
    if high == low:
        return np.zeros(heat.shape)
    return np.asarray(np.clip((heat.astype(float) - low) / (high - low), 0, 1))


def smooth(samples: NDArray[np.floating], shape: tuple[int, int]) -> Image:
    """Resample a map (h, w) to a shape for a picture, without the stars of bilinear interpolation.

    Cubic convolution (Keys 1981) with half-pixel centres, which passes through the samples; where
    it would overshoot, it is clipped to their range.
    """
    rows, cols = (_keys(n, size) for n, size in zip(samples.shape, shape, strict=True))
    return np.asarray(np.clip(rows @ samples @ cols.T, samples.min(), samples.max()))


def _keys(count: int, size: int) -> Image:
    """Return the weights of ``count`` samples at ``size`` pixels, (size, count)."""
    position = (np.arange(size) + 0.5) * count / size - 0.5
    weights, first = np.zeros((size, count)), np.floor(position).astype(int)
    for offset in (-1, 0, 1, 2):
        x = np.abs(position - first - offset)
        near, far = (1.5 * x - 2.5) * x**2 + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2
        at = np.clip(first + offset, 0, count - 1)  # the outermost samples continue outside
        np.add.at(weights, (np.arange(size), at), np.where(x <= 1, near, far))
    return weights


def tinted(
    tile: Image, predicted: NDArray[np.int64], colours: Image, own: int | None = None
) -> Image:
    """Return the prediction over a tile, with all classes strong, or one and the others faint.

    Args:
        tile: (S, S, 3).
        predicted: (S, S) index of the class; 0 is not tinted.
        colours: (1 + C, 3).
        own: index of the strong class; None: all are.
    """
    strong = predicted == own if own is not None else predicted > 0
    opacity = np.where(strong, OWN, np.where(predicted > 0, OTHER, 0))[..., None]
    return (1 - opacity) * tile + opacity * colours[predicted]


def object_picture(
    pixels: NDArray[np.uint8], heat: NDArray[np.floating], inside: Mask
) -> NDArray[np.uint8]:
    """Return an object's own map over its tile, with a white edge around the object: (S, S, 3).

    Args:
        pixels: (3, S, S).
        heat: (S, S) raw map.
        inside: (S, S); True is a pixel of the object.
    """
    tile = pixels.transpose(1, 2, 0) / 255
    image = COLORMAPS["inferno"].picture(stretched(heat, 0, float(heat.max())), tile)
    image[binary_dilation(inside) & ~inside] = 1
    return np.asarray(np.rint(255 * image), np.uint8)


def draw_image(axes: Axes, image: Image, valid: Mask, *, smooth: bool) -> None:
    """Fill axes with an (S, S, 3) image; nodata is hatched."""
    axes.set_facecolor(NODATA)
    if not valid.all():
        axes.patch.set(hatch="////", edgecolor=HATCH, linewidth=0)
    axes.imshow(
        np.dstack([image, valid]), aspect="auto", interpolation="hanning" if smooth else "nearest"
    )
    axes.set_autoscale_on(False)


def draw_edges(axes: Axes, mask: Mask, colour: Image) -> None:
    """Draw a thin line around the pixels of a mask."""
    if mask.any() and not mask.all():
        padded = np.pad(mask, 1).astype(float)
        rows, cols = (np.arange(-1, size + 1) for size in mask.shape)
        axes.contour(cols, rows, padded, levels=[0.5], colors=[tuple(colour)], linewidths=0.7)


def draw_outline(axes: Axes, outline: shapely.Geometry, window: Window) -> None:
    """Draw a white line around a shape in pixels of the grid."""
    local = shapely.transform(outline, lambda xy: xy - (window.col + 0.5, window.row + 0.5))
    rings = shapely.get_rings(shapely.get_parts(local))
    path = Path.make_compound_path(*(Path(shapely.get_coordinates(ring)) for ring in rings))
    axes.add_patch(
        PathPatch(
            path, facecolor="none", edgecolor="white", linewidth=0.9, joinstyle="round",
            path_effects=_cased(),
        )
    )  # fmt: skip


def draw_cross(axes: Axes, point: NDArray[np.float64], window: Window) -> None:
    """Draw a white cross, open in the middle, at a (column, row) of the grid."""
    col, row = point - (window.col + 0.5, window.row + 0.5)
    near, far = CROSS[0] * window.width, CROSS[1] * window.width
    for x, y in [(1, 0), (-1, 0), (0, 1), (0, -1)]:
        axes.plot(
            [col + x * near, col + x * far], [row + y * near, row + y * far],
            color="white", linewidth=0.9, path_effects=_cased(),
        )  # fmt: skip


def draw_note(axes: Axes, text: str) -> None:
    """Write a word at the upper left, if there is one."""
    axes.text(
        0.04, 0.95, text, transform=axes.transAxes, color="white", size=8, family=FONT, ha="left",
        va="top", path_effects=_cased(),
    )  # fmt: skip


def draw_scale_bar(axes: Axes, pixel_m: float, width_px: int) -> None:
    """Draw a scale bar of a round length at the lower left."""
    length_m = round_down(MAX_SCALE_BAR * width_px * pixel_m)
    bar, margin, height = length_m / pixel_m, 0.04 * width_px, 0.016 * width_px
    top, bottom = axes.get_ylim()[::-1]
    y = bottom - margin * (bottom - top) / width_px
    casing = _cased()
    axes.add_patch(
        Rectangle((margin, y - height), bar, height, color="white", path_effects=casing, lw=0)
    )
    axes.text(
        margin + bar / 2, y - 1.7 * height, f"{length_m:g} m", color="white", size=7, family=FONT,
        ha="center", va="bottom", path_effects=casing,
    )  # fmt: skip


def round_down(length: float) -> float:
    """Return the largest of 1, 2, 5, 10, 20 ... that is not larger than a length."""
    unit = 10.0 ** floor(log10(length))
    return max(unit * step for step in (1, 2, 5) if unit * step <= length)


def _cased() -> list[AbstractPathEffect]:
    return [withStroke(linewidth=1.9, foreground=CASING), Normal()]
