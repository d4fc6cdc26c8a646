"""HTML that notebooks show in place of a result's ``repr``: tables and small pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

PICTURE_PX = 112
"""Width of a small picture on the page."""

QUALITY = 85
"""Quality of JPEG."""

NO_PIXEL = "#ECECEC"
"""Colour of what is transparent."""


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> Html:
    """Return a table; cells are escaped, unless they are :class:`Html`."""
    lines = [_row("th", head)] if head else []
    lines += [_row("td", row) for row in rows]
    return Html(f"<table>{''.join(lines)}</table>")


def small_picture(pixels: NDArray[np.uint8], alt: str, width_px: int = PICTURE_PX) -> Html:
    """Return (H, W, 3 or 4) pixels as a small picture, enlarged without smoothing if need be."""
    from PIL import Image  # noqa: PLC0415 slow to import

    image = Image.fromarray(pixels)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, NO_PIXEL), image)
    height_px = max(1, width_px * image.height // image.width)
    smaller = image.width > width_px
    method = Image.Resampling.BOX if smaller else Image.Resampling.NEAREST
    stream = io.BytesIO()
    image.convert("RGB").resize((width_px, height_px), method).save(stream, "JPEG", quality=QUALITY)
    data = base64.b64encode(stream.getvalue()).decode()
    return Html(f'<img src="data:image/jpeg;base64,{data}" width="{width_px}" alt="{escape(alt)}">')


def heat_colors(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the colours (H, W, 3) of values (H, W) of 0..1."""
    import matplotlib  # noqa: PLC0415 slow to import

    return np.asarray(matplotlib.colormaps["inferno"](values, bytes=True))[..., :3]


def swatch(color: str) -> Html:
    """Return a small square of a colour #RRGGBB."""
    return Html(f'<span style="color:{color}">&#9632;</span>')


def joined(*parts: str) -> Html:
    """Return texts after each other; they are escaped, unless they are :class:`Html`."""
    return Html("".join(map(_escaped, parts)))


def _row(tag: str, cells: Sequence[str]) -> str:
    style = ' style="text-align:left"'
    return f"<tr>{''.join(f'<{tag}{style}>{_escaped(cell)}</{tag}>' for cell in cells)}</tr>"


def _escaped(text: str) -> str:
    return text if isinstance(text, Html) else escape(text)
