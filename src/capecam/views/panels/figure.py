"""A panel as a figure: the object with its own map, then maps of the tile by class.

Laid out in centimetres, without a layout engine: the contents are known in advance, so positions
are computed, and long names move nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from capecam.grid import Window
from capecam.settings import PIXEL_METHODS, TITLES
from capecam.views.palette import (
    DARK,
    EVIDENCE_COLORS,
    FAINT,
    FILLED,
    TRACK,
    WHITE,
    edge,
)
from capecam.views.panels import captions
from capecam.views.panels.object_map import Extent, ObjectMap
from capecam.views.panels.page_layout import (
    Box,
    Drawing,
    Sheet,
    fitting,
    joined,
    line_cm,
    width_cm,
    wrapped,
)
from capecam.views.panels.panel_data import PanelData, PanelStyle
from capecam.views.panels.tile_drawing import (
    COLORMAPS,
    FAINT_OPACITY,
    HeatColormap,
    Image,
    Mask,
    draw_cross,
    draw_edges,
    draw_image,
    draw_note,
    draw_outline,
    draw_scale_bar,
    smooth,
    stretched,
    tinted,
)

MARGIN, GAP, SPACE = 0.6, 0.2, 0.4
"""Distances in cm: around the page, between maps, and between blocks."""
WIDTHS = {3: 18.0, 4: 21.0}
MAX_WIDTH = 24.0
"""Width of the figure in cm by its number of columns: a page in portrait or landscape."""
MIN_COLUMNS = 3
"""Minimum number of columns: two pictures of the object, and its numbers."""
OBJECT_COLUMNS = 3
"""Maximum number of columns that the two pictures of the object are as wide as together."""
WIDE, TALL = 0.6, 1.5
"""Height relative to the width below which the two pictures of the object are put one below the
other, and above which they are made narrower."""
MAX_METHODS = 4
"""Maximum number of methods in one line; more continue in further lines of the same class."""

TITLE, PLAIN, SMALL = 13.0, 8.0, 7.0
"""Text sizes in points."""

SWATCH = 0.28
"""Edge in cm of the square in the colour of a class or a word."""
BAR = 0.16
"""Height in cm of a colour bar, which is as wide as its map."""
UNDER = 0.7
"""Height in cm of what is under a picture: a caption, or a colour bar with its numbers."""
RULE = 0.02
"""Width in cm of the line between the object and the tile."""
BAR_HEIGHT = 0.1
"""Height in cm of the bar beside a number."""
NUMBER = 0.85
"""Minimum width in cm of a number with the space after it."""
GROUND = 0.5
"""Grey of 0..1 under the colour bar of heat over a tile."""


@dataclass(frozen=True, slots=True)
class _Heat:
    """A map to draw."""

    values: NDArray[np.floating]
    """(height, width) raw values at pixels."""
    extent: Extent
    """Raw values of the two ends of the colours."""
    tile: Image | None
    """Imagery under it; None for a map at full resolution, which hides it."""
    factor: float = 1.0
    """Factor of its opacity."""


def draw_panel(panel: PanelData, style: PanelStyle) -> Drawing:
    """Draw a panel."""
    page = _Page(panel, COLORMAPS[style.ramp])
    page.head()
    page.subject()
    for class_id in panel.rows(style):
        page.block(class_id)
    page.foot()
    return page.sheet.cut(page.y + MARGIN)


class _Page:
    """A page that is filled from top to bottom; ``y`` is the first free position in cm."""

    def __init__(self, panel: PanelData, ramp: HeatColormap) -> None:
        self.panel, self.ramp, self.tile = panel, ramp, panel.pixels / 255
        self.colours = np.array([to_rgb(entry.color) for entry in panel.classes])
        methods = list(panel.heat)
        per_line = ceil(len(methods) / ceil(len(methods) / MAX_METHODS))
        self.lines = [methods[n : n + per_line] for n in range(0, len(methods), per_line)]
        columns = max(MIN_COLUMNS, 1 + per_line)
        self.sheet, self.y = Sheet(WIDTHS.get(columns, MAX_WIDTH)), MARGIN
        self.inner = self.sheet.width - 2 * MARGIN
        self.cell = (self.inner - (columns - 1) * GAP) / columns
        self.wide = (self._x(min(OBJECT_COLUMNS, columns - 1)) - MARGIN) / 2 - GAP
        self.aspect = panel.pixel_m[1] / panel.pixel_m[0]
        self.cell_h = self.cell * self.aspect * len(self.tile) / len(self.tile[0])

    def head(self) -> None:
        """Write the title and the measures of the detection."""
        x, right = MARGIN, self.sheet.width - MARGIN
        detection, title = self.panel.detection, captions.title(self.panel)
        if word := captions.word(self.panel):
            self.sheet.text(right, self.y, word, TITLE, align="right", weight="bold")
            right -= width_cm(word, TITLE, "bold") + GAP
            if color := EVIDENCE_COLORS.get(word):  # version 0.1 had other words
                right -= SWATCH
                self._swatch(right, self.y + (line_cm(TITLE) - SWATCH) / 4, color)
                right -= GAP
            self.sheet.text(right, self.y, "evidence:", TITLE, align="right", color=FAINT)
            right -= width_cm("evidence:", TITLE) + SPACE
        if detection:
            right -= width_cm(detection.id, TITLE) + SPACE
        size = fitting(title, right - x, TITLE, "bold")
        self.sheet.text(x, self.y, title, size, weight="bold")
        if detection:
            x += width_cm(title, size, "bold") + SPACE
            self.sheet.text(x, self.y, detection.id, TITLE, color=FAINT)
        self.y += line_cm(TITLE)
        for parts in captions.caption_lines(self.panel):
            self._write(joined(parts, self.inner, PLAIN), MARGIN, PLAIN, FAINT)
        self.y += SPACE

    def subject(self) -> None:
        """Draw the imagery once, and beside it the object's own map with its numbers.

        For a place, the prediction of all classes with their areas.
        """
        panel, own = self.panel, self.panel.own
        window = own.window if own else panel.grid.window
        first, second = self._frames(window)
        self._name(first, captions.IMAGERY)
        pixels, valid = (own.pixels / 255, own.valid) if own else (self.tile, panel.valid)
        caption = captions.ground(window.shape, panel.pixel_m) if own else captions.tile(panel)
        axes = self._picture(first, pixels, valid, caption)
        draw_scale_bar(axes, panel.pixel_m[0], window.width)
        self._mark(axes, window)
        beside = MARGIN + 2 * (self.wide + GAP) + SPACE / 2
        if own:
            self._name(second, captions.own_name(own))
            self._draw_own(second, own, pixels)
            bottom = self._write_numbers(own, beside)
        else:
            self._name(second, captions.PREDICTION)
            self._draw_prediction(second, None)
            bottom = self._write_legend(beside)
        self.y = max(second.bottom + UNDER, bottom) + SPACE
        if own:
            self._head_tile()

    def _frames(self, window: Window) -> tuple[Box, Box]:
        """Return the places of two pictures of a window: side by side, or a wide one below."""
        ratio = self.aspect * window.height / window.width
        head = line_cm(PLAIN)
        if ratio < WIDE:
            width = 2 * self.wide + GAP
            first = Box(MARGIN, self.y + head, width, ratio * width)
            return first, first._replace(y=first.bottom + UNDER + SPACE / 2 + head)
        width = self.wide * min(1.0, TALL / ratio)
        first = Box(MARGIN, self.y + head, width, ratio * width)
        return first, first.moved(width + GAP)

    def _name(self, box: Box, name: str) -> None:
        """Write the name of a picture above it."""
        self.sheet.text(box.x, box.y - line_cm(PLAIN), name, PLAIN, weight="bold")

    def _head_tile(self) -> None:
        """Write which tile the maps below are of, since it is not that of the object's own map."""
        heading, text = captions.TILE, captions.tile(self.panel)
        self.sheet.axes(MARGIN, self.y, self.inner, RULE).set_facecolor(TRACK)
        self.y += SPACE / 2
        self.sheet.text(MARGIN, self.y, heading, PLAIN, weight="bold")
        x = MARGIN + width_cm(heading, PLAIN, "bold") + SPACE
        self._write_fitted(x, self.y, self.inner + MARGIN - x, text, PLAIN, color=FAINT)
        self.y += line_cm(PLAIN) + SPACE / 2

    def block(self, class_id: int) -> None:
        """Draw the row of a class: its name, the prediction, and a map per method."""
        entry = self.panel.classes[class_id]
        self._swatch(MARGIN, self.y, entry.color)
        x = MARGIN + SWATCH + GAP
        name = wrapped(entry.name, self._x(1) - GAP - x, PLAIN, "bold")
        self._write(name, x, PLAIN, weight="bold")
        self.y -= line_cm(PLAIN)  # names of methods are beside the last line
        for number, methods in enumerate(self.lines):
            row = Box(MARGIN, self.y + line_cm(PLAIN), self.cell, self.cell_h)
            if number == 0:
                self._draw_prediction(row, class_id)
            for column, method in enumerate(methods, start=1):
                box = row.moved(self._x(column) - MARGIN)
                self._write_fitted(box.x, self.y, self.cell, TITLES[method], PLAIN)
                self._draw_map(box, method, class_id)
            self.y = row.bottom + UNDER + SPACE

    def foot(self) -> None:
        """Write how to read the maps, and how they were computed."""
        self._write(wrapped(captions.footer(self.panel), self.inner, SMALL), MARGIN, SMALL, FAINT)

    def _x(self, column: int) -> float:
        return MARGIN + column * (self.cell + GAP)

    def _write(
        self, lines: list[str], x: float, size: float, color: str = DARK, weight: str = "normal"
    ) -> None:
        for line in lines:
            self.sheet.text(x, self.y, line, size, color=color, weight=weight)
            self.y += line_cm(size)

    def _write_fitted(
        self, x: float, y: float, width: float, text: str, size: float, *, color: str = DARK
    ) -> None:
        """Write a text, in a smaller size if it is wider than its column."""
        self.sheet.text(x, y, text, fitting(text, width, size), color=color)

    def _swatch(self, x: float, y: float, color: str) -> None:
        """Draw a square of a colour, with an edge if it is pale."""
        square = self.sheet.axes(x, y, SWATCH, SWATCH).patch
        square.set(facecolor=color, edgecolor=edge(color, WHITE), linewidth=1)

    def _picture(
        self, box: Box, image: Image, valid: Mask, caption: str = "", *, smooth: bool = True
    ) -> Axes:
        axes = self.sheet.axes(*box)
        draw_image(axes, image, valid, smooth=smooth)
        self._write_fitted(box.x, box.bottom + 0.08, box.width, caption, SMALL, color=FAINT)
        return axes

    def _draw_prediction(self, box: Box, class_id: int | None) -> None:
        """Draw the prediction of the tile, with one class strong, or all."""
        panel = self.panel
        image = tinted(self.tile, panel.predicted, self.colours, class_id)
        caption = captions.predicted(panel, class_id) if class_id else ""
        axes = self._picture(box, image, panel.valid, caption)
        for k in range(1, len(self.colours)):
            draw_edges(axes, (panel.predicted == k) & panel.valid, self.colours[k])
        self._mark(axes, panel.grid.window)

    def _draw_map(self, box: Box, method: str, class_id: int) -> None:
        """Draw a map of the tile."""
        panel, pixelwise = self.panel, method in PIXEL_METHODS
        samples = panel.heat[method][class_id - 1]
        heat = _Heat(
            samples if pixelwise else smooth(samples, panel.valid.shape),
            panel.extent(method, class_id),
            None if pixelwise else self.tile,
            FAINT_OPACITY if panel.is_negligible(method, class_id) else 1.0,
        )
        axes = self._draw_heat(box, heat, panel.valid, captions.scale(panel, method, class_id))
        draw_note(axes, captions.note(panel, method, class_id))
        self._mark(axes, panel.grid.window)

    def _draw_own(self, box: Box, own: ObjectMap, pixels: Image) -> None:
        """Draw the object's own map; where parts meet, the highest."""
        values = np.zeros(own.valid.shape)
        for part in own.parts:
            at = part.window.slices(own.window)
            np.maximum(values[at], smooth(part.heat, part.window.shape), out=values[at])
        heat = _Heat(values, own.extent, None if own.is_pixelwise else pixels)
        axes = self._draw_heat(box, heat, own.valid, captions.own_scale(own))
        draw_note(axes, "" if own.extent[1] else captions.EMPTY)
        self._mark(axes, own.window)

    def _draw_heat(self, box: Box, heat: _Heat, valid: Mask, numbers: tuple[str, str, str]) -> Axes:
        """Draw a map, and under it its colours from the lowest to the highest value."""
        image = self.ramp.picture(stretched(heat.values, *heat.extent), heat.tile, heat.factor)
        axes = self._picture(box, image, valid, smooth=heat.tile is not None)
        if heat.extent[1] == 0:
            return axes
        shades, ground = np.linspace(0, 1, 256)[None], np.full((1, 256, 3), GROUND)
        colours = self.ramp.picture(shades, None if heat.tile is None else ground, heat.factor)
        y = box.bottom + 0.08
        self.sheet.axes(box.x, y, box.width, BAR).imshow(colours, aspect="auto")
        self._write_scale(box, y + BAR + 0.03, *numbers)
        return axes

    def _write_scale(self, box: Box, y: float, low: str, high: str, unit: str) -> None:
        """Write the ends and the unit of a colour bar under it."""
        self.sheet.text(box.x, y, low, SMALL, color=FAINT)
        self.sheet.text(box.x + box.width, y, high, SMALL, align="right")
        ends = 2 * max(width_cm(low, SMALL), width_cm(high, SMALL)) + GAP
        size = fitting(unit, box.width - ends, SMALL)
        self.sheet.text(box.x + box.width / 2, y, unit, size, color=FAINT, align="center")

    def _mark(self, axes: Axes, window: Window) -> None:
        """Mark the detection or the place that the panel is about."""
        panel = self.panel
        if panel.detection:
            draw_outline(axes, panel.detection.outline, window)
        else:
            draw_cross(axes, panel.grid.to_pixels(np.array([panel.point]))[0], window)

    def _write_numbers(self, own: ObjectMap, x: float) -> float:
        """Write the numbers of the own map beside it, each with a bar; return the lower end."""
        y, width = self.y, self.sheet.width - MARGIN - x
        for heading, measures in captions.own_measures(own).items():
            self._write_fitted(x, y, width, heading, PLAIN)
            y += line_cm(PLAIN)
            for measure in measures:
                self.sheet.text(x, y, measure.number, PLAIN, weight="bold")
                left = max(NUMBER, width_cm(measure.number, PLAIN, "bold") + GAP)
                self._write_fitted(x + left, y, width - left, measure.text, PLAIN, color=FAINT)
                y += line_cm(PLAIN) - BAR_HEIGHT
                self._draw_track(x, y, width, measure.value)
                y += 2.5 * BAR_HEIGHT
            y += GAP / 2
        for line in wrapped(captions.verdict(own), width, PLAIN):
            self.sheet.text(x, y, line, PLAIN)
            y += line_cm(PLAIN)
        return y

    def _draw_track(self, x: float, y: float, width: float, value: float) -> None:
        """Draw a number of 0..1 as a bar; others are cut there."""
        axes = self.sheet.axes(x, y, width, BAR_HEIGHT)
        axes.set_facecolor(TRACK)
        if np.isfinite(value):
            axes.barh(0.5, np.clip(value, 0, 1), height=1, color=FILLED)
        axes.set(xlim=(0, 1), ylim=(0, 1))

    def _write_legend(self, x: float) -> float:
        """Write the predicted area of each class beside its colour; return the lower end."""
        panel, y = self.panel, self.y + line_cm(PLAIN)
        width = self.sheet.width - MARGIN - x
        for class_id, entry in enumerate(panel.classes[1:], start=1):
            self._swatch(x, y, entry.color)
            inner = x + SWATCH + GAP
            for text in (*wrapped(entry.name, width - SWATCH - GAP, PLAIN, "bold"),):
                self.sheet.text(inner, y, text, PLAIN, weight="bold")
                y += line_cm(PLAIN)
            text = captions.predicted(panel, class_id)
            self._write_fitted(inner, y, width - SWATCH - GAP, text, SMALL, color=FAINT)
            y += line_cm(SMALL) + GAP
        return y
