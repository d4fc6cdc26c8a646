"""Stratified random samples of blocks: strata, numbers of looks in them, and the draw.

A block is drawn with a probability that is known and never 0: the number of looks in its stratum
over the number of blocks there. Strata are made so that looks go where the map is most likely off,
by what is known before anybody looks. A bad guess makes intervals wider, and never wrong.

Sources: Särndal, Swensson and Wretman, Model Assisted Survey Sampling (1992), 3.7 (optimal
allocation) and 12.4 (strata of equal aggregate size); Ohlsson, Coordination of samples using
permanent random numbers (1995).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from capecam.mosaic.sampling import hash_order, index_key

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LOOKS_A_STRATUM = 6
"""Looks in a stratum, about: with fewer, its variance is hardly known; with more, strata that are
more alike within would be better. Coverage and width hardly differ between 4 and 10."""

MAX_STRATA = 10
"""Maximum number of strata in a zone; more make intervals no narrower."""

MIN_LOOKS = 2
"""Minimum of looks in a stratum, without which it has no variance."""

MIN_ZONE_LOOKS = 20
"""Looks that each zone gets, if half of all looks suffice for that."""


@dataclass(frozen=True, slots=True, eq=False)
class Strata:
    """Strata of a frame of N blocks, numbered from 0, and the looks in each."""

    stratum: Integers
    """(N,) stratum of each block."""
    zone: Integers
    """(H,) zone in which each stratum lies."""
    looks: Integers
    """(H,) blocks to draw of each."""

    def __post_init__(self) -> None:
        if len(self.zone) != len(self.looks):
            raise ValueError(f"{len(self.zone)} zones of {len(self.looks)} strata")
        if (self.looks > self.sizes).any() or (self.looks < np.minimum(self.sizes, 1)).any():
            raise ValueError(f"looks must be from 1 to the size of a stratum, got {self.looks}")

    @property
    def sizes(self) -> Integers:
        """Return (H,) the number of blocks in each stratum."""
        return np.bincount(self.stratum, minlength=len(self.zone)).astype(np.int64)


def stratify(spread: Floats, zone: Integers, looks: int) -> Strata:
    """Divide blocks into strata, and looks among them, to make the variance of totals small.

    Within a zone, blocks are sorted by their spread and cut where its sum is equal, so that blocks
    of equal spread stay together. Zones and strata get looks in proportion to the sum of spreads,
    but each zone ``MIN_ZONE_LOOKS`` if possible, and each stratum ``MIN_LOOKS``.

    Args:
        spread: (N,) expected standard deviation of what the map has wrong in a block; above 0.
        zone: (N,) zone of each block, from 0.
        looks: number of blocks to draw; of at least 1.
    """
    zones = int(zone.max()) + 1
    sizes = np.bincount(zone, minlength=zones)
    sums = np.asarray(np.bincount(zone, spread, zones), np.float64)
    least = min(MIN_ZONE_LOOKS, max(MIN_LOOKS, looks // (2 * zones)))
    by_zone = allocate(looks, sums, sizes, least)
    stratum = np.empty(len(zone), np.int64)
    of_zone: list[int] = []
    drawn: list[Integers] = []
    for z in np.flatnonzero(sizes):
        inside = np.flatnonzero(zone == z)
        count = int(np.clip(by_zone[z] // LOOKS_A_STRATUM, 1, MAX_STRATA))
        group = _cut(spread[inside], count)
        stratum[inside] = len(of_zone) + group
        strata = int(group.max()) + 1
        sums_here = np.asarray(np.bincount(group, spread[inside], strata), np.float64)
        drawn.append(allocate(int(by_zone[z]), sums_here, np.bincount(group), MIN_LOOKS))
        of_zone += [int(z)] * strata
    return Strata(stratum, np.array(of_zone, np.int64), np.concatenate(drawn))


def _cut(spread: Floats, count: int) -> Integers:
    """Return (N,) the group of each block, ascending with its spread, of equal sums of spread."""
    _, index = np.unique(spread, return_inverse=True)
    sums = np.cumsum(np.bincount(index, spread))
    middle = sums - np.diff(sums, prepend=0) / 2
    group = np.minimum((middle / sums[-1] * count).astype(np.int64), count - 1)
    _, group = np.unique(group, return_inverse=True)  # without empty ones
    return np.asarray(group[index], np.int64)


def allocate(looks: int, sums: Floats, sizes: Integers, least: int | Integers) -> Integers:
    """Divide looks in proportion to sums, from ``least`` to the size of each.

    Args:
        looks: their number; where it is less than the minima, these are shortened evenly, but
            to no less than 1, and the result has more.
        sums: (H,) weights, such as sums of spreads.
        sizes: (H,) maxima.
        least: minimum, or (H,) minima; who is smaller gets its size.

    Returns:
        (H,) whole numbers that add up to ``looks``, or to all blocks if there are fewer.
    """
    looks = min(looks, int(sizes.sum()))
    low = np.minimum(sizes, least)
    while low.sum() > looks and low.max(initial=0) > 1:
        low = np.minimum(low, low.max() - 1)
    looks = max(looks, int(low.sum()))
    shares = low.astype(np.float64)
    is_open = sizes > low
    while is_open.any():  # water-filling: who is at a limit stays there
        rest = looks - shares[~is_open].sum()
        wish = np.where(is_open, sums, 0.0)
        wish = wish / wish.sum() * rest if wish.sum() > 0 else is_open * rest / is_open.sum()
        under, over = is_open & (wish < low), is_open & (wish > sizes)
        if under.any() and (low - wish)[under].sum() >= (wish - sizes)[over].sum():
            shares[under], is_open = low[under], is_open & ~under
        elif over.any():
            shares[over], is_open = sizes[over], is_open & ~over
        else:
            shares[is_open] = wish[is_open]
            break
    whole = np.floor(shares + 1e-9).astype(np.int64)
    rest = looks - int(whole.sum())
    order = np.argsort(-(shares - whole) + 1e9 * (whole >= sizes), kind="stable")
    whole[order[:rest]] += 1
    return whole


def random_ranks(col: Integers, row: Integers, seed: int) -> Integers:
    """Return (N,) the rank of each block in a random order that only its place and a seed decide.

    The blocks of lowest rank in a stratum are a simple random sample of it. More looks are the next
    ones, so that a sample that was made larger is what a larger one would have been.
    """
    keys = index_key(row, col)
    places = np.array(list(hash_order(keys, seed)), np.int64).reshape(-1, 2)
    order = index_key(places[:, 0], places[:, 1])
    ranks = np.empty(len(col), np.int64)
    ranks[np.argsort(keys)] = np.argsort(order)
    return ranks


def draw(strata: Strata, ranks: Integers) -> Integers:
    """Return the blocks of lowest rank in each stratum, as many as it has looks: their indices.

    Args:
        strata: H strata of N blocks.
        ranks: (N,) of ``random_ranks``, or any random order.
    """
    order = np.lexsort((ranks, strata.stratum))
    starts = np.cumsum(strata.sizes) - strata.sizes
    within = np.arange(len(order)) - starts[strata.stratum[order]]
    return np.sort(order[within < strata.looks[strata.stratum[order]]])
