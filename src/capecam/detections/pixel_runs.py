"""Runs of pixels of one class, found and linked without a loop in Python."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from capecam.detections.regions import Booleans, Integers
from capecam.io.cog import NODATA


class Runs(NamedTuple):
    """Longest runs of pixels of one foreground class in a row, in row-major order."""

    row: Integers
    """(N,)"""
    start: Integers
    """(N,) first column."""
    stop: Integers
    """(N,) column after the last."""
    class_id: Integers
    """(N,)"""
    level_sum: Integers
    """(N,) sum over the run's pixels of the probability level of its class."""

    @classmethod
    def none(cls) -> Self:
        """Return no runs."""
        return cls(*(np.empty(0, np.int64),) * 5)

    @classmethod
    def find(cls, classes: NDArray[Any], levels: NDArray[Any]) -> Self:
        """Return the runs of (H, W) class indices.

        Args:
            classes: 0 is background, 255 nodata.
            levels: (C, H, W) probability levels of classes 1 to C.
        """
        begins = np.ones(classes.shape, np.bool_)
        np.not_equal(classes[:, 1:], classes[:, :-1], out=begins[:, 1:])
        start = np.flatnonzero(begins)
        class_id = classes.reshape(-1)[start].astype(np.int64)
        foreground = (class_id > 0) & (class_id != NODATA)
        length = np.diff(start, append=classes.size)[foreground]
        start, class_id = start[foreground], class_id[foreground]
        row, col = np.divmod(start, classes.shape[1])
        level_sum = _sum_spans(levels.reshape(len(levels), -1), class_id - 1, start, length)
        return cls(row, col, col + length, class_id, level_sum)

    def take(self, selection: Integers | Booleans) -> Self:
        """Return the runs that an index or a mask selects."""
        return type(self)(*(column[selection] for column in self))

    def append(self, below: Self) -> Self:
        """Return these runs followed by others."""
        return type(self)(*map(np.concatenate, zip(self, below, strict=True)))

    def touching(self) -> Integers:
        """Return (2, L) indices, upper and lower, of runs of one class with a common pixel edge."""
        span = self.stop.max(initial=0) + 1
        starts, stops = self.row * span + self.start, self.row * span + self.stop
        first = np.searchsorted(stops, starts + span, "right")
        count = np.searchsorted(starts, stops + span, "left") - first
        upper = np.repeat(np.arange(len(count)), count)
        lower = np.arange(len(upper)) + np.repeat(first - (np.cumsum(count) - count), count)
        links = np.stack([upper, lower])
        return links[:, self.class_id[upper] == self.class_id[lower]]


def _sum_spans(values: NDArray[Any], band: Integers, start: Integers, length: Integers) -> Integers:
    """Return (N,) sums of ``values[band, start : start + length]`` of (C, P) values."""
    if not len(length):
        return np.empty(0, np.int64)
    offset = np.cumsum(length) - length
    pixel = np.arange(length.sum()) + np.repeat(start - offset, length)
    return np.add.reduceat(values[np.repeat(band, length), pixel], offset, dtype=np.int64)
