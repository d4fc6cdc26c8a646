"""Tables for people, the same on a terminal and in a file."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

WIDTH = 100
"""Characters of a line."""


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int = WIDTH) -> str:
    """Return rows under a head, with text wrapped where a line would be too long."""
    table = Table(box=box.MARKDOWN)
    for name in head:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(width=width, color_system=None, markup=False, emoji=False, highlight=False)
    with console.capture() as printed:
        console.print(table)
    return printed.get().strip()


def key_value_table(pairs: Sequence[tuple[str, str]]) -> str:
    """Return a line per name and text, wrapped between words, so that paths can be copied."""
    column = max(len(name) for name, _ in pairs) + 2
    return "\n".join(
        textwrap.fill(
            text,
            max(WIDTH, column + 20),
            initial_indent=name.ljust(column),
            subsequent_indent=" " * (column + 1),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for name, text in pairs
    )
