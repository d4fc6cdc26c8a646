"""Columns of files that people type into: strictly read as texts, numbers and flags.

What makes no sense is named with the rows where it is, since a guess would be counted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from capecam.errors import UsageError

SHOWN = 5
"""Number of rows in a message."""

FLAGS = {"": False, "0": False, "false": False, "1": True, "true": True}


def text_column(table: pd.DataFrame, column: str) -> pd.Series:
    """Return a column as texts without white space at the ends, "" where it is NULL."""
    if column not in table:
        return pd.Series("", table.index, dtype=object)
    return table[column].map(_text).astype(object)


def _text(value: Any) -> str:
    if pd.isna(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a number where there may be NULLs
    return value.isoformat() if isinstance(value, pd.Timestamp) else str(value).strip()


def number_column(table: pd.DataFrame, column: str, where: str) -> pd.Series:
    """Return a column as numbers above 0, NaN where it is NULL."""
    if column not in table:
        return pd.Series(np.nan, table.index)
    words = text_column(table, column)
    values = pd.to_numeric(words.where(words != ""), errors="coerce").astype(np.float64)
    bad = (words != "") & ~((values > 0) & np.isfinite(values))
    check(where, table, bad, words, f"{column} must be a number above 0, such as 12.5")
    return values


def flag_column(table: pd.DataFrame, column: str, where: str) -> pd.Series:
    """Return a column as booleans, False where it is NULL."""
    words = text_column(table, column).str.lower()
    check(where, table, ~words.isin(FLAGS), words, f"{column} must be true or false")
    return words.map(FLAGS).astype(bool)


def check(where: str, table: pd.DataFrame, bad: Any, values: pd.Series, problem: str) -> None:
    """Raise UsageError if some rows are bad, with their numbers and the first value.

    Args:
        where: file and layer.
        table: with ``row``, the number of each row in the file.
        bad: (N,) True for rows with the problem.
        values: (N,) what is shown.
        problem: what is wrong, and what to do.
    """
    rows = table["row"][bad]
    if len(rows):
        shown = ", ".join(map(str, rows[:SHOWN])) + (" ..." if len(rows) > SHOWN else "")
        value = values[bad].tolist()[0]
        raise UsageError(f"{where}, row {shown} ({value!r}): {problem}")
