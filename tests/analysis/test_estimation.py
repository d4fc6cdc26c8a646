"""Totals from samples of blocks: worked out by hand, written slowly, and simulated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from capecam.analysis.review.design import Strata, allocate, draw, random_ranks, stratify
from capecam.analysis.review.estimation import (
    LEAN,
    PSEUDO,
    Frame,
    Sample,
    Totals,
    Values,
    difference,
    estimate_shares,
    estimate_totals,
    lean_on_whole,
)

SAMPLE = Sample(
    np.array([0, 0, 0, 1, 1, 2, 2]), np.array([6, 4, 2]), zone_of_stratum=np.array([0, 1, 2])
)
"""Three zones of 6, 4 and 2 blocks, of which 3, 2 and 2 were checked."""

X = np.array([2.0, 1, 0, 1, 3, 1, 0])
Y = np.array([2.0, 0, 1, 1, 2, 2, 0])
ZONE = np.array([0, 0, 0, 1, 1, 2, 2])
KNOWN = np.array([[5.0], [8], [1]])
EMPTY = np.array([2.0, 0, 1])
"""Blocks without an object of the map, by zone."""


def by_zone(values: np.ndarray) -> np.ndarray:
    """(n,) values as (n, 3, 1): each in its zone."""
    spread = np.zeros((len(values), 3, 1))
    spread[np.arange(len(values)), ZONE, 0] = values
    return spread


@pytest.fixture
def three_zones() -> Values:
    frame = Frame(np.diag(KNOWN[:, 0])[..., None], np.diag(EMPTY)[..., None], np.ones(3))
    return Values(KNOWN, by_zone(X), by_zone(Y), X[:, None], frame, np.ones(1))


def test_three_zones_by_hand(three_zones: Values) -> None:
    """Rate: (3 x 1 + 4 x 1) / (3 x 2 + 4 x 2), where 3 = .5 x 3/2 x 2² and 4 = .5 x 2/1 x 2²."""
    totals = estimate_totals(SAMPLE, three_zones)
    assert totals.rate == pytest.approx([0.5])
    # A: .5 x 5 + 2 x (1 - .5 + 1); B: .5 x 8 + 2 x (.5 + .5); C: .5 x 1 + 1.5 + 0, the truth.
    assert totals.total[:, 0] == pytest.approx([5.5, 6.0, 2.0, 13.5])
    assert totals.low[2] == totals.high[2] == 2.0
    # The variance of A alone is 36 x .5 x .75 / 3 = 4.5, and B has none: nor has it any errors.
    # A and the whole have (4 x .25 + 4 x 1 + 4 x .25)² / (1² + 4² + 1²) = 2 errors.
    lean = LEAN / (2 + LEAN)
    squares = slow_squares(three_zones, residual=[1, -0.5, 1, 0.5, 0.5, 1.5, 0])
    expected = [squares[0] * (6 / 3 - 1), squares[1] * (4 / 2 - 1), 0]
    whole = (1 - lean) * 4.5 + lean * sum(expected)
    fit = whole / sum(expected)
    assert totals.variance[:, 0] == pytest.approx(
        [(1 - lean) * 4.5 + lean * fit * expected[0], fit * expected[1], 0, whole]
    )


def slow_squares(values: Values, residual: list[float]) -> list[float]:
    """Expected sum of squares in all blocks of each zone, block by block."""
    weights = [2, 2, 2, 2, 2, 1, 1]
    mean_weight = sum(weights) / 7
    typical = max(np.mean([r * r for r in residual if r]), 1.0)
    has = objects = without = blocks = 0.0
    for w, x, r in zip(weights, X, residual, strict=True):
        if x:
            has, objects = has + w * r * r, objects + w * x
        else:
            without, blocks = without + w * r * r, blocks + w
    each = (has + PSEUDO * typical * mean_weight) / (objects + mean_weight)
    empty = (without + PSEUDO * typical * mean_weight) / (blocks + mean_weight)
    return [each * values.known[zone, 0] + empty * EMPTY[zone] for zone in range(3)]


def test_zones_add_up_to_the_whole(three_zones: Values) -> None:
    totals = estimate_totals(SAMPLE, three_zones)
    assert totals.total[:-1].sum(axis=0) == pytest.approx(totals.total[-1])


class City:
    """N blocks with a map that is mostly right; zones have unequal numbers of objects."""

    def __init__(self, seed: int = 1, number: int = 600, zones: int = 4) -> None:
        rng = np.random.default_rng(seed)
        self.zone = np.arange(number) * zones // number
        true = rng.poisson(0.3 + 0.4 * self.zone)
        found = rng.binomial(true, 0.85)
        wrong = rng.poisson(0.08, number)
        self.y, self.x = true.astype(float), (found + wrong).astype(float)
        self.right = found.astype(float)
        self.spread = np.sqrt(0.05 + 0.1 * self.x)
        self.member = np.eye(zones)[self.zone]

    @property
    def truth(self) -> np.ndarray:
        return np.append(self.member.T @ self.y, self.y.sum())

    def values(self, strata: Strata, drawn: np.ndarray) -> Values:
        shape = len(strata.looks), self.member.shape[1], 1
        objects, empty = np.zeros(shape), np.zeros(shape)
        np.add.at(objects[..., 0], (strata.stratum, self.zone), self.x)
        np.add.at(empty[..., 0], (strata.stratum, self.zone), self.x == 0)
        chance = (np.bincount(strata.stratum, self.spread) / strata.sizes) ** 2
        here = self.member[drawn]
        return Values(
            (self.member.T @ self.x)[:, None],
            (here * self.x[drawn, None])[..., None],
            (here * self.y[drawn, None])[..., None],
            self.x[drawn, None],
            Frame(objects, empty, chance),
            np.ones(1),
        )

    def review(self, strata: Strata, seed: int) -> tuple[Sample, Values, np.ndarray]:
        drawn = draw(strata, np.random.default_rng(seed).permutation(len(self.zone)))
        sample = Sample(strata.stratum[drawn], strata.sizes, strata.zone)
        return sample, self.values(strata, drawn), drawn


def test_a_census_is_the_truth_without_an_interval() -> None:
    city = City(number=60)
    strata = stratify(city.spread, city.zone, 60)
    sample, values, drawn = city.review(strata, 0)
    totals = estimate_totals(sample, values)
    for side in (totals.total, totals.low, totals.high):
        assert side[:, 0] == pytest.approx(city.truth)
    assert (totals.more_looks(60, 60) == 0).all()
    precision = estimate_shares(sample, city.right[drawn, None], city.x[drawn, None], values)
    share = city.right.sum() / city.x.sum()
    for side in (precision.share, precision.low, precision.high):
        assert side == pytest.approx(share)


def test_estimates_are_unbiased_and_intervals_hold() -> None:
    city = City()
    strata = stratify(city.spread, city.zone, 120)
    errors, inside = [], []
    for seed in range(600):
        sample, values, _ = city.review(strata, seed)
        totals = estimate_totals(sample, values)
        errors.append(totals.total[:, 0] - city.truth)
        inside.append(
            (totals.low[:, 0] <= city.truth + 1e-9) & (city.truth <= totals.high[:, 0] + 1e-9)
        )
    error = np.array(errors)
    standard_error = error.std(axis=0) / np.sqrt(len(error))
    # The rate is estimated, which leaves a bias that is small beside the standard deviation.
    assert (np.abs(error.mean(axis=0)) < 3 * standard_error + 0.05 * error.std(axis=0)).all()
    coverage = np.mean(inside, axis=0)
    assert (coverage > 0.91).all(), coverage  # 600 reviews: .95 give or take .02
    assert (coverage < 0.99).all(), coverage


def test_shares_hold() -> None:
    city = City()
    strata = stratify(city.spread, city.zone, 120)
    inside = []
    for seed in range(400):
        sample, values, drawn = city.review(strata, seed)
        for part, whole in ((city.right, city.x), (city.right, city.y)):
            found = estimate_shares(sample, part[drawn, None], whole[drawn, None], values)
            share = part.sum() / whole.sum()
            inside.append(bool(found.low[0] <= share <= found.high[0]))
    assert 0.92 < np.mean(inside) < 0.98


def test_a_sample_without_errors_has_an_interval() -> None:
    city = City()
    city.y = city.x
    sample, values, _ = city.review(stratify(city.spread, city.zone, 60), 3)
    totals = estimate_totals(sample, values)
    assert totals.total[:, 0] == pytest.approx(city.truth)
    assert (totals.high > totals.low).all()


def test_a_useless_map_does_no_harm() -> None:
    """Its rate is about 0, and the interval that of a sample without a map."""
    city = City()
    city.x = np.random.default_rng(9).permutation(city.x) * 5
    strata = stratify(np.ones(600), np.zeros(600, np.int64), 150)
    sample, values, _ = city.review(strata, 1)
    totals = estimate_totals(sample, values)
    without = estimate_totals(sample, replace(values, x=values.x * 0, known=values.known * 0))
    assert totals.rate[0] < 0.1
    width, alone = (float(a.high[-1, 0] - a.low[-1, 0]) for a in (totals, without))
    assert width < 1.05 * alone


def test_as_many_more_looks_halve_an_interval() -> None:
    """One stratum of 1,000 blocks, 50 checked: variance N² (1/n - 1/N) s²; by hand n = 174."""
    quarter = 1000**2 * (1 / 50 - 1 / 1000) / 4
    assert pytest.approx(quarter, rel=0.01) == 1000**2 * (1 / 174 - 1 / 1000)
    value = np.array([[1000**2 * (1 / 50 - 1 / 1000)]])
    zero = value * 0
    totals = Totals(zero, zero, zero, value, np.array([[1000.0]]), np.ones(1))
    assert totals.more_looks(50, 1000)[0, 0] == 174 - 50


def test_a_stratum_with_one_block_is_collapsed() -> None:
    sample = Sample(np.array([0, 1, 1, 2, 2]), np.array([5, 4, 3]), np.array([0, 0, 1]))
    group, share, count = sample.groups()
    assert group.tolist() == [0, 0, 0, 1, 1]
    assert (share.tolist(), count.tolist()) == ([3 / 9, 2 / 3], [3, 2])
    assert sample.weights.tolist() == [5, 2, 2, 1.5, 1.5]
    alone = Sample(np.array([0]), np.array([7]), np.array([0]))
    assert alone.groups()[2].tolist() == [1]


@pytest.mark.parametrize("stratum", [[0, 0], [0, 0, 0, 1]])
def test_a_sample_that_cannot_be_is_refused(stratum: list[int]) -> None:
    with pytest.raises(ValueError, match="blocks checked of"):
        Sample(np.array(stratum), np.array([2, 3]), np.array([0, 0]))


def test_zones_that_borrow_are_drawn_towards_the_others() -> None:
    """Three zones with one truth: the unsure one takes it over, and its interval is narrower."""
    known = np.full((3, 1), 100.0)
    total = np.array([[110.0], [112], [160], [382]])
    variance = np.array([[25.0], [25], [900], [950]])
    half = 1.96 * np.sqrt(variance)
    direct = Totals(total, total - half, total + half, variance, variance * 0, np.ones(1))
    found = lean_on_whole(direct, known)
    assert 112 < found.total[2, 0] < 130
    assert (found.high - found.low)[2, 0] < 0.7 * 2 * half[2, 0]
    assert found.total[-1] == total[-1]
    two = lean_on_whole(direct, np.array([[100.0], [100], [0]]))
    assert (two.total == total).all()  # two zones say nothing about how alike zones are


def test_a_difference_is_as_unsure_as_both_years() -> None:
    change, low, high = difference(
        (np.array([10.0]), np.array([7.0]), np.array([14.0])),
        (np.array([4.0]), np.array([0.0]), np.array([7.0])),
    )
    assert (change[0], low[0], high[0]) == pytest.approx(
        (6, 6 - np.hypot(3, 3), 6 + np.hypot(4, 4))
    )


def test_quantiles_are_of_students_t(three_zones: Values) -> None:
    """Few blocks hardly know their variance, so that an interval is wider than 1.96 times it."""
    totals = estimate_totals(SAMPLE, three_zones)
    half = totals.high[0, 0] - totals.total[0, 0]
    ratio = half / np.sqrt(totals.variance[0, 0])
    assert t.ppf(0.975, 7) < ratio < t.ppf(0.975, 2)


sizes = st.lists(st.integers(1, 50), min_size=1, max_size=8)


@given(sizes, st.integers(1, 200), st.integers(0, 2**32 - 1), st.integers(0, 4))
def test_looks_are_divided_without_remainder(
    sizes: list[int], looks: int, seed: int, least: int
) -> None:
    size = np.array(sizes)
    sums = np.random.default_rng(seed).exponential(size=len(size)) * size
    given = allocate(looks, sums, size, least)
    assert (given <= size).all()
    assert (given >= np.minimum(size, min(least, 1))).all()
    wanted = min(looks, size.sum())
    assert given.sum() == max(wanted, np.minimum(size, min(least, 1)).sum())


def test_looks_go_where_much_may_be_wrong() -> None:
    assert allocate(10, np.array([1.0, 3, 1]), np.array([50, 50, 50]), 1).tolist() == [2, 6, 2]
    assert allocate(10, np.array([1.0, 9, 0]), np.array([50, 4, 50]), 2).tolist() == [4, 4, 2]


@given(st.integers(0, 1000), st.integers(30, 120))
def test_every_block_can_be_drawn(seed: int, looks: int) -> None:
    city = City(seed, 200)
    strata = stratify(city.spread, city.zone, looks)
    assert strata.looks.sum() == looks
    assert (strata.looks >= 1).all()
    assert set(zip(strata.stratum, city.zone, strict=True)) == {
        (h, z) for h, z in enumerate(strata.zone)
    }  # no stratum crosses a zone
    means = np.bincount(strata.stratum, city.spread) / strata.sizes
    for zone in range(4):
        probability = (strata.looks / strata.sizes)[strata.zone == zone]
        order = np.argsort(means[strata.zone == zone])
        assert probability[order][-1] >= probability[order][0] - 0.2


def test_the_rank_of_a_block_does_not_depend_on_others() -> None:
    col, row = np.arange(-20, 20), np.arange(40) % 7 - 3
    every = random_ranks(col, row, 5)
    some = random_ranks(col[::3], row[::3], 5)
    assert np.argsort(every[::3]).tolist() == np.argsort(some).tolist()
    assert sorted(every) == list(range(40))
    assert random_ranks(col, row, 6).tolist() != every.tolist()


def test_more_looks_keep_those_that_were_drawn() -> None:
    city = City()
    strata = stratify(city.spread, city.zone, 50)
    ranks = random_ranks(np.arange(600), np.zeros(600, np.int64), 1)
    more = Strata(strata.stratum, strata.zone, np.minimum(strata.looks * 2, strata.sizes))
    assert set(draw(strata, ranks)) < set(draw(more, ranks))
