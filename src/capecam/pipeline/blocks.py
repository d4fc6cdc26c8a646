"""Tiles by blocks: squares of stride x stride pixels, which go or come as a whole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def block_mean(values: NDArray[np.generic], stride: int) -> NDArray[np.float64]:
    """Average (S, S) pixels to (n, n) blocks."""
    n = len(values) // stride
    return np.asarray(values.reshape(n, stride, n, stride).mean(axis=(1, 3), dtype=np.float64))


def block_any(mask: NDArray[np.bool_], stride: int) -> NDArray[np.bool_]:
    """Reduce (S, S) pixels to (n, n) blocks, True where any pixel is."""
    n = len(mask) // stride
    return np.asarray(mask.reshape(n, stride, n, stride).any(axis=(1, 3)))


def block_ranks(
    key: NDArray[np.float64], valid: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Rank (n, n) blocks from 0 by rising key, equal ones at random; those not valid are last."""
    ranks = np.full(valid.size, valid.size, np.int64)
    blocks = np.flatnonzero(valid)
    order = np.lexsort((rng.random(len(blocks)), key.ravel()[blocks]))
    ranks[blocks[order]] = np.arange(len(blocks))
    return ranks.reshape(valid.shape)
