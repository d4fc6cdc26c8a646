"""Tables for people: columns that line up, and text that is wrapped."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import zip_longest

WIDTH = 100
"""Characters of a line."""

GAP = "  "


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int = WIDTH) -> str:
    """Rows under a head. Columns are as wide as they need to be; where that is too much, the wide
    ones share what is left, and their text is wrapped.
    """
    lines = [head, *rows]
    natural = [max(len(row[column]) for row in lines) for column in range(len(head))]
    widths = _fitting(natural, width - len(GAP) * (len(head) - 1))
    made = [_lines(row, widths) for row in lines]
    made.insert(1, [GAP.join("-" * column for column in widths)])
    return "\n".join(line for row in made for line in row)


def key_value_table(pairs: Sequence[tuple[str, str]], width: int = WIDTH) -> str:
    """A name and a text a line, which goes on under itself."""
    first = max(len(name) for name, _ in pairs)
    widths = first, max(width - first - len(GAP), 20)
    rows = [_lines(pair, widths, whole=True) for pair in pairs]  # paths are there to be copied
    return "\n".join(line for row in rows for line in row)


def _fitting(natural: Sequence[int], most: int) -> list[int]:
    """Widths of columns: those that need little get it."""
    widths = list(natural)
    left, columns = most, len(natural)
    for column in sorted(range(len(natural)), key=lambda column: natural[column]):
        widths[column] = min(natural[column], max(left // columns, 10))
        left, columns = left - widths[column], columns - 1
    return widths


def _lines(row: Sequence[str], widths: Sequence[int], *, whole: bool = False) -> list[str]:
    """Of one row; with ``whole``, words longer than their column stick out."""
    wrapped = [
        textwrap.wrap(
            text,
            width,
            subsequent_indent=" ",
            break_long_words=not whole,
            break_on_hyphens=False,
        )
        or [""]
        for text, width in zip(row, widths, strict=True)
    ]
    return [
        GAP.join(f"{part:<{width}}" for part, width in zip(parts, widths, strict=True)).rstrip()
        for parts in zip_longest(*wrapped, fillvalue="")
    ]
