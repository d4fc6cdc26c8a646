"""Words from interventions: thresholds fitted on some networks, judged on others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from capecam.api import Model
from capecam.attribution.interventions import replaced, to_pixels
from capecam.detections.object_columns import evidence_words
from capecam.pipeline.blocks import block_any, block_mean, block_ranks
from capecam.pipeline.object_explainer import top_count
from reasons.interventions import measure_interventions, tile_blur
from reasons.maps import Combination, Explainer
from reasons.subjects import STRIDE_PX, Subject, Truth, probability

OWN = Combination("hirescam", "object logit", "8")
"""The default of objects."""

PLANTED = {
    "marker": "both", "shadow": "both", "roof": "both", "frame": "context", "object": "itself"
}  # fmt: skip
"""Word of the reason that is planted in a city; in ``either`` a network chooses."""

USED = {"alone": "alone grey blur 12", "without": "without blur around 0"}
"""Interventions behind capecam's words."""

Row = dict[str, Any]
Blocks = NDArray[np.float64]


def measure_words(model: Model, explainer: Explainer, subject: Subject, truth: Truth) -> Row:
    """Measure what words are made of, for a detected object."""
    (heat,) = explainer.maps(subject.pixels, subject.inside, [OWN])
    orders = {
        "own_drop": -heat,
        "random_drop": np.zeros(heat.shape),
        "distance_drop": distance(subject.inside),
    }
    baseline = tile_blur(subject.pixels, subject.inside)
    removed = [remove_top(subject.pixels, baseline, key, subject.inside) for key in orders.values()]
    kept = probability(model, torch.stack(removed), subject.inside) / truth.p0
    drops = dict(zip(orders, (1 - kept).tolist(), strict=True))
    return drops | measure_interventions(model, subject, truth.p0)


def distance(inside: NDArray[np.bool_]) -> Blocks:
    """Return the signed distance of each block to the object, in pixels; negative inside."""
    away, depth = (distance_transform_edt(x) for x in (~inside, inside))
    return block_mean(away - depth, STRIDE_PX)


def remove_top(pixels: Tensor, baseline: Tensor, key: Blocks, inside: NDArray[np.bool_]) -> Tensor:
    """Return the tile (3, S, S) without its first blocks by rising key, as for ``own_drop``."""
    count = top_count(np.ones(key.shape, np.bool_), block_any(inside, STRIDE_PX))
    return remove_first(pixels, baseline, key, count)


def remove_first(pixels: Tensor, baseline: Tensor, key: Blocks, count: int) -> Tensor:
    """Return the tile (3, S, S) with a number of its blocks replaced, by rising key."""
    ranks = block_ranks(key, np.ones(key.shape, np.bool_), np.random.default_rng(0))
    return replaced(pixels, baseline, to_pixels(torch.from_numpy(ranks < count), STRIDE_PX))


def is_planted(row: Row) -> bool:
    """Return True if an object is detected for the reason that was planted."""
    return row["word"] is not None and row["word"] == PLANTED.get(row["city"], row["word"])


class Cut(NamedTuple):
    """A threshold below which something is needed."""

    threshold: float
    balanced: float
    """Mean of the shares of needed and not needed that it tells right, where it was fitted."""


def fit(values: Blocks, needed: NDArray[np.bool_]) -> Cut:
    """Find the threshold with the best balanced accuracy; the middle of the best range."""
    ordered = np.unique(values)
    middles = np.concatenate([ordered[:1] - 1e-9, (ordered[1:] + ordered[:-1]) / 2, ordered[-1:]])
    scores = np.array([balanced(values < cut, needed) for cut in middles])
    best = middles[scores == scores.max()]
    return Cut(float(best[len(best) // 2]), float(scores.max()))


def balanced(said: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    """Return the mean of the two shares that are told right."""
    return float((said[true].mean() + (~said[~true]).mean()) / 2)


def words_of(rows: Sequence[Row]) -> NDArray[np.object_]:
    """Return the words that capecam gives to objects."""
    numbers = pd.DataFrame(rows, columns=["own_drop", "random_drop", *USED.values()])
    return evidence_words(numbers.rename(columns={name: key for key, name in USED.items()}))


def column(rows: Sequence[Row], name: str) -> Blocks:
    """Return a column of a table."""
    return np.array([row[name] for row in rows], dtype=np.float64)
