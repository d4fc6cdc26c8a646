"""Words from interventions: thresholds fitted on some networks, judged on others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from capecam.api import Model
from reasons.interventions import measure, replaced, tile_blur
from reasons.maps import Combination, Explainer
from reasons.subjects import STRIDE_PX, Subject, Truth, probability

OWN = Combination("hirescam", "object log-odds", "16")
TOP_SHARE = 0.03
"""Share of the blocks that are blurred for the drops."""

Row = dict[str, Any]
Blocks = NDArray[np.float64]


def measure_words(model: Model, explainer: Explainer, subject: Subject, truth: Truth) -> Row:
    """Measure what words are made of, for a detected object."""
    (heat,) = explainer.maps(subject.pixels, subject.inside, [OWN])
    rng = np.random.default_rng(0)
    orders = {
        "own_drop": -heat,
        "random_drop": rng.random(heat.shape),
        "distance_drop": distance(subject),
    }
    baseline = tile_blur(subject.pixels, subject.inside)
    changed = [
        replaced(subject.pixels, baseline, at_pixels(first_blocks(order, TOP_SHARE)))
        for order in orders.values()
    ]
    kept = probability(model, torch.stack(changed), subject.inside) / truth.p0
    drops = dict(zip(orders, (1 - kept).tolist(), strict=True))
    return drops | measure(model, subject, truth.p0)


def distance(subject: Subject) -> Blocks:
    """Return the signed distance of each block to the object, in pixels; negative inside."""
    outside, inside = (distance_transform_edt(x) for x in (~subject.inside, subject.inside))
    n = len(subject.inside) // STRIDE_PX
    return (outside - inside).reshape(n, STRIDE_PX, n, STRIDE_PX).mean(axis=(1, 3))


def first_blocks(order: Blocks, share: float) -> NDArray[np.bool_]:
    """Return the blocks (n, n) that come first in a rising order."""
    ranks = np.argsort(np.argsort(order.ravel(), kind="stable"), kind="stable")
    return (ranks < round(share * order.size)).reshape(order.shape)


def at_pixels(blocks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Repeat (n, n) to (S, S)."""
    return blocks.repeat(STRIDE_PX, 0).repeat(STRIDE_PX, 1)


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


def word_of(alone: float, without: float, cuts: tuple[float, float]) -> str:
    """Return the word of an object by the thresholds of ``alone`` and ``without``."""
    if alone >= cuts[0]:
        return "either" if without >= cuts[1] else "itself"
    return "context" if without >= cuts[1] else "both"


def column(rows: Sequence[Row], name: str) -> Blocks:
    """Return a column of a table."""
    return np.array([row[name] for row in rows], dtype=np.float64)
