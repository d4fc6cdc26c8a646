"""What the first looks find, worked out by hand."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely
from sklearn.metrics import roc_auc_score

from capecam.analysis.held_out import auc
from capecam.analysis.looks import score_misses, score_orders


def test_errors_in_the_first_looks() -> None:
    wrong = np.zeros(40, np.bool_)
    wrong[[0, 2, 39]] = True
    rank = np.arange(1, 41)
    score = score_orders(wrong, {"queue": rank, "back": 41 - rank}, np.arange(40))
    assert (score.objects, score.errors, score.looks) == (40, 3, (10, 20, 40))
    assert score.orders["queue"].found == (2, 2, 3)
    assert score.orders["back"].found == (1, 1, 3)
    assert score.orders["random"].found == pytest.approx((0.75, 1.5, 3))
    first, area = score.orders["queue"].first_tenth, score.orders["queue"].auc
    assert first is not None
    assert first.value == pytest.approx(2 / 3)
    # 37 right ones come after the first error, 36 after the second, none after the third.
    assert area is not None
    assert area.value == pytest.approx((37 + 36 + 0) / (3 * 37))
    assert first.low <= first.value <= first.high
    assert area.low < area.value < area.high
    back = score.orders["back"].auc
    assert back is not None
    assert area.value + back.value == pytest.approx(1)


def test_objects_of_a_block_are_drawn_together() -> None:
    wrong, rank = np.tile([True, False], 50), np.arange(1, 101)
    alone = score_orders(wrong, {"queue": rank}, np.arange(100)).orders["queue"].auc
    pairs = score_orders(wrong, {"queue": rank}, np.arange(100) // 2).orders["queue"].auc
    assert alone is not None
    assert pairs is not None
    assert pairs.high - pairs.low < 0.5 * (alone.high - alone.low)


def test_without_errors_or_objects_nothing_is_said() -> None:
    for count in (0, 5):
        score = score_orders(
            np.zeros(count, np.bool_), {"queue": np.arange(1, count + 1)}, np.arange(count)
        )
        assert score.orders["queue"].auc is None
        assert score.orders["queue"].first_tenth is None
        assert score.to_text()


def test_the_auc_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        right = rng.random(60) < 0.7
        p, weights = rng.integers(0, 9, 60) / 9, rng.integers(0, 4, 60).astype(float)
        expected = roc_auc_score(right, p, sample_weight=weights)
        assert auc(p, right, weights[None])[0] == pytest.approx(expected)


def test_misses_count_each_object_once() -> None:
    boxes = [shapely.box(x, 0, x + 1, 1) for x in range(0, 60, 2)]
    places = gpd.GeoSeries(boxes)
    unseen = gpd.GeoSeries([
        shapely.box(0, 0, 3, 1),  # the first two places
        shapely.box(40, 0, 41, 1),  # the 21st
        shapely.box(200, 0, 201, 1),  # none
    ])  # fmt: skip
    score = score_misses(unseen, places, np.arange(1, 31))
    assert (score.objects, score.errors, score.looks) == (30, 3, (10, 20, 30))
    assert score.orders["misses"].found == (1, 1, 2)
    # Neither of two places is among 10 of 30 with a probability of 20/30 * 19/29.
    assert score.orders["random"].found[0] == pytest.approx(1 - 20 / 30 * 19 / 29 + 1 / 3)
    assert score.orders["random"].found[-1] == pytest.approx(2)
    assert "AUC" not in score.to_text()
