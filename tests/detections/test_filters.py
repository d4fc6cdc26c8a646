"""Filters and their reasons; simplified outlines that never overlap."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tracing import LO19, NAMES, trace

from capecam.detections.filters import rejection_reasons, share_on_buildings
from capecam.detections.measurement import to_table
from capecam.detections.regions import Pieces, join
from capecam.detections.simplification import simplify_outlines
from capecam.errors import SettingsError
from capecam.settings import DetectionSettings
from capecam.settings.loading import load

M2 = 0.08**2


def reasons(pieces: Pieces, buildings=None, **rules) -> list[str]:
    table = to_table(pieces, LO19, NAMES)
    tree = None if buildings is None else shapely.STRtree(buildings)
    return rejection_reasons(pieces, table, DetectionSettings(**rules), NAMES, tree).tolist()


def squares(*sides: int, class_id: int = 1) -> Pieces:
    classes = np.zeros((max(sides), sum(sides) + 5 * len(sides)), np.uint8)
    col = 0
    for side in sides:
        classes[:side, col : col + side] = class_id
        col += side + 5
    return trace(classes)


def test_objects_of_the_minimum_area_or_less_are_small() -> None:
    assert reasons(squares(3, 4, 5), min_area_m2=16 * M2) == ["small", "small", ""]


def test_the_minimum_area_may_differ_by_class() -> None:
    rules = {"min_area_m2": {"water heater": 10 * M2, "solar panel": 20 * M2}}
    assert reasons(squares(4), **rules) == ["small"]
    assert reasons(squares(4, class_id=2), **rules) == [""]
    assert reasons(squares(4, class_id=3), **rules) == ["small"]  # not named: 1.7 m2


def test_objects_below_the_minimum_confidence_are_unsure() -> None:
    classes = np.array([[1, 1, 0, 2, 2]], np.uint8)
    levels = np.array([[[127, 127, 0, 0, 0]], [[0, 0, 0, 254, 127]], [[0] * 5]], np.uint8)
    pieces = trace(classes, levels=levels)
    assert reasons(pieces, min_area_m2=0, min_confidence=0.5) == ["", ""]
    assert reasons(pieces, min_area_m2=0, min_confidence=0.6) == ["unsure", ""]
    assert reasons(pieces, min_area_m2=0, min_confidence={"water heater": 0.8}) == ["", "unsure"]


def test_objects_off_buildings_are_rejected() -> None:
    pieces = squares(10, 10, 10)  # at columns 0, 15 and 30
    buildings = np.array([shapely.box(-5, -5, 8, 20), shapely.box(15, 0, 22.9, 10)])
    assert reasons(pieces, buildings, min_area_m2=0) == ["", "off building", "off building"]
    assert reasons(pieces, buildings, min_area_m2=0, footprint_share=0.0) == ["", "", ""]


def test_overlapping_buildings_count_once() -> None:
    pieces = squares(10)
    halves = [shapely.box(0, 0, 5, 10), shapely.box(0, 0, 6, 10), shapely.box(9, 0, 10, 10)]
    share = share_on_buildings(pieces.geometry, shapely.STRtree(halves))
    assert share == pytest.approx([0.7])


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"min_area_m2": {"solar panels": 1}}, "did you mean solar panel"),
        ({"min_confidence": "much"}, "must be a number of at least 0, .*got 'much'"),
        ({"min_area_m2": -1}, "must be a number of at least 0, .*got -1"),
    ],
)
def test_invalid_rules_are_rejected(rules: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load(None, {f"detections.{key}": value for key, value in rules.items()})


def test_rules_by_class_can_be_given_on_the_command_line() -> None:
    loaded = load(None, {"detections.min_area_m2": "water heater=1, pool heater=2.5"})
    assert loaded.detections.by_class("min_area_m2", NAMES) == [1.7, 1.7, 1.0, 2.5]


def scene(seed: int) -> Pieces:
    """Create blocks of classes that touch, with ragged edges, holes and diagonal contacts."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(4, 40, 2)
    side = rng.choice([3, 5, 8])
    blocks = rng.choice([0, 0, 1, 2, 3], (height // side + 1, width // side + 1))
    classes = blocks.repeat(side, 0).repeat(side, 1)[:height, :width].astype(np.uint8)
    ragged = rng.random((height, width)) < 0.1
    classes[ragged] = rng.choice([0, 1, 2], ragged.sum())
    return join(trace(classes), 2.0)


def outlines(parts: list[Pieces], tolerance_px: float) -> np.ndarray:
    return np.concatenate([shapes for _, shapes in simplify_outlines(parts, tolerance_px)])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 1.0, 2.0, 4.0]))
def test_simplified_neighbours_never_overlap(seed: int, tolerance_px: float) -> None:
    objects = scene(seed)
    shapes = outlines([objects], tolerance_px)
    assert shapely.is_valid(shapes).all()
    assert not shapely.is_empty(shapes).any()
    a, b = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    assert (
        shapely.area(shapely.intersection(shapes[a[a < b]], shapes[b[a < b]])).max(initial=0) < 1e-9
    )
    batches = [objects.take(np.arange(len(objects))[n : n + 3]) for n in range(0, len(objects), 3)]
    assert [g.wkb for g in outlines(batches, tolerance_px)] == [g.wkb for g in shapes]


def test_a_staircase_becomes_a_line_that_two_classes_share() -> None:
    row, col = np.mgrid[:40, :40]
    objects = join(trace(np.where(row > col, 1, 2).astype(np.uint8)), 2.0)
    shapes = outlines([objects], 2.0)
    assert shapely.get_num_coordinates(objects.geometry).min() > 70
    assert shapely.get_num_coordinates(shapes).max() < 12
    assert shapely.area(shapes).sum() == pytest.approx(1600)
    assert shapely.area(shapely.intersection(*shapes)) == pytest.approx(0)


def test_without_a_tolerance_outlines_are_unchanged() -> None:
    objects = scene(1)
    for (part, shapes), given_part in zip(
        simplify_outlines([objects], 0.0), [objects], strict=True
    ):
        assert part is given_part
        assert all(a is b for a, b in zip(shapes, objects.geometry, strict=True))


def test_the_order_is_kept() -> None:
    parts = [part for part, _ in simplify_outlines([scene(3)], 1.0)]
    ids = list(itertools.chain.from_iterable(part.class_id for part in parts))
    assert ids == scene(3).class_id.tolist()
