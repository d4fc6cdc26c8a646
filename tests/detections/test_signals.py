"""Signals of objects, worked out by hand. Runs are compared with whole arrays in test_evidence."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely

from capecam.detections.signals import ProbabilitySums, edge_strips, entropy, shape_measures

LEVELS = 254


def measure(shape: shapely.Geometry, levels: np.ndarray) -> tuple[float, ...]:
    """Signals of an object of class 1 from (2, 40, 40) levels whose corner is at (-20, -20)."""
    sums = ProbabilitySums(1, 3)
    for strip in edge_strips(shape):
        w = strip.window
        sums.add(strip, levels[:, w.row + 20 : w.bottom + 20, w.col + 20 : w.right + 20])
    return sums.measures()


def scene(inside: int, outside: int) -> np.ndarray:
    levels = np.zeros((2, 40, 40), np.uint8)
    levels[0] = outside
    levels[0, 20:22, 20:22] = inside
    return levels


SQUARE = shapely.box(0, 0, 2, 2)


def test_a_square_of_two_pixels() -> None:
    """P(class) is 200/254 inside and 20/254 outside; what is left is background."""
    soft_edge, margin, border_entropy, near = measure(SQUARE, scene(200, 20))
    assert soft_edge == pytest.approx(20 / 200)
    assert margin == pytest.approx((200 - 54) / LEVELS)
    p = 200 / LEVELS
    assert border_entropy == pytest.approx(-p * math.log2(p) - (1 - p) * math.log2(1 - p))
    assert near == pytest.approx(20 / LEVELS)


def test_the_highest_other_class_is_what_the_margin_is_over() -> None:
    levels = scene(120, 0)
    levels[1, 20:22, 20:22] = 100
    _, margin, border_entropy, _ = measure(SQUARE, levels)
    assert margin == pytest.approx(20 / LEVELS)
    parts = np.array([34, 120, 100]) / LEVELS
    assert border_entropy == pytest.approx(-(parts * np.log2(parts)).sum())


def test_another_object_of_the_class_and_nodata_do_not_count() -> None:
    levels = scene(200, 20)
    levels[0, 20:22, 24:26] = 200  # 2 px to the right: an object of its own
    levels[:, :, :18] = 255  # no imagery from 2 px to the left on
    assert measure(SQUARE, levels) == pytest.approx(measure(SQUARE, scene(200, 20)))


def test_an_object_without_surroundings_has_no_soft_edge() -> None:
    levels = np.full((2, 40, 40), 255, np.uint8)
    levels[:, 20:22, 20:22] = scene(200, 20)[:, 20:22, 20:22]
    soft_edge, margin, _, near = measure(SQUARE, levels)
    assert np.isnan([soft_edge, near]).all()
    assert margin == pytest.approx(146 / LEVELS)


def test_strips_cover_a_tall_object_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = shapely.box(0, 0, 3, 90).difference(shapely.box(1, 40, 2, 60))

    def counts() -> list[int]:
        strips = list(edge_strips(shape))
        masks = ("inside", "border", "edge", "near")
        return [sum(int(getattr(s, name).sum()) for s in strips) for name in masks]

    whole = counts()
    assert whole[0] == 3 * 90 - 20
    monkeypatch.setattr("capecam.detections.signals.STRIP", 7)
    assert counts() == whole


def test_entropy_in_bits() -> None:
    levels = np.array([[254, 127, 0], [0, 127, 0], [0, 0, 0]])
    assert entropy(levels).tolist() == [0, 1, 0]


def test_shapes() -> None:
    square = shape_measures(shapely.box(0, 0, 10, 10), (0.08, 0.08))
    assert square == pytest.approx((math.pi / 4, 1))
    # Pixels twice as wide as they are high: 20 x 10 on the ground, area 200, perimeter 60.
    assert shape_measures(shapely.box(0, 0, 10, 10), (2.0, 1.0)) == pytest.approx(
        (4 * math.pi * 200 / 60**2, 1)
    )
    corner = shapely.box(0, 0, 10, 10).difference(shapely.box(5, 5, 10, 10))
    assert shape_measures(corner, (1.0, 1.0))[1] < 0.8
    apart = shapely.MultiPolygon([shapely.box(0, 0, 10, 10), shapely.box(11, 0, 21, 10)])
    assert shape_measures(apart, (1.0, 1.0))[1] == pytest.approx(200 / 210)


def test_the_steps_of_a_slanted_edge_do_not_lengthen_it() -> None:
    steps = shapely.union_all([shapely.box(n, n, n + 4, n + 1) for n in range(40)])
    straight = shapely.Polygon([(0, 0), (4, 0), (44, 40), (40, 40)])
    compactness, _ = shape_measures(steps, (1.0, 1.0))
    assert compactness == pytest.approx(4 * math.pi * 160 / straight.length**2, rel=0.1)
