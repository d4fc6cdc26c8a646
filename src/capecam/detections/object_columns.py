"""Columns of an object's own explanation, and a word for them (docs/method.md#objects)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

OBJECT_COLUMNS = (
    "own_share",
    "own_near",
    "own_peak_m",
    "leak",
    "own_drop",
    "random_drop",
    "distance_drop",
    "alone",
    "without",
)

MEANINGS = {
    "itself": "The object alone is enough, and its surroundings are not.",
    "context": "Its surroundings are enough without the object, and it is not enough alone.",
    "both": "Neither the object nor its surroundings are enough alone.",
    "either": "The object is enough alone, and so are its surroundings.",
    "unproven": "Blurring where the map is highest changes hardly more than anywhere.",
}
"""Evidence words in a sentence."""

EVIDENCE_WORDS = tuple(MEANINGS)

ALONE = 0.7
"""Share of its probability from which on an object stands without its surroundings. Fitted on
cities with planted reasons (docs/method.md#words), as the next one."""

WITHOUT = 0.5
"""Share of its probability from which on an object stands without its own pixels."""

PROVEN = 0.1
"""Difference of the drops from which on a map is better than random order."""


def evidence_words(numbers: pd.DataFrame) -> NDArray[np.object_]:
    """Return one of ``EVIDENCE_WORDS`` for each object, "" where it is not explained.

    Args:
        numbers: with ``OBJECT_COLUMNS``.
    """
    alone, without = numbers["alone"] >= ALONE, numbers["without"] >= WITHOUT
    is_proven = numbers["own_drop"] - numbers["random_drop"] >= PROVEN
    conditions = [
        numbers["alone"].isna(),
        ~alone & ~without,
        ~alone & without,
        ~is_proven,  # an intervention speaks for the surroundings, whatever the map is worth
        without,
    ]
    words = np.select(conditions, ["", "both", "context", "unproven", "either"], "itself")
    return np.asarray(words, object)
