"""What is drawn over the images of a tile: outlines of objects, a scale bar, nodata."""

from __future__ import annotations

from math import floor, log10
from typing import Any

import numpy as np
import shapely
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.patheffects import AbstractPathEffect, Normal, withStroke
from numpy.typing import NDArray

from capecam.grid import Window
from capecam.views.panels.colorize import Image
from capecam.views.panels.page_layout import FONT

NODATA, HATCH = "#ececec", "#bdbdbd"

CASING = "#000000b0"
"""Around white lines and letters, so that they show on any ground."""

CROSS = 0.015, 0.05
"""Where the arms of a cross begin and end, by the width of the tile."""

LONGEST = 0.35
"""Of a scale bar, by the width of the tile."""


def show(axes: Axes, image: Image, *, smooth: bool) -> None:
    """An (S, S, 4) image that fills the axes; hatched where it is clear."""
    axes.set_facecolor(NODATA)
    if not image[..., 3].all():
        axes.patch.set(hatch="////", edgecolor=HATCH, linewidth=0)
    axes.imshow(image, aspect="auto", interpolation="hanning" if smooth else "nearest")
    axes.set_autoscale_on(False)


def edges(axes: Axes, where: NDArray[np.bool_], colour: Any) -> None:
    """A thin line around the pixels that are True."""
    if where.any() and not where.all():
        framed = np.pad(where, 1).astype(float)
        at = np.arange(-1, len(where) + 1)
        axes.contour(at, at, framed, levels=[0.5], colors=[colour], linewidths=0.7)


def outline(axes: Axes, region: Any, window: Window) -> None:
    """A white line around a shape in lattice pixels."""
    placed = shapely.transform(region, lambda xy: xy - (window.col + 0.5, window.row + 0.5))
    rings = [
        ring for part in shapely.get_parts(placed) for ring in (part.exterior, *part.interiors)
    ]
    path = Path.make_compound_path(*(Path(shapely.get_coordinates(ring)) for ring in rings))
    style = {"facecolor": "none", "edgecolor": "white", "linewidth": 0.9}
    axes.add_patch(PathPatch(path, joinstyle="round", path_effects=_cased(), **style))


def cross(axes: Axes, point: NDArray[np.float64], window: Window) -> None:
    """A white cross at a (col, row) of the lattice, open in the middle."""
    col, row = point - (window.col + 0.5, window.row + 0.5)
    near, far = CROSS[0] * window.width, CROSS[1] * window.width
    arms = [(near, 0), (-near, 0), (0, near), (0, -near)]
    for x, y in arms:
        axes.plot(
            [col + x, col + x * far / near], [row + y, row + y * far / near],
            color="white", linewidth=0.9, path_effects=_cased(),
        )  # fmt: skip


def note(axes: Axes, text: str) -> None:
    """A word in the middle."""
    style: Any = {"color": "white", "size": 8, "family": FONT, "ha": "center", "va": "center"}
    axes.text(0.5, 0.5, text, transform=axes.transAxes, path_effects=_cased(), **style)


def scale_bar(axes: Axes, pixel_m: float, width_px: int) -> None:
    """Below left, of a round length."""
    length_m = round_below(LONGEST * width_px * pixel_m)
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


def round_below(length: float) -> float:
    """The longest of 1, 2, 5, 10, 20 ... that is not longer."""
    unit = 10.0 ** floor(log10(length))
    return max(unit * step for step in (1, 2, 5) if unit * step <= length)


def _cased() -> list[AbstractPathEffect]:
    return [withStroke(linewidth=1.9, foreground=CASING), Normal()]
