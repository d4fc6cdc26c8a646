"""Scores of probabilities of being right, with intervals by blocks of ground."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from capecam.analysis.scoring import DRAWS, INTERVAL

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

BINS = 10
"""Bins of equal width of the expected calibration error (Guo et al. 2017 use 15, for more data)."""

CERTAIN = 1e-6
"""Probabilities closer to 0 or 1 count as this in the log-loss."""

SIMULATIONS = 200
"""Simulated outcomes: the error of their mean is a thirtieth of it."""

AT_ONCE = 1 << 20
"""Weights of draws that are in memory together (8 MB)."""

QUEUE_SHARE = 0.1
"""Part of the queue in which errors are counted."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """Return the number and the ends of its interval."""
        return {"value": self.value, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f} {self.high:.3f}]"


def log_losses(p: Floats, right: Bools) -> Floats:
    """Return (N,) log-losses of (N,) probabilities."""
    clipped = np.clip(p, CERTAIN, 1 - CERTAIN)
    return np.asarray(-np.log(np.where(right, clipped, 1 - clipped)))


def calibration_error(p: Floats, right: Bools, weights: Floats) -> Floats:
    """Return the expected calibration error: mean over bins of |mean p - share right|."""
    bins = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    gaps = weights @ ((p - right)[:, None] * (bins[:, None] == np.arange(BINS)))
    return np.asarray(np.abs(gaps).sum(axis=1) / weights.sum(axis=1))


def chance_error(p: Floats) -> float:
    """Return the mean calibration error of (N,) probabilities that are true, by simulation: what
    so many objects have by chance."""
    rng = np.random.default_rng(0)
    once = np.ones((1, len(p)))
    errors = [calibration_error(p, rng.random(len(p)) < p, once)[0] for _ in range(SIMULATIONS)]
    return float(np.mean(errors))


def brier_score(p: Floats, right: Bools, weights: Floats) -> Floats:
    """Return the mean squared difference between probability and outcome (Brier 1950)."""
    return np.asarray(weights @ (p - right) ** 2 / weights.sum(axis=1))


def log_loss(p: Floats, right: Bools, weights: Floats) -> Floats:
    """Return the mean log-loss."""
    return np.asarray(weights @ log_losses(p, right) / weights.sum(axis=1))


def auc(p: Floats, right: Bools, weights: Floats) -> Floats:
    """Return the area under the ROC curve: how often a right one is above a wrong one, where ties
    count half. NaN where all are right, or all wrong."""
    order = np.argsort(p, kind="stable")
    _, starts = np.unique(p[order], return_index=True)
    theirs, ours = (
        np.add.reduceat(weights[:, order] * kind[order], starts, axis=1) for kind in (~right, right)
    )
    below = np.cumsum(theirs, axis=1) - theirs / 2
    pairs = theirs.sum(axis=1) * ours.sum(axis=1)
    return np.asarray((ours * below).sum(axis=1) / np.where(pairs > 0, pairs, np.nan))


def errors_first(p: Floats, right: Bools, weights: Floats) -> Floats:
    """Return the share of all errors in the first tenth of the queue, ascending by ``p``."""
    order = np.argsort(p, kind="stable")
    ordered = weights[:, order]
    before = np.cumsum(ordered, axis=1) - ordered
    part = np.clip(QUEUE_SHARE * ordered.sum(axis=1, keepdims=True) - before, 0, ordered)
    errors = (ordered * ~right[order]).sum(axis=1)
    return np.asarray((part * ~right[order]).sum(axis=1) / np.where(errors > 0, errors, np.nan))


def block_numbers(points: Floats, edge: float) -> Integers:
    """Return the (N,) number of the square block in which each of (N, 2) points lies."""
    _, block = np.unique(np.floor(points / edge), axis=0, return_inverse=True)
    return np.asarray(block, np.int64)


Measure = Callable[[Floats, Bools, Floats], Floats]

MEASURES: Mapping[str, Measure] = {
    "ece": calibration_error,
    "brier": brier_score,
    "log_loss": log_loss,
    "auc": auc,
    "errors_first_tenth": errors_first,
}
"""Scores by their key in JSON: (D,) values of (N,) probabilities, (N,) outcomes and (D, N) weights.
"""


def measured(name: str, p: Floats, right: Bools) -> float:
    """Return a score of (N,) probabilities."""
    return float(MEASURES[name](p, right, np.ones((1, len(p))))[0])


def draws(block: Integers, seed: int = 0) -> Iterator[Floats]:
    """Yield (D, N) weights of objects: how often their block is drawn, with replacement."""
    rng = np.random.default_rng(seed)
    _, index = np.unique(block, return_inverse=True)
    count = int(index.max()) + 1
    at_once = max(1, AT_ONCE // len(block))
    for start in range(0, DRAWS, at_once):
        number = min(at_once, DRAWS - start)
        times = rng.multinomial(count, np.full(count, 1 / count), number)
        yield times[:, index].astype(np.float64)


def scores(
    p: Floats, right: Bools, block: Integers, names: Collection[str] = tuple(MEASURES)
) -> dict[str, Estimate]:
    """Return the scores of probabilities, with intervals from a bootstrap of blocks.

    Args:
        p: (N,) probabilities of being right.
        right: (N,)
        block: (N,) number of the block of each object.
        names: of the scores. AUC and errors first are of an order, and take ranks for ``p``.
    """
    parts = [[MEASURES[name](p, right, w) for name in names] for w in draws(block)]
    ends = np.nanpercentile(np.concatenate(parts, axis=1), INTERVAL, axis=1).T.tolist()
    return {
        name: Estimate(measured(name, p, right), *end)
        for name, end in zip(names, ends, strict=True)
    }


def mean_gain(gain: Floats, block: Integers) -> Estimate:
    """Return the mean of (N,) differences, with its interval from a bootstrap of blocks."""
    _, index = np.unique(block, return_inverse=True)
    sums, counts = np.bincount(index, gain), np.bincount(index)
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(sums), (DRAWS, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, INTERVAL).tolist()
    return Estimate(float(gain.mean()), low, high)


def standard_error(difference: Floats, block: Integers) -> float:
    """Return the standard error of the mean of (N,) differences, where blocks are independent."""
    _, index = np.unique(block, return_inverse=True)
    sums = np.bincount(index, difference - difference.mean())
    count = len(sums)
    return float(np.sqrt((sums**2).sum() * count / max(count - 1, 1)) / len(difference))
