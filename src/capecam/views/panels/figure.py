"""A panel as a figure: a block of maps for each class, placed by the centimetre.

No layout engine: what is on the page is known, so nothing has to be negotiated, and nothing moves
when a name is long.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from capecam.attribution.methods import resample
from capecam.settings import PIXEL_METHODS, TITLES
from capecam.views.panels import captions, overlays
from capecam.views.panels.colorize import RAMPS, TONE, HeatColormap, Image, clear, stretched, tinted
from capecam.views.panels.page_layout import (
    FAINT,
    Drawing,
    Sheet,
    fitting,
    joined,
    line_cm,
    width_cm,
    wrapped,
)
from capecam.views.panels.tile_view import PanelStyle, View

MARGIN, GAP, SPACE = 0.6, 0.2, 0.4
"""cm: around everything, between maps, between blocks."""
WIDTHS = {3: 18.0, 4: 21.0}
WIDEST = 24.0
"""Width of the figure in cm, by its number of columns: a page, upright or across."""
MOST_METHODS = 4
"""In one line; more go to further lines of the same class."""

TITLE, PLAIN, SMALL = 13.0, 8.0, 6.5
"""Sizes of text, in points."""

CHIP = 0.28
"""cm, of a class's colour."""
BAR = 3.2, 0.2
"""cm, of a colour bar."""
GROUND = 0.5
"""Grey of 0..1 that the bar of heat over a tile is drawn on."""


def draw_panel(panel: View, style: PanelStyle) -> Drawing:
    """The whole figure."""
    page = _Page(panel, RAMPS[style.ramp])
    page.head()
    for class_id in panel.rows(style):
        page.block(class_id)
    page.foot()
    return page.sheet.cut(page.y + MARGIN)


class _Page:
    """Filled from top to bottom; ``y`` is where it goes on."""

    def __init__(self, panel: View, ramp: HeatColormap) -> None:
        self.panel, self.ramp, self.tile = panel, ramp, panel.pixels / 255
        self.colours = np.array([to_rgb(entry.color) for entry in panel.classes])
        methods = list(panel.heat)
        across = ceil(len(methods) / ceil(len(methods) / MOST_METHODS))
        self.lines = [methods[n : n + across] for n in range(0, len(methods), across)]
        columns = 2 + across
        self.sheet, self.y = Sheet(WIDTHS.get(columns, WIDEST)), MARGIN
        self.inner = self.sheet.width - 2 * MARGIN
        self.cell = (self.inner - (columns - 1) * GAP) / columns
        self.cell_h = self.cell * panel.pixel_m[1] / panel.pixel_m[0]

    def head(self) -> None:
        """Title, and facts of the detection."""
        x, right = MARGIN, self.sheet.width - MARGIN
        subject, title = self.panel.subject, captions.title(self.panel)
        if subject:
            word = str(subject.facts["evidence"])
            self.sheet.text(right, self.y, word, TITLE, ha="right", weight="bold")
            right -= width_cm(word, TITLE, "bold") + GAP
            self.sheet.text(right, self.y, "evidence:", TITLE, ha="right", color=FAINT)
            right -= width_cm(f"evidence:{subject.id}", TITLE) + 2 * SPACE
        size = fitting(title, right - x, TITLE, "bold")
        self.sheet.text(x, self.y, title, size, weight="bold")
        if subject:
            x += width_cm(title, size, "bold") + SPACE
            self.sheet.text(x, self.y, subject.id, TITLE, color=FAINT)
        self.y += line_cm(TITLE)
        for parts in captions.caption_lines(self.panel):
            self._lines(joined(parts, self.inner, PLAIN), MARGIN, PLAIN, color=FAINT)
        self.y += SPACE

    def _lines(self, lines: list[str], x: float, size: float, **how: Any) -> None:
        for line in lines:
            self.sheet.text(x, self.y, line, size, **how)
            self.y += line_cm(size)

    def block(self, class_id: int) -> None:
        """A class: its name, the tile, the prediction, and a map for each method."""
        entry, x = self.panel.classes[class_id], MARGIN + CHIP + GAP
        self.sheet.axes(MARGIN, self.y, CHIP, CHIP).set_facecolor(entry.color)
        room = self._x(2) - GAP - x
        self._lines(wrapped(entry.name, room, PLAIN, "bold"), x, PLAIN, weight="bold")
        self.y -= line_cm(PLAIN)  # the names of the methods stand beside the last line
        for number, methods in enumerate(self.lines):
            for column, method in enumerate(methods, start=2):
                self._fitted(column, self.y, TITLES[method], PLAIN)
            self.y += line_cm(PLAIN)
            if number == 0:
                self._imagery()
                self._prediction(class_id)
            for column, method in enumerate(methods, start=2):
                self._map(column, method, class_id)
            self.y += self.cell_h + line_cm(SMALL) + SPACE

    def _x(self, column: int) -> float:
        return MARGIN + column * (self.cell + GAP)

    def _fitted(self, column: int, y: float, text: str, size: float, **how: Any) -> None:
        """As wide as a column at most."""
        size = fitting(text, self.cell, size)
        self.sheet.text(self._x(column), y, text, size, **how)

    def _image(self, column: int, image: Image, caption: str, *, smooth: bool = True) -> Axes:
        axes = self.sheet.axes(self._x(column), self.y, self.cell, self.cell_h)
        overlays.show(axes, clear(image, self.panel.valid), smooth=smooth)
        self._fitted(column, self.y + self.cell_h + 0.08, caption, SMALL, color=FAINT)
        return axes

    def _imagery(self) -> None:
        axes = self._image(0, self.tile, captions.imagery(self.panel))
        overlays.scale_bar(axes, self.panel.pixel_m[0], len(self.tile))

    def _prediction(self, class_id: int) -> None:
        panel = self.panel
        image = tinted(self.tile, panel.decided, self.colours, class_id)
        axes = self._image(1, image, captions.predicted(panel, class_id))
        for k in range(1, len(self.colours)):
            overlays.edges(axes, (panel.decided == k) & panel.valid, self.colours[k])
        self._subject(axes)

    def _map(self, column: int, method: str, class_id: int) -> None:
        panel, pixelwise = self.panel, method in PIXEL_METHODS
        heat = panel.heat[method][class_id - 1]
        if not pixelwise:
            heat = resample(torch.from_numpy(heat), len(self.tile)).numpy()
        found = stretched(heat, panel.valid)
        image = self.ramp.colours(found**TONE) if pixelwise else self.ramp.over(self.tile, found)
        caption = captions.strength(panel, method, class_id)
        axes = self._image(column, image, caption, smooth=not pixelwise)
        if not heat.any():
            overlays.note(axes, "empty")
        self._subject(axes)

    def _subject(self, axes: Axes) -> None:
        """The detection, or the place, that the panel is about."""
        panel = self.panel
        if panel.subject:
            overlays.outline(axes, panel.subject.region, panel.grid.window)
        else:
            overlays.cross(
                axes, panel.grid.to_pixels(np.array([panel.place]))[0], panel.grid.window
            )

    def foot(self) -> None:
        """How to read it, and the colour bars."""
        heat = np.linspace(0, 1, 256)[None]
        pixelwise = [method in PIXEL_METHODS for method in self.panel.heat]
        bars = {}
        if not all(pixelwise):
            bars["CAMs"] = self.ramp.over(np.full((1, 256, 3), GROUND), heat)
        if any(pixelwise):
            bars["Guided (square root)"] = self.ramp.colours(heat**TONE)
        x, top = self.sheet.width - MARGIN - len(bars) * (BAR[0] + SPACE) + SPACE, self.y
        self._lines(
            wrapped(captions.footing(self.panel), x - SPACE - MARGIN, SMALL),
            MARGIN,
            SMALL,
            color=FAINT,
        )
        for n, (label, image) in enumerate(bars.items()):
            self._bar(x + n * (BAR[0] + SPACE), top, image, label)
        self.y = max(self.y, top + 3 * line_cm(SMALL))

    def _bar(self, x: float, y: float, image: Image, label: str) -> None:
        self.sheet.axes(x, y + 0.04, *BAR).imshow(image, aspect="auto")
        y += BAR[1] + 0.1
        self.sheet.text(x, y, "lowest", SMALL, color=FAINT)
        self.sheet.text(x + BAR[0], y, "highest", SMALL, color=FAINT, ha="right")
        self.sheet.text(x, y + line_cm(SMALL), label, SMALL, color=FAINT)
