"""A panel as a figure: a block of maps for each class, placed by the centimetre.

No layout engine: what is on the page is known, so nothing has to be negotiated, and nothing moves
when a name is long.
"""

from __future__ import annotations

from math import ceil

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from capecam.attribution import resample
from capecam.panels import marks, words
from capecam.panels.paint import RAMPS, TONE, Image, clear, stretched, tinted
from capecam.panels.panel import Panel, Style
from capecam.panels.sheet import FAINT, Drawing, Sheet, line_cm, width_cm, wrapped
from capecam.settings import PIXEL_METHODS

MARGIN, GAP, SPACE = 0.6, 0.2, 0.35
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


def draw(panel: Panel, style: Style) -> Drawing:
    """The whole figure."""
    page = _Page(panel, style)
    page.head()
    for class_id in page.rows:
        page.block(class_id)
    page.foot()
    return Drawing(page.sheet.figure)


class _Page:
    """Filled from top to bottom; ``y`` is where it goes on."""

    def __init__(self, panel: Panel, style: Style) -> None:
        self.panel, self.ramp, self.rows = panel, RAMPS[style.ramp], panel.rows(style)
        self.tile = panel.pixels / 255
        self.colours = np.array([to_rgb(entry.color) for entry in panel.classes])
        self._columns()
        self._texts()
        self.y = MARGIN
        self.sheet = Sheet(self.width, self._height())

    def _columns(self) -> None:
        """How methods are spread over lines, and the size of a map."""
        methods = list(self.panel.heat)
        across = ceil(len(methods) / ceil(len(methods) / MOST_METHODS))
        self.lines = [methods[n : n + across] for n in range(0, len(methods), across)]
        columns = 2 + across
        self.width = WIDTHS.get(columns, WIDEST)
        self.inner = self.width - 2 * MARGIN
        self.cell = (self.inner - (columns - 1) * GAP) / columns
        self.cell_h = self.cell * self.panel.pixel_m[1] / self.panel.pixel_m[0]

    def _texts(self) -> None:
        """Broken into lines, so that heights are known."""
        panel, beside = self.panel, self.inner - 2 * (BAR[0] + SPACE)
        room = 2 * self.cell + GAP - CHIP - GAP
        self.names = {k: wrapped(panel.classes[k].name, room, PLAIN, "bold") for k in self.rows}
        facts = words.facts(panel)
        self.facts = [line for fact in facts for line in wrapped(fact, self.inner, PLAIN)]
        self.footing = wrapped(words.footing(panel), beside, SMALL)

    def _height(self) -> float:
        blocks = sum(self._strip(k) + len(self.lines) * self._line() + SPACE for k in self.rows)
        extra = (len(self.lines) - 1) * len(self.rows) * line_cm(PLAIN)
        head = line_cm(TITLE) + len(self.facts) * line_cm(PLAIN) + SPACE
        foot = max(len(self.footing) * line_cm(SMALL), 3 * line_cm(SMALL))
        return 2 * MARGIN + head + blocks + extra + foot

    def _strip(self, class_id: int) -> float:
        """Height of what stands above a class's maps."""
        return len(self.names[class_id]) * line_cm(PLAIN)

    def _line(self) -> float:
        """Height of a line of maps with what stands below them."""
        return self.cell_h + line_cm(SMALL) + 0.12

    def head(self) -> None:
        """Title, and facts of the detection."""
        panel, sheet, x = self.panel, self.sheet, MARGIN
        title = words.title(panel)
        sheet.text(x, self.y, title, TITLE, weight="bold")
        if panel.subject:
            x += width_cm(title, TITLE, "bold") + SPACE
            sheet.text(x, self.y, panel.subject.id, TITLE, color=FAINT)
            self._evidence(str(panel.subject.facts["evidence"]))
        self.y += line_cm(TITLE)
        for line in self.facts:
            sheet.text(MARGIN, self.y, line, PLAIN, color=FAINT)
            self.y += line_cm(PLAIN)
        self.y += SPACE

    def _evidence(self, word: str) -> None:
        right = self.width - MARGIN
        self.sheet.text(right, self.y, word, TITLE, ha="right", weight="bold")
        right -= width_cm(word, TITLE, "bold") + GAP
        self.sheet.text(right, self.y, "evidence:", TITLE, ha="right", color=FAINT)

    def block(self, class_id: int) -> None:
        """A class: its name, the tile, the prediction, and a map for each method."""
        self._chip(class_id)
        for line in self.names[class_id]:
            self.sheet.text(MARGIN + CHIP + GAP, self.y, line, PLAIN, weight="bold")
            self.y += line_cm(PLAIN)
        self._titles(self.lines[0], self.y - line_cm(PLAIN))
        self._imagery(class_id)
        for number, methods in enumerate(self.lines):
            if number:
                self._titles(methods, self.y)
                self.y += line_cm(PLAIN)
            for n, method in enumerate(methods):
                self._map(self._x(2 + n), method, class_id)
            self.y += self._line()
        self.y += SPACE

    def _x(self, column: int) -> float:
        return MARGIN + column * (self.cell + GAP)

    def _chip(self, class_id: int) -> None:
        axes = self.sheet.axes(MARGIN, self.y + 0.02, CHIP, CHIP)
        axes.add_patch(
            Rectangle(
                (0, 0), 1, 1, facecolor=self.panel.classes[class_id].color, edgecolor="#333333"
            )
        )

    def _titles(self, methods: list[str], y: float) -> None:
        for n, method in enumerate(methods):
            self.sheet.text(self._x(2 + n), y, words.TITLES[method], PLAIN)

    def _imagery(self, class_id: int) -> None:
        panel = self.panel
        axes = self._image(0, clear(self.tile, panel.valid), words.imagery(panel), smooth=True)
        marks.scale_bar(axes, panel.pixel_m[0], len(self.tile))
        seen = tinted(self.tile, np.where(panel.valid, panel.decided, 0), self.colours, class_id)
        caption = words.predicted(panel, class_id)
        axes = self._image(1, clear(seen, panel.valid), caption, smooth=True)
        for k in range(1, len(self.colours)):
            marks.edges(axes, (panel.decided == k) & panel.valid, self.colours[k])
        self._subject(axes)

    def _map(self, x: float, method: str, class_id: int) -> None:
        panel, heat = self.panel, self.panel.heat[method][class_id - 1]
        pixelwise = method in PIXEL_METHODS
        if not pixelwise:
            heat = resample(torch.from_numpy(heat)[None], len(self.tile))[0].numpy()
        found = stretched(heat, panel.valid)
        shown = np.zeros(heat.shape) if found is None else found
        image = self.ramp.colours(shown**TONE) if pixelwise else self.ramp.over(self.tile, shown)
        column = round((x - MARGIN) / (self.cell + GAP))
        caption = words.strength(panel, method, class_id)
        axes = self._image(column, clear(image, panel.valid), caption, smooth=not pixelwise)
        self._subject(axes)

    def _image(self, column: int, image: Image, caption: str, *, smooth: bool) -> Axes:
        axes = self.sheet.axes(self._x(column), self.y, self.cell, self.cell_h)
        marks.show(axes, image, smooth=smooth)
        self.sheet.text(self._x(column), self.y + self.cell_h + 0.08, caption, SMALL, color=FAINT)
        return axes

    def _subject(self, axes: Axes) -> None:
        if self.panel.subject:
            marks.outline(axes, self.panel.subject.region, self.panel.grid.window)

    def foot(self) -> None:
        """How to read it, and the colour bars."""
        for n, line in enumerate(self.footing):
            self.sheet.text(MARGIN, self.y + n * line_cm(SMALL), line, SMALL, color=FAINT)
        heat = np.linspace(0, 1, 256)[None]
        ground = np.full((1, 256, 3), 0.55)
        bars = {
            "CAMs": self.ramp.over(ground, heat),
            "Guided (square root)": self.ramp.colours(heat**TONE),
        }
        for n, (label, image) in enumerate(bars.items()):
            x = self.width - MARGIN - (2 - n) * BAR[0] - (1 - n) * SPACE
            axes = self.sheet.axes(x, self.y, *BAR)
            axes.imshow(image, aspect="auto")
            y = self.y + BAR[1] + 0.06
            self.sheet.text(x, y, "lowest", SMALL, color=FAINT)
            self.sheet.text(x + BAR[0], y, "highest", SMALL, color=FAINT, ha="right")
            self.sheet.text(x, y + line_cm(SMALL), label, SMALL, color=FAINT)
