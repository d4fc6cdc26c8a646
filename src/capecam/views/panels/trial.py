"""A picture of one tile's prediction in several ranges of the input, side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from capecam.settings import ClassSettings
from capecam.views.palette import DARK, FAINT
from capecam.views.panels.page_layout import Drawing, Sheet, fitting, line_cm, wrapped
from capecam.views.panels.tile_drawing import COLORMAPS, draw_image, draw_scale_bar, tinted

MARGIN, GAP = 0.6, 0.3
"""Distances in cm: around the page, and between pictures."""

TILE = 5.2
"""Edge of a picture in cm."""

TITLE, PLAIN, SMALL = 12.0, 8.0, 7.0
"""Text sizes in points."""

SWATCH = 0.3
"""Edge in cm of the square in the colour of a class."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Prediction of a tile in one range of the input."""

    name: str
    """Description of the range."""
    predicted: NDArray[np.int64]
    """(size, size) index of the class."""
    foreground: NDArray[np.float32]
    """(size, size) probability of all classes but the background."""
    note: str = ""
    """Text that says how well the range fits."""


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A tile, and its predictions; the first is in the range that is taken."""

    title: str
    pixels: NDArray[np.uint8]
    """(size, size, 3)."""
    valid: NDArray[np.bool_]
    """(size, size); True is imagery."""
    pixel_m: float
    """Width of a pixel on the ground."""
    classes: tuple[ClassSettings, ...]
    predictions: tuple[Prediction, ...]


def draw_trial(trial: Trial) -> Drawing:
    """Draw imagery and classes of a tile, and below each range the probability."""
    columns = 1 + len(trial.predictions)
    sheet = Sheet(2 * MARGIN + columns * TILE + (columns - 1) * GAP)
    tile, colours = trial.pixels / 255, np.array([to_rgb(c.color) for c in trial.classes])
    inside, y = sheet.width - 2 * MARGIN, MARGIN
    sheet.text(MARGIN, y, trial.title, fitting(trial.title, inside, TITLE, "bold"), weight="bold")
    y += line_cm(TITLE) + 0.2
    heads = [wrapped(p.name, TILE, PLAIN, "bold") for p in trial.predictions]
    top = y + max(map(len, heads)) * line_cm(PLAIN) + line_cm(SMALL) + 0.1
    below = top + TILE + GAP

    axes = sheet.axes(MARGIN, top, TILE, TILE)
    draw_image(axes, tile, trial.valid, smooth=True)
    draw_scale_bar(axes, trial.pixel_m, len(tile))
    sheet.text(MARGIN, top - line_cm(PLAIN) - 0.1, "one tile of the imagery", PLAIN)
    ramp = COLORMAPS["inferno"]
    for n, (prediction, head) in enumerate(zip(trial.predictions, heads, strict=True)):
        x = MARGIN + (n + 1) * (TILE + GAP)
        for line, text in enumerate(head):
            sheet.text(
                x, y + line * line_cm(PLAIN), text, PLAIN, weight="bold" if n == 0 else "normal"
            )
        note = "taken" if n == 0 else "not taken"
        note += f"; {prediction.note}" if prediction.note else ""
        sheet.text(x, top - line_cm(SMALL) - 0.05, note, SMALL, color=FAINT)
        classes = tinted(tile, prediction.predicted, colours)
        draw_image(sheet.axes(x, top, TILE, TILE), classes, trial.valid, smooth=False)
        heat = ramp.colours(prediction.foreground.astype(float))
        draw_image(sheet.axes(x, below, TILE, TILE), heat, trial.valid, smooth=False)
    _legend(sheet, trial, below, ramp.colours(np.linspace(0, 1, 64)[None]))
    return sheet.cut(below + TILE + MARGIN)


def _legend(sheet: Sheet, trial: Trial, y: float, ramp: NDArray[np.float64]) -> None:
    """Draw the colours of classes and of the probability in the corner under the imagery."""
    sheet.text(MARGIN, y, "above: classes", PLAIN, weight="bold")
    y += line_cm(PLAIN) + 0.1
    for entry in trial.classes[1:8]:
        sheet.axes(MARGIN, y, SWATCH, SWATCH).set_facecolor(entry.color)
        size = fitting(entry.name, TILE - 2 * SWATCH, PLAIN)
        sheet.text(MARGIN + 1.5 * SWATCH, y, entry.name, size, color=DARK)
        y += 1.4 * SWATCH
    y += 0.3
    sheet.text(MARGIN, y, "below: probability of any class", PLAIN, weight="bold")
    y += line_cm(PLAIN) + 0.1
    axes = sheet.axes(MARGIN, y, TILE - GAP, SWATCH)
    axes.imshow(ramp, aspect="auto")
    y += SWATCH + 0.1
    sheet.text(MARGIN, y, "0", SMALL)
    sheet.text(MARGIN + TILE - GAP, y, "1", SMALL, align="right")
