"""Scores of probabilities of being right, with intervals by blocks of ground."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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


def calibration_error(p: Floats, right: Bools, weights: Floats) -> float:
    """Return the expected calibration error: mean over bins of |mean p - share right|."""
    bins = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, weights * (p - right), BINS)
    return float(np.abs(gaps).sum() / weights.sum())


def brier_score(p: Floats, right: Bools, weights: Floats) -> float:
    """Return the mean squared difference between probability and outcome (Brier 1950)."""
    return float(np.average((p - right) ** 2, weights=weights))


def log_loss(p: Floats, right: Bools, weights: Floats) -> float:
    """Return the mean log-loss."""
    return float(np.average(log_losses(p, right), weights=weights))


def auc(p: Floats, right: Bools, weights: Floats) -> float:
    """Return the area under the ROC curve; NaN where all are right, or all wrong.

    It is the probability that one that is wrong has a lower ``p`` than one that is right, equal
    ones half. scikit-learn's function is the same, and 30 times as slow for a few hundred objects.
    """
    _, level = np.unique(p, return_inverse=True)
    wrongs, rights = (np.bincount(level, weights * part) for part in (~right, right))
    pairs = wrongs.sum() * rights.sum()
    before = np.cumsum(wrongs) - wrongs / 2
    return float((rights * before).sum() / pairs) if pairs else float("nan")


def errors_first(p: Floats, right: Bools, weights: Floats) -> float:
    """Return the share of all errors in the first tenth of the queue, ascending by ``p``."""
    order = np.argsort(p, kind="stable")
    before = np.cumsum(weights[order]) - weights[order]
    part = np.clip(QUEUE_SHARE * weights.sum() - before, 0, weights[order])
    wrong = ~right[order]
    total = weights[order][wrong].sum()
    return float(part[wrong].sum() / total) if total else float("nan")


def block_numbers(points: Floats, edge: float) -> Integers:
    """Return the (N,) number of the square block in which each of (N, 2) points lies."""
    _, block = np.unique(np.floor(points / edge), axis=0, return_inverse=True)
    return np.asarray(block, np.int64)


Measure = Callable[[Floats, Bools, Floats], float]

MEASURES: Mapping[str, Measure] = {
    "ece": calibration_error,
    "brier": brier_score,
    "log_loss": log_loss,
    "auc": auc,
    "errors_first_tenth": errors_first,
}
"""Scores by their key in JSON; arguments are (N,) probabilities, outcomes and weights."""


def draws(block: Integers, seed: int = 0) -> Iterator[Floats]:
    """Yield (N,) weights of objects: how often their block is drawn, with replacement."""
    rng = np.random.default_rng(seed)
    _, index = np.unique(block, return_inverse=True)
    count = int(index.max(initial=-1)) + 1
    for _ in range(DRAWS):
        yield np.bincount(rng.integers(0, count, count), minlength=count)[index].astype(np.float64)


def scores(p: Floats, right: Bools, block: Integers) -> dict[str, Estimate]:
    """Return the scores of probabilities, with intervals from a bootstrap of blocks.

    Args:
        p: (N,) probabilities of being right.
        right: (N,)
        block: (N,) number of the block of each object.
    """
    names, once = list(MEASURES), np.ones(len(p))
    values = {name: MEASURES[name](p, right, once) for name in names}
    drawn = np.array([[MEASURES[n](p, right, w) for n in names] for w in draws(block) if w.any()])
    ends = np.nanpercentile(drawn, INTERVAL, axis=0).T.tolist()
    return {name: Estimate(values[name], *end) for name, end in zip(names, ends, strict=True)}


def mean_gain(gain: Floats, block: Integers) -> Estimate:
    """Return the mean of (N,) differences, with its interval from a bootstrap of blocks."""
    _, index = np.unique(block, return_inverse=True)
    sums, counts = np.bincount(index, gain), np.bincount(index)
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(sums), (DRAWS, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, INTERVAL).tolist()
    return Estimate(float(gain.mean()), low, high)
