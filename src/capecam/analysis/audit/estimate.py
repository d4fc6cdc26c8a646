"""Means over detections with bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from capecam.analysis.audit.block_maps import Heat

DRAWS = 1000
INTERVAL = (2.5, 97.5)
"""Percentiles of the 95 % interval."""

SEED = 0
"""Seed of the draws. Estimates over the same detections draw the same of them."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Mean over detections with its 95 % interval; None is undefined."""

    count: int
    """Number of detections with a defined value."""
    mean: float | None
    low: float | None
    high: float | None
    """Upper end of the interval; None for fewer than two detections."""

    @classmethod
    def of(cls, values: Heat) -> Self:
        """Estimate the mean of (D,) values; NaN is undefined."""
        defined = values[~np.isnan(values)]
        count = len(defined)
        if not count:
            return cls(0, None, None, None)
        mean = float(defined.mean())
        if count == 1:
            return cls(1, mean, None, None)
        rng = np.random.default_rng(SEED)
        means = defined[rng.integers(0, count, (DRAWS, count))].mean(axis=1)
        low, high = np.percentile(means, INTERVAL).tolist()
        return cls(count, mean, low, high)

    def __str__(self) -> str:
        if self.mean is None:
            return "-"
        if self.low is None or self.high is None:
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"
