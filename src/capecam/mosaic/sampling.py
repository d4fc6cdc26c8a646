"""Random order of tile grid positions for a sample.

The order is by a hash and not by a shuffle: the rank of a position must not depend on which others
there are, so that a sample does not change with the way imagery is cut into files.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def index_key(i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return rows and columns as one number each."""
    return (i << 32) + j


def hash_order(keys: NDArray[np.int64], seed: int) -> Iterator[tuple[int, int]]:
    """Yield rows and columns in the order of splitmix64 of key and seed."""
    x = keys.astype(np.uint64) + np.uint64(seed * 0x9E3779B97F4A7C15 % (1 << 64))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    x ^= x >> np.uint64(31)
    for number in keys[np.argsort(x, kind="stable")].tolist():
        i = (number + (1 << 31)) >> 32
        yield i, number - (i << 32)
