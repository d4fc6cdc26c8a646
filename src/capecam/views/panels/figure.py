"""A panel as a figure: a block of maps per class, laid out in centimetres.

There is no layout engine: the contents are known in advance, so positions are computed, and long
names move nothing.
"""

from __future__ import annotations

from math import ceil

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from capecam.attribution.methods import resample
from capecam.settings import PIXEL_METHODS, TITLES
from capecam.views.panels import captions
from capecam.views.panels.page_layout import (
    FAINT,
    INK,
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
    GAMMA,
    HeatColormap,
    Image,
    draw_cross,
    draw_edges,
    draw_image,
    draw_note,
    draw_outline,
    draw_scale_bar,
    stretched,
    tinted,
)

MARGIN, GAP, SPACE = 0.6, 0.2, 0.4
"""Distances in cm: around the page, between maps, and between blocks."""
WIDTHS = {3: 18.0, 4: 21.0}
MAX_WIDTH = 24.0
"""Width of the figure in cm by its number of columns: a page in portrait or landscape."""
MAX_METHODS = 4
"""Maximum number of methods in one line; more continue in further lines of the same class."""

TITLE, PLAIN, SMALL = 13.0, 8.0, 6.5
"""Text sizes in points."""

SWATCH = 0.28
"""Edge in cm of the square in the colour of a class."""
BAR = 3.2, 0.2
"""Width and height in cm of a colour bar."""
GROUND = 0.5
"""Grey of 0..1 under the colour bar of heat over a tile."""


def draw_panel(panel: PanelData, style: PanelStyle) -> Drawing:
    """Draw a panel."""
    page = _Page(panel, COLORMAPS[style.ramp])
    page.head()
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
        columns = 2 + per_line
        self.sheet, self.y = Sheet(WIDTHS.get(columns, MAX_WIDTH)), MARGIN
        self.inner = self.sheet.width - 2 * MARGIN
        self.cell = (self.inner - (columns - 1) * GAP) / columns
        self.cell_h = self.cell * panel.pixel_m[1] / panel.pixel_m[0]

    def head(self) -> None:
        """Write the title and the measures of the detection."""
        x, right = MARGIN, self.sheet.width - MARGIN
        detection, title = self.panel.detection, captions.title(self.panel)
        if detection:
            word = str(detection.row["evidence"])
            self.sheet.text(right, self.y, word, TITLE, align="right", weight="bold")
            right -= width_cm(word, TITLE, "bold") + GAP
            self.sheet.text(right, self.y, "evidence:", TITLE, align="right", color=FAINT)
            right -= width_cm(f"evidence:{detection.id}", TITLE) + 2 * SPACE
        size = fitting(title, right - x, TITLE, "bold")
        self.sheet.text(x, self.y, title, size, weight="bold")
        if detection:
            x += width_cm(title, size, "bold") + SPACE
            self.sheet.text(x, self.y, detection.id, TITLE, color=FAINT)
        self.y += line_cm(TITLE)
        for parts in captions.caption_lines(self.panel):
            self._write(joined(parts, self.inner, PLAIN), MARGIN, PLAIN, FAINT)
        self.y += SPACE

    def block(self, class_id: int) -> None:
        """Draw the row of a class: its name, the tile, the prediction, and a map per method."""
        entry, x = self.panel.classes[class_id], MARGIN + SWATCH + GAP
        self.sheet.axes(MARGIN, self.y, SWATCH, SWATCH).set_facecolor(entry.color)
        name = wrapped(entry.name, self._x(2) - GAP - x, PLAIN, "bold")
        self._write(name, x, PLAIN, weight="bold")
        self.y -= line_cm(PLAIN)  # names of methods are beside the last line
        for number, methods in enumerate(self.lines):
            for column, method in enumerate(methods, start=2):
                self._write_fitted(column, self.y, TITLES[method], PLAIN)
            self.y += line_cm(PLAIN)
            if number == 0:
                self._draw_imagery()
                self._draw_prediction(class_id)
            for column, method in enumerate(methods, start=2):
                self._draw_map(column, method, class_id)
            self.y += self.cell_h + line_cm(SMALL) + SPACE

    def foot(self) -> None:
        """Write how to read the maps, and draw the colour bars."""
        heat = np.linspace(0, 1, 256)[None]
        pixelwise = [method in PIXEL_METHODS for method in self.panel.heat]
        bars = {}
        if not all(pixelwise):
            bars["CAMs"] = self.ramp.over(np.full((1, 256, 3), GROUND), heat)
        if any(pixelwise):
            bars["Guided (square root)"] = self.ramp.colours(heat**GAMMA)
        x, top = self.sheet.width - MARGIN - len(bars) * (BAR[0] + SPACE) + SPACE, self.y
        text = wrapped(captions.footer(self.panel), x - SPACE - MARGIN, SMALL)
        self._write(text, MARGIN, SMALL, FAINT)
        for n, (label, image) in enumerate(bars.items()):
            self._draw_bar(x + n * (BAR[0] + SPACE), top, image, label)
        self.y = max(self.y, top + 3 * line_cm(SMALL))

    def _write(
        self, lines: list[str], x: float, size: float, color: str = INK, weight: str = "normal"
    ) -> None:
        for line in lines:
            self.sheet.text(x, self.y, line, size, color=color, weight=weight)
            self.y += line_cm(size)

    def _write_fitted(
        self, column: int, y: float, text: str, size: float, color: str = INK
    ) -> None:
        """Write a text, in a smaller size if it is wider than its column."""
        size = fitting(text, self.cell, size)
        self.sheet.text(self._x(column), y, text, size, color=color)

    def _x(self, column: int) -> float:
        return MARGIN + column * (self.cell + GAP)

    def _draw(self, column: int, image: Image, caption: str, *, smooth: bool = True) -> Axes:
        axes = self.sheet.axes(self._x(column), self.y, self.cell, self.cell_h)
        draw_image(axes, image, self.panel.valid, smooth=smooth)
        self._write_fitted(column, self.y + self.cell_h + 0.08, caption, SMALL, FAINT)
        return axes

    def _draw_imagery(self) -> None:
        axes = self._draw(0, self.tile, captions.imagery(self.panel))
        draw_scale_bar(axes, self.panel.pixel_m[0], len(self.tile))

    def _draw_prediction(self, class_id: int) -> None:
        panel = self.panel
        image = tinted(self.tile, panel.predicted, self.colours, class_id)
        axes = self._draw(1, image, captions.predicted(panel, class_id))
        for k in range(1, len(self.colours)):
            draw_edges(axes, (panel.predicted == k) & panel.valid, self.colours[k])
        self._mark(axes)

    def _draw_map(self, column: int, method: str, class_id: int) -> None:
        panel, pixelwise = self.panel, method in PIXEL_METHODS
        heat = panel.heat[method][class_id - 1]
        if not pixelwise:
            heat = resample(torch.from_numpy(heat), len(self.tile)).numpy()
        relative = stretched(heat, panel.valid)
        image = (
            self.ramp.colours(relative**GAMMA) if pixelwise else self.ramp.over(self.tile, relative)
        )
        caption = captions.strength(panel, method, class_id)
        axes = self._draw(column, image, caption, smooth=not pixelwise)
        if not heat.any():
            draw_note(axes, "empty")
        self._mark(axes)

    def _mark(self, axes: Axes) -> None:
        """Mark the detection or the place that the panel is about."""
        panel = self.panel
        if panel.detection:
            draw_outline(axes, panel.detection.outline, panel.grid.window)
        else:
            point = panel.grid.to_pixels(np.array([panel.point]))[0]
            draw_cross(axes, point, panel.grid.window)

    def _draw_bar(self, x: float, y: float, image: Image, label: str) -> None:
        self.sheet.axes(x, y + 0.04, *BAR).imshow(image, aspect="auto")
        y += BAR[1] + 0.1
        self.sheet.text(x, y, "lowest", SMALL, color=FAINT)
        self.sheet.text(x + BAR[0], y, "highest", SMALL, color=FAINT, align="right")
        self.sheet.text(x, y + line_cm(SMALL), label, SMALL, color=FAINT)
