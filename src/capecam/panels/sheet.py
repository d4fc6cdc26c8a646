"""A page measured in centimetres from its top left corner, and text that is known to fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

FONT = "DejaVu Sans"
"""Comes with matplotlib, so it is always there."""

INCH = 2.54
"""cm."""
POINT = INCH / 72
LEADING = 1.45
"""From line to line, by the size of the text."""

FINELY = 32
"""Letters are measured so much larger: hinting rounds them to whole pixels."""

QUALITY = 85
"""Of webp and jpeg, 0..100."""

INK, FAINT = "#1a1a1a", "#5f5f5f"


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure, ready to be written."""

    figure: Figure

    @property
    def width_in(self) -> float:
        """In inches."""
        return float(self.figure.get_figwidth())

    def write(self, file: Path | IO[bytes], kind: str, dpi: float) -> None:
        """As png, pdf, webp or jpeg, the same bytes each time."""
        options: dict[str, Any] = {}
        if kind == "pdf":
            options["metadata"] = {"CreationDate": None}
        elif kind != "png":
            options["pil_kwargs"] = {"quality": QUALITY}
        with matplotlib.rc_context({"pdf.fonttype": 42}):  # text that can be searched and edited
            self.figure.savefig(file, format=kind, dpi=dpi, **options)


class Sheet:
    """A white page."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        # Figure, and not pyplot, which keeps state and may want a screen.
        self.figure = Figure(figsize=(width / INCH, height / INCH), facecolor="white")

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """For an image, with nothing around it."""
        left, bottom = x / self.width, 1 - (y + height) / self.height
        axes = self.figure.add_axes((left, bottom, width / self.width, height / self.height))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        return axes

    def text(self, x: float, y: float, text: str, size: float, **how: Any) -> None:
        """One line with its top at y."""
        how = {"color": INK, "va": "top", **how}
        place = x / self.width, 1 - y / self.height
        self.figure.text(*place, text, family=FONT, size=size, parse_math=False, **how)


def line_cm(size: float) -> float:
    """Height of a line of text."""
    return size * POINT * LEADING


def width_cm(text: str, size: float, weight: str = "normal") -> float:
    """Of a line of text."""
    font = get_font(findfont(FontProperties(family=FONT, weight=weight)))
    font.set_size(size * FINELY, dpi=72)  # then its units are points / 64
    font.set_text(text)
    return float(font.get_width_height()[0]) / 64 / FINELY * POINT


def wrapped(text: str, width: float, size: float, weight: str = "normal") -> list[str]:
    """Lines of at most ``width`` cm, broken between words, and inside words that are too long."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if width_cm(longer, size, weight) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and width_cm(lines[-1] + letter, size, weight) > width:
                lines.append("")
            lines[-1] += letter
    return lines
