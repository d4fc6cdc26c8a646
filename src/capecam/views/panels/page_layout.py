"""A page laid out in centimetres from its upper left corner, and text that fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text

from capecam.views.palette import DARK

FONT = "DejaVu Sans"
"""Font that matplotlib brings with it."""

INCH = 2.54
"""Centimetres."""
POINT = INCH / 72
LEADING = 1.45
"""Line spacing relative to the text size."""

MEASURE_SCALE = 32
"""Factor by which text is enlarged to be measured, so that rounding to pixels has no effect."""

QUALITY = 85
"""Quality of WebP and JPEG, 0..100."""

TEXT: Any = {"pdf.fonttype": 42, "text.hinting": "none"}
"""Settings of matplotlib: searchable text in PDF, and no hinting, which puts letters on whole
pixels and makes lines up to 5 % wider or narrower, depending on the resolution."""

SEPARATOR = "  ·  "


class Box(NamedTuple):
    """A rectangle on a page, in cm from the upper left corner."""

    x: float
    y: float
    width: float
    height: float

    @property
    def bottom(self) -> float:
        """Lower edge."""
        return self.y + self.height

    def moved(self, x: float) -> Box:
        """Return the box moved to the right."""
        return self._replace(x=self.x + x)


@dataclass(frozen=True, slots=True)
class Drawing:
    """A finished figure."""

    figure: Figure

    @property
    def width_in(self) -> float:
        """Return the width in inches."""
        return float(self.figure.get_figwidth())

    def write(self, file: Path | IO[bytes], kind: str, dpi: float) -> None:
        """Write png, pdf, webp or jpeg; the same figure gives the same bytes."""
        options: dict[str, Any] = {}
        if kind == "pdf":
            options["metadata"] = {"CreationDate": None}
        elif kind != "png":
            options["pil_kwargs"] = {"quality": QUALITY}
        with matplotlib.rc_context(TEXT):
            self.figure.savefig(file, format=kind, dpi=dpi, **options)


class Sheet:
    """A white page of a known width, cut to its height when all is on it."""

    def __init__(self, width: float) -> None:
        self.width = width
        # Figure, and not pyplot, which keeps state and may need a display.
        self._figure = Figure(facecolor="white")
        self._axes: list[tuple[Axes, tuple[float, float, float, float]]] = []
        self._texts: list[tuple[Text, tuple[float, float]]] = []

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Add axes for an image, without ticks or a frame."""
        axes = self._figure.add_axes((0, 0, 1, 1))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        self._axes.append((axes, (x, y, width, height)))
        return axes

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        *,
        color: str = DARK,
        weight: str = "normal",
        align: Literal["left", "center", "right"] = "left",
    ) -> None:
        """Add one line of text with its top at y."""
        line = self._figure.text(
            0, 0, text, family=FONT, size=size, color=color, weight=weight, va="top", ha=align,
            parse_math=False,
        )  # fmt: skip
        self._texts.append((line, (x, y)))

    def cut(self, height: float) -> Drawing:
        """Set the height of the page, and the positions of everything on it."""
        self._figure.set_size_inches(self.width / INCH, height / INCH)
        for axes, (x, y, w, h) in self._axes:
            box = x / self.width, 1 - (y + h) / height, w / self.width, h / height
            axes.set_position(box)
        for line, (x, y) in self._texts:
            line.set_position((x / self.width, 1 - y / height))
        return Drawing(self._figure)


def line_cm(size: float) -> float:
    """Return the height of a line of text."""
    return size * POINT * LEADING


def width_cm(text: str, size: float, weight: str = "normal") -> float:
    """Return the width of a line of text."""
    font = get_font(findfont(FontProperties(family=FONT, weight=weight)))
    font.set_size(size * MEASURE_SCALE, dpi=72)  # at 72 dpi its units are points / 64
    font.set_text(text)
    return float(font.get_width_height()[0]) / 64 / MEASURE_SCALE * POINT


def wrapped(text: str, width: float, size: float, weight: str = "normal") -> list[str]:
    """Return lines of at most ``width`` cm, broken between words, and inside words if needed."""
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
    """Return lines of at most ``width`` cm of parts with dots between them, broken between parts.

    Parts that are too long are wrapped.
    """
    lines = [""]
    for part in parts:
        longer = f"{lines[-1]}{SEPARATOR}{part}" if lines[-1] else part
        if width_cm(longer, size) <= width:
            lines[-1] = longer
        else:
            lines += wrapped(part, width, size)
    return [line for line in lines if line]


def fitting(text: str, width: float, size: float, weight: str = "normal") -> float:
    """Return the largest size, at most ``size``, at which a line is at most ``width`` cm wide."""
    needed = width_cm(text, size, weight)
    return size if needed <= width else size * width / needed
