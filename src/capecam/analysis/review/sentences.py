"""Estimates in sentences that cannot be misread."""

from __future__ import annotations

import numpy as np
import pandas as pd

from capecam.analysis.review.checked_blocks import CheckedBlocks

METHOD = (
    "Found by checking {looks:,} of {blocks:,} blocks, drawn at random, completely. Of 100 such "
    "intervals, about 95 hold the true number; they say nothing about what people cannot see in "
    "the imagery."
)


def sentences(table: pd.DataFrame, checked: CheckedBlocks) -> tuple[str, ...]:
    """Return a sentence for each class in the whole area, and what they rest on."""
    whole = table[table["zone_id"] == -1]
    lines = [_total(row) for _, row in whole.iterrows()]
    if "count_change_est" in table:
        lines += [_change(row) for _, row in whole.iterrows()]
    method = METHOD.format(looks=checked.looks, blocks=len(checked.design.blocks))
    return (*lines, method)


def _total(row: pd.Series) -> str:
    """Return a sentence about the number and area of one class."""
    low, value, high = (_number(row[f"count_{side}"]) for side in ("lo", "est", "hi"))
    m2 = [_number(row[f"m2_{side}"]) for side in ("lo", "est", "hi")]
    if row["count_lo"] == row["count_hi"] and row["m2_lo"] == row["m2_hi"]:
        text = f"{row['class']}: {row['count_est']:,.0f} objects of {row['m2_est']:,.0f} m²"
    else:
        text = (
            f"{row['class']}: between {low} and {high} objects (best estimate {value}), and "
            f"between {m2[0]} and {m2[2]} m² (best estimate {m2[1]})"
        )
    text += f"; the map shows {_number(row['count_map'])} objects."
    if not np.isnan(row["precision_est"]):
        text += f" Of 100 that it shows, {_share(row, 'precision')} are there."
    if not np.isnan(row["recall_est"]):
        text += f" Of 100 that are there, it shows {_share(row, 'recall')}."
    return text


def _share(row: pd.Series, what: str) -> str:
    low, value, high = (round(100 * row[f"{what}_{side}"]) for side in ("lo", "est", "hi"))
    return f"about {value} ({low} to {high})" if low < high else f"about {value}"


def _change(row: pd.Series) -> str:
    low, high = row["count_change_lo"], row["count_change_hi"]
    if low > 0:
        verdict = f"there are more than before: {_number(low)} to {_number(high)} more"
    elif high < 0:
        verdict = f"there are fewer than before: {_number(-high)} to {_number(-low)} fewer"
    else:
        verdict = (
            f"no change can be told from chance: from {_number(-low)} fewer to {_number(high)} more"
        )
    return f"{row['class']}: {verdict} objects."


def _number(value: float) -> str:
    """Return a number rounded to three digits: more would be more than is known."""
    if value == 0 or not np.isfinite(value):
        return "0"
    digits = max(0, int(np.floor(np.log10(abs(value)))) - 2)
    return f"{round(value, -digits):,.0f}"
