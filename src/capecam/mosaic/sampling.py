"""The order in which places of the lattice are drawn for a sample.

By a hash and not by a shuffle: a place's rank must not depend on which others there are, so that
a sample does not change with how the imagery is cut into files.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def place_key(i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row and column of a place as one number."""
    return (i << 32) + j


def hash_order(keys: NDArray[np.int64], seed: int) -> Iterator[tuple[int, int]]:
    """Rows and columns in the order of splitmix64 of key and seed."""
    x = keys.astype(np.uint64) + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    x ^= x >> np.uint64(31)
    for number in keys[np.argsort(x, kind="stable")].tolist():
        i = (number + (1 << 31)) >> 32
        yield i, number - (i << 32)
