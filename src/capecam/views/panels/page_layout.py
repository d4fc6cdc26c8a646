"""A page measured in centimetres from its top left corner, and text that is known to fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text

FONT = "DejaVu Sans"
"""Comes with matplotlib, so it is always there."""

INCH = 2.54
"""cm."""
POINT = INCH / 72
LEADING = 1.45
"""From line to line, by the size of the text."""

FINELY = 32
"""Letters are measured so much larger, where a pixel does not matter."""

QUALITY = 85
"""Of webp and jpeg, 0..100."""

TEXT: Any = {"pdf.fonttype": 42, "text.hinting": "none"}
"""In a PDF, text that can be searched; on a screen, letters where they belong: hinting puts them on
whole pixels, and lines come out up to 5 % wider or narrower, by the resolution."""

DOT = "  ·  "

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
        with matplotlib.rc_context(TEXT):
            self.figure.savefig(file, format=kind, dpi=dpi, **options)


class Sheet:
    """A white page that is filled from the top, and cut off when all is on it."""

    def __init__(self, width: float) -> None:
        self.width = width
        # Figure, and not pyplot, which keeps state and may want a screen.
        self._figure = Figure(facecolor="white")
        self._axes: list[tuple[Axes, tuple[float, float, float, float]]] = []
        self._texts: list[tuple[Text, tuple[float, float]]] = []

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """For an image, with nothing around it."""
        axes = self._figure.add_axes((0, 0, 1, 1))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        self._axes.append((axes, (x, y, width, height)))
        return axes

    def text(self, x: float, y: float, text: str, size: float, **how: Any) -> None:
        """One line with its top at y."""
        how = {"color": INK, "va": "top", **how}
        line = self._figure.text(0, 0, text, family=FONT, size=size, parse_math=False, **how)
        self._texts.append((line, (x, y)))

    def cut(self, height: float) -> Drawing:
        """Everything at its place."""
        self._figure.set_size_inches(self.width / INCH, height / INCH)
        for axes, (x, y, w, h) in self._axes:
            box = x / self.width, 1 - (y + h) / height, w / self.width, h / height
            axes.set_position(box)
        for line, (x, y) in self._texts:
            line.set_position((x / self.width, 1 - y / height))
        return Drawing(self._figure)


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


def joined(parts: Sequence[str], width: float, size: float) -> list[str]:
    """Parts side by side with dots between them, in lines that break between parts."""
    lines = [""]
    for part in parts:
        longer = f"{lines[-1]}{DOT}{part}" if lines[-1] else part
        if width_cm(longer, size) <= width:
            lines[-1] = longer
        else:
            *before, last = wrapped(part, width, size)
            lines += [*before, last]
    return [line for line in lines if line]


def fitting(text: str, width: float, size: float, weight: str = "normal") -> float:
    """The size at which a line is no wider than ``width`` cm; no larger than ``size``."""
    needed = width_cm(text, size, weight)
    return size if needed <= width else size * width / needed
