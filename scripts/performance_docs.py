"""Fill the tables of pages of docs/ from benchmarks/results/; a test compares.

A table stands between two comments. The first one names the CSV file and the columns: the heading,
and after a colon the column and a Python format, where these differ from the heading::

    <!-- results engine-cpu: way | tiles/s: tiles_per_s .3g; task = nine maps; batch = 8 -->
    <!-- end -->

Conditions select rows; ``rows = 2-5`` selects by number. Below the table are the commits and the
machines on which its rows were measured, from the same file.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = tuple(ROOT / "docs" / f"{name}.md" for name in ("performance", "method", "review"))
TABLE = re.compile(r"(<!-- results ([\w-]+): (.*?) -->)\n.*?<!-- end -->", re.DOTALL)

Row = dict[str, str]


def fill(text: str) -> str:
    """Return a page with all of its tables written again."""
    return TABLE.sub(_table, text)


def _table(match: re.Match[str]) -> str:
    columns, *conditions = (part.strip() for part in match[3].replace("\n", " ").split(";"))
    rows = _select(match[2], conditions)
    if not rows:
        raise ValueError(f"{match[2]}.csv has no row with {conditions}")
    headings, keys = [], []
    for column in columns.split("|"):
        heading, _, key = column.strip().partition(": ")
        headings.append(heading)
        keys.append((key or heading).partition(" "))
    lines = [headings, ["---"] * len(headings)]
    lines += [[_cell(row[key], form) for key, _, form in keys] for row in rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{match[1]}\n{table}\n\n{_origin(rows)}\n<!-- end -->"


def _select(name: str, conditions: list[str]) -> list[Row]:
    with (ROOT / "benchmarks" / "results" / f"{name}.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for condition in conditions:
        key, _, value = condition.partition(" = ")
        if key == "rows":
            first, last = map(int, value.split("-"))
            rows = rows[first - 1 : last]
        else:
            rows = [row for row in rows if row[key] == value]
    return rows


def _cell(text: str, form: str) -> str:
    return f"{float(text):{form}}" if form and text else text


def _origin(rows: list[Row]) -> str:
    """Return the commits, machines and versions of PyTorch that rows name, in italics."""
    named = {
        ", ".join(
            f"{title}{row[key]}"
            for key, title in (("commit", "commit "), ("machine", ""), ("torch", "PyTorch "))
            if row.get(key)
        )
        for row in rows
    }
    return f"*{'; '.join(sorted(named))}*"


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(fill(page.read_text(encoding="utf-8")), encoding="utf-8")
