"""Totals of a city from a map of all of it and a sample of blocks that people checked.

A block has two numbers: ``x`` of the map, known everywhere, and ``y``, the truth, known in the
sample. A total is estimated by the difference estimator ``rate X + sum of w (y - rate x)``: the
map's total, corrected by what the sample found wrong. The rate is estimated, so that a useless map
does no harm. n: blocks of the sample; H: strata; D: zones; C: classes.

Sources: Särndal, Swensson and Wretman, Model Assisted Survey Sampling (1992), 3.7 (stratified
samples), 6.3 (difference estimator), 10.3 (domains); Angelopoulos, Duchi and Zrnic, PPI++ (2023)
(the rate); Satterthwaite (1946) (degrees of freedom); Rust and Kalton (1987) (collapsed strata);
Smyth, limma (2004) (variances of many small groups lean on that of all); Franco et al. (2019)
(Wilson intervals of survey samples); Fay and Herriot (1979) (small areas); Zou and Donner (2008)
(intervals of differences).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LEVEL = 0.975
"""Quantile of a two-sided 95 % interval."""

LEAN = 3.0
"""Errors that a zone must have in the sample for its own variance to count as much as that which
the whole sample lets expect. A zone with few errors hardly knows its variance, and one without any
would have no interval at all. docs/review.md has the coverage with 0, 3 and 12."""

PSEUDO = 0.5
"""Errors that are added to those of the sample before the expected variance is computed: no error
in a sample does not mean that there are none (Jeffreys' prior of a rate)."""

TINY = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Blocks that were checked, and what they stand for."""

    stratum: Integers
    """(n,) stratum of each block."""
    sizes: Integers
    """(H,) blocks in each stratum; each stratum has one in the sample at least."""
    zone_of_stratum: Integers
    """(H,) zone of each stratum: those of one zone are collapsed where one has a single block."""

    def __post_init__(self) -> None:
        if (self.checked < 1).any() or (self.checked > self.sizes).any():
            raise ValueError(f"a stratum has {self.checked} blocks checked of {self.sizes}")

    @property
    def checked(self) -> Integers:
        """Return (H,) the number of blocks of each stratum in the sample."""
        return np.bincount(self.stratum, minlength=len(self.sizes)).astype(np.int64)

    @property
    def weights(self) -> Floats:
        """Return (n,) the number of blocks that each block stands for: 1 / its probability."""
        return np.asarray((self.sizes / self.checked)[self.stratum])

    def groups(self) -> tuple[Integers, Floats, Integers]:
        """Return (n,) the group for the variance of each block, (G,) shares sampled, (G,) counts.

        Groups are strata; where one has a single block of several, it is joined with the next of
        its zone, or of the sample.
        """
        label = np.arange(len(self.sizes))
        checked, sizes = self.checked.copy(), self.sizes.copy()
        while (lonely := np.flatnonzero((checked == 1) & (sizes > 1))).size and len(
            np.unique(label)
        ) > 1:
            own = int(lonely[0])
            others = np.setdiff1d(np.unique(label), own)
            same = others[self.zone_of_stratum[others] == self.zone_of_stratum[own]]
            pool = same if len(same) else others
            other = int(pool[np.argmin(np.abs(pool - own))])
            label[label == own] = other
            checked[other] += checked[own]
            sizes[other] += sizes[own]
            checked[own] = sizes[own] = 0
        used, group = np.unique(label, return_inverse=True)
        return np.asarray(group[self.stratum]), checked[used] / sizes[used], checked[used]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """Where errors can be: in proportion to objects of the map, and in blocks without any."""

    objects: Floats
    """(H, D, C) number of objects of the map in all blocks of a stratum."""
    empty: Floats
    """(H, D, C) number of all blocks of a stratum in a zone that have no object of a class."""
    chance: Floats
    """(H,) how likely errors are in such blocks of one stratum, compared with others; above 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """Numbers of the map and of the truth, by block, zone and class."""

    known: Floats
    """(D, C) totals of the map."""
    x: Floats
    """(n, D, C) of the map in the sample's blocks."""
    y: Floats
    """(n, D, C) of the truth in the sample's blocks."""
    objects: Floats
    """(n, C) number of objects of the map in the sample's blocks."""
    frame: Frame
    """Where errors can be in all blocks."""
    unit: Floats
    """(C,) size of one whole error: 1 of a count; of areas, the root mean square of objects' m²."""


@dataclass(frozen=True, slots=True, eq=False)
class Totals:
    """Estimated totals; the last row is the whole."""

    total: Floats
    """(D + 1, C)"""
    low: Floats
    """(D + 1, C) lower end of the 95 % interval."""
    high: Floats
    """(D + 1, C) upper end of the 95 % interval."""
    variance: Floats
    """(D + 1, C) of the total."""
    gone_at_census: Floats
    """(D + 1, C) part of the variance of samples with replacement that a census does not have."""
    rate: Floats
    """(C,) by which the map's numbers are multiplied before they are corrected."""

    def more_looks(self, looks: int, blocks: int) -> Floats:
        """Return (D + 1, C) looks that must be added to halve the intervals.

        Args:
            looks: blocks in the sample.
            blocks: all blocks; there are no more.
        """
        with_replacement = self.variance + self.gone_at_census
        wanted = self.variance / 4 + self.gone_at_census
        factor = np.divide(with_replacement, wanted, out=np.ones_like(wanted), where=wanted > 0)
        return np.asarray(np.ceil(np.minimum((factor - 1) * looks, blocks - looks)))


def estimate_totals(sample: Sample, values: Values, lean: float = LEAN) -> Totals:
    """Estimate totals by zone and class, which add up to those of the whole.

    An interval does not go below what was seen in the sample. In a census it is the truth alone.

    Args:
        sample: n blocks.
        values: what map and truth have in them, and the map everywhere.
        lean: errors in a zone from which on its own variance counts more than the expected one.
    """
    weights = sample.weights
    x, y = (with_whole(a) for a in (values.x, values.y))
    rate = _rate(sample, x[:, -1], y[:, -1])
    known = np.concatenate([values.known, values.known.sum(axis=0, keepdims=True)])
    total = rate * known + np.einsum("n,ndc->dc", weights, y - rate * x)
    variance = _Variance.of(sample, y - rate * x, values, lean)
    half = variance.quantile() * np.sqrt(variance.value)
    seen = y.sum(axis=0)
    low = np.maximum(total - half, np.minimum(seen, total))
    return Totals(total, low, total + half, variance.value, variance.gone_at_census, rate)


def with_whole(parts: Floats) -> Floats:
    """Return (n, D + 1, C): the parts by zone, and their sum."""
    return np.concatenate([parts, parts.sum(axis=1, keepdims=True)], axis=1)


def _rate(sample: Sample, x: Floats, y: Floats) -> Floats:
    """Return (C,) the rate that makes the variance smallest, from 0 to 1; 1 where x is constant.

    Args:
        sample: n blocks.
        x: (n, C) of the map.
        y: (n, C) of the truth.
    """
    group, share, count = sample.groups()
    scale = ((1 - share) * count / np.maximum(count - 1, 1))[group] * sample.weights**2
    x, y = x - _means(group, count, x), y - _means(group, count, y)
    both, own = (np.einsum("n,nc->c", scale, x * a) for a in (y, x))
    rate = np.divide(both, own, out=np.ones(x.shape[1]), where=own > TINY)
    return np.asarray(np.clip(rate, 0.0, 1.0))


def _means(group: Integers, count: Integers, values: Floats) -> Floats:
    """Return (n, ...) the mean of each block's group."""
    sums = np.zeros((len(count), *values.shape[1:]))
    np.add.at(sums, group, values)
    return np.asarray((sums.T / count).T[group])


@dataclass(frozen=True, slots=True, eq=False)
class _Variance:
    """Variance of totals of residuals: that of each zone, leaning on that of the whole."""

    value: Floats
    """(D + 1, C)"""
    gone_at_census: Floats
    """(D + 1, C)"""
    freedom: Floats
    """(D + 1, C) degrees of freedom."""

    @classmethod
    def of(cls, sample: Sample, residual: Floats, values: Values, lean: float) -> _Variance:
        """Measure the variance of the weighted sum of (n, D + 1, C) residuals."""
        group, share, count = sample.groups()
        weights = sample.weights
        weighted = weights[:, None, None] * residual
        squares = (weighted - _means(group, count, weighted)) ** 2
        bessel = count / np.maximum(count - 1, 1)
        by_group = np.zeros((len(count), *residual.shape[1:]))
        np.add.at(by_group, group, squares)
        own_with = (by_group.T * bessel).T
        own_by_group = (own_with.T * (1 - share)).T
        own = own_by_group.sum(axis=0)
        freedom = _satterthwaite(own, own_by_group, count)
        fpc = (1 - share)[group][:, None, None]
        events = _ratio(((fpc * squares).sum(axis=0)) ** 2, (fpc**2 * squares**2).sum(axis=0))
        squares_of = _expected_squares(sample, residual[:, -1], values)
        expected_with = np.einsum("h,hdc->dc", sample.sizes / sample.checked, squares_of)
        expected = expected_with - squares_of.sum(axis=0)
        part = _ratio(np.full_like(events, lean), events + lean)
        fit = _ratio((1 - part[-1]) * own[-1] + part[-1] * expected[-1], expected[-1])
        expected[:-1] *= fit  # so that zones together expect what the whole has
        expected_with[:-1] *= fit
        value = (1 - part) * own + part * expected
        with_replacement = (1 - part) * own_with.sum(axis=0) + part * expected_with
        pooled = max(len(group) - len(count), 1)
        spread = ((1 - part) * own) ** 2 / freedom + (part * expected) ** 2 / pooled
        return cls(value, with_replacement - value, np.maximum(_ratio(value**2, spread), 1.0))

    def quantile(self) -> Floats:
        """Return (D + 1, C) the quantile of Student's t."""
        return np.asarray(t.ppf(LEVEL, self.freedom))


def _satterthwaite(own: Floats, by_group: Floats, count: Integers) -> Floats:
    """Return the degrees of freedom of a sum of variances; 1 where it is 0."""
    parts = (by_group.T**2 / np.maximum(count - 1, 1)).T.sum(axis=0)
    return np.asarray(np.maximum(_ratio(own**2, parts), 1.0))


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > TINY)


def _expected_squares(sample: Sample, residual: Floats, values: Values) -> Floats:
    """Return (H, D + 1, C) sums of squares of residuals, as the whole sample lets expect them.

    In a block they are proportional to the number of the map's objects, and to the chance of its
    stratum where there are none.

    Args:
        sample: n blocks.
        residual: (n, C) of the whole.
        values: what the map has.
    """
    weights, chance = sample.weights, values.frame.chance
    squares, count, mean_weight = residual**2, values.objects, weights.mean()
    typical = _ratio(squares.sum(axis=0), (squares > TINY).sum(axis=0).astype(float))
    typical = np.maximum(typical, values.unit**2)
    added, has = PSEUDO * typical * mean_weight, count > 0
    each = (weights @ np.where(has, squares, 0) + added) / (weights @ count + mean_weight)
    empty = weights * chance[sample.stratum]
    without = (weights @ np.where(has, 0, squares) + added) / (empty @ ~has + empty.mean())
    in_empty = chance[:, None, None] * values.frame.empty
    return with_whole(each * values.frame.objects + without * in_empty)


@dataclass(frozen=True, slots=True, eq=False)
class Shares:
    """Estimated shares, such as the precision of a map."""

    share: Floats
    """(C,) NaN where nothing of the kind is in the sample."""
    low: Floats
    high: Floats


def estimate_shares(sample: Sample, part: Floats, whole: Floats, values: Values) -> Shares:
    """Estimate the share of one total in another by their quotient in the sample.

    Intervals are Wilson's, with the number of objects that a simple random sample of objects would
    need for the same variance.

    Args:
        sample: n blocks.
        part: (n, C) number of objects that count, such as right ones.
        whole: (n, C) number of all objects.
        values: numbers of objects.
    """
    weights = sample.weights
    sums = weights @ whole
    share = np.divide(weights @ part, sums, out=np.full(len(sums), np.nan), where=sums > 0)
    residual = (part - np.nan_to_num(share) * whole)[:, None]
    objects, empty = (
        parts.sum(axis=1, keepdims=True) for parts in (values.frame.objects, values.frame.empty)
    )
    frame = Frame(objects, empty, values.frame.chance)
    variance = _Variance.of(sample, with_whole(residual), replace(values, frame=frame), LEAN)
    value = _ratio(variance.value[-1], sums**2)
    kish = _ratio(sums**2, weights**2 @ whole)
    middle = (share * kish + PSEUDO) / (kish + 2 * PSEUDO)
    number = np.where(value > TINY, middle * (1 - middle) / np.maximum(value, TINY), np.inf)
    return Shares(share, *wilson_interval(share, number, variance.quantile()[-1]))


def wilson_interval(share: Floats, number: Floats, z: Floats) -> tuple[Floats, Floats]:
    """Return the interval of shares of numbers of objects (Wilson 1927, JASA 22:209).

    Args:
        share: (C,) shares.
        number: (C,) objects; infinite where the share is certain.
        z: (C,) quantiles of the interval's upper end.
    """
    correction = z**2 / number
    centre = (share + correction / 2) / (1 + correction)
    half = np.sqrt(share * (1 - share) * correction + correction**2 / 4) / (1 + correction)
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def lean_on_whole(totals: Totals, known: Floats) -> Totals:
    """Return totals by zone that borrow strength from the whole, where the map has objects.

    The quotient of truth and map of a zone is drawn towards that of the whole, the more the less
    sure it is, and the more alike the zones are (Fay and Herriot 1979, with the moment estimator
    of Prasad and Rao 1990). It is biased where a zone is not like the others.

    Args:
        totals: estimated without it.
        known: (D, C) totals of the map.
    """
    total, variance = totals.total.copy(), totals.variance.copy()
    for c in range(known.shape[1]):
        rows = np.flatnonzero((known[:, c] > 0) & (totals.variance[:-1, c] > 0))
        if len(rows) < 3:  # two zones say nothing about how alike zones are
            continue
        own, error = (
            total[rows, c] / known[rows, c],
            variance[rows, c] / known[rows, c] ** 2,
        )
        between, middle = _between(own, error)
        trust = between / (between + error)
        weight = 1 / (between + error)
        total[rows, c] = known[rows, c] * (trust * own + (1 - trust) * middle)
        unsure = 2 * len(rows) / (weight.sum() ** 2) * error**2 * weight**3
        squared = trust * error + (1 - trust) ** 2 / weight.sum() + 2 * unsure
        variance[rows, c] = known[rows, c] ** 2 * squared
    half = norm.ppf(LEVEL) * np.sqrt(variance)
    low, high = np.maximum(total - half, 0.0), total + half
    low[-1], high[-1] = totals.low[-1], totals.high[-1]
    direct = variance == totals.variance
    low, high = np.where(direct, totals.low, low), np.where(direct, totals.high, high)
    return Totals(total, low, high, variance, totals.gone_at_census, totals.rate)


def _between(own: Floats, error: Floats) -> tuple[float, float]:
    """Return the variance between zones beyond their errors, and their weighted mean."""
    between = 0.0
    for _ in range(100):
        weight = 1 / (between + error)
        middle = float(weight @ own / weight.sum())
        surplus = float(weight @ (own - middle) ** 2 - (len(own) - 1))
        slope = float(weight**2 @ (own - middle) ** 2)
        new = max(between + surplus / slope, 0.0) if slope > 0 else 0.0
        if abs(new - between) <= 1e-6 * between:
            break
        between = new
    return between, middle


def difference(
    later: tuple[Floats, Floats, Floats], earlier: tuple[Floats, Floats, Floats]
) -> tuple[Floats, Floats, Floats]:
    """Return the difference of two independent estimates with its interval.

    Args:
        later: value, low and high.
        earlier: the same.
    """
    (b, b_low, b_high), (a, a_low, a_high) = later, earlier
    change = b - a
    low = change - np.sqrt((b - b_low) ** 2 + (a_high - a) ** 2)
    high = change + np.sqrt((b_high - b) ** 2 + (a - a_low) ** 2)
    return change, low, high
