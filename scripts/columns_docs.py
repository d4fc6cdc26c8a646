"""Write the table of columns in docs/outputs.md. A test compares it with the code."""

from __future__ import annotations

import re
from pathlib import Path

from capecam.detections.column_descriptions import (
    AFTER_HEATMAPS,
    BEFORE_HEATMAPS,
    HEATMAP_COLUMNS,
    Column,
)

PAGE = Path(__file__).parents[1] / "docs" / "outputs.md"
TABLE = re.compile(r"(<!-- columns -->\n).*?(\n<!-- end -->)", re.DOTALL)


def fill(text: str) -> str:
    """Return the page with the table written again."""
    of_methods = {f"<method>_{end}": column for end, column in HEATMAP_COLUMNS.items()}
    columns = BEFORE_HEATMAPS | of_methods | AFTER_HEATMAPS
    lines = ["| column | unit | meaning |", "|---|---|---|", *map(row, columns.items())]
    return TABLE.sub(lambda found: found[1] + "\n".join(lines) + found[2], text)


def row(entry: tuple[str, Column]) -> str:
    """Return a row of the table."""
    name, column = entry
    meaning = column.meaning.replace("<class_id>_<col>_<row>", "`<class_id>_<col>_<row>`")
    more = f": [method.md](method.md#{column.section})" if column.section else ""
    return f"| `{name}` | {column.unit} | {meaning}{more} |".replace("|  |", "| |")


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
