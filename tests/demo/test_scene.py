"""The sample city must be repeatable, its truth exact, and its collectors as large as real ones."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from capecam.demo.scene import Scene, SceneObject, draw_scene

M2_PER_PX = 0.08**2


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Two neighbourhoods, 112 m wide each."""
    return [draw_scene(seed, 1400, 1400) for seed in (3, 5)]


def rasterised(scene: Scene) -> np.ndarray:
    """The labels written slowly: every pixel centre of the scene against every polygon."""
    height, width = scene.labels.shape
    cols, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    labels = np.zeros((height, width), np.uint8)
    for thing in scene.objects:
        shapely.prepare(thing.polygon)
        labels[shapely.contains_xy(thing.polygon, cols, rows)] = thing.class_id
    return labels


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not() -> None:
    first, again, other = (draw_scene(seed, 420, 333) for seed in (11, 11, 12))
    assert first.pixels.shape == (333, 420, 3)
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.labels, again.labels)
    assert first.objects == again.objects
    assert not np.array_equal(first.pixels, other.pixels)


def test_labels_are_the_rasterised_objects() -> None:
    scene = draw_scene(21, 700, 640)
    assert scene.objects
    assert np.array_equal(scene.labels, rasterised(scene))


def test_every_object_owns_pixels_and_lies_inside_the_scene(scenes: list[Scene]) -> None:
    for scene in scenes:
        height, width = scene.labels.shape
        for thing in scene.objects:
            assert thing.polygon.is_valid
            assert shapely.box(0, 0, width, height).covers(thing.polygon)


def test_objects_keep_apart(scenes: list[Scene]) -> None:
    for scene in scenes:
        shapes = np.array([thing.polygon for thing in scene.objects])
        left, right = shapely.STRtree(shapes).query(shapes, predicate="dwithin", distance=3.0)
        assert (left == right).all()


def test_classes_and_sizes_are_like_those_of_the_city(scenes: list[Scene]) -> None:
    things = [thing for scene in scenes for thing in scene.objects]
    area_m2 = np.array([thing.polygon.area for thing in things]) * M2_PER_PX
    share = np.bincount([thing.class_id for thing in things], minlength=4) / len(things)
    assert len(things) > 40
    assert share[0] == 0
    assert 0.25 < share[1] < 0.55
    assert 0.25 < share[2] < 0.55
    assert 0.10 < share[3] < 0.35
    assert 2.0 < np.median(area_m2) < 7.0
    assert np.quantile(area_m2, 0.75) > 6.0
    assert area_m2.max() < 200


def test_panels_are_darker_than_what_surrounds_them(scenes: list[Scene]) -> None:
    """The picture shows something where the truth says so: solar glass is dark."""
    for scene in scenes:
        grey = scene.pixels.mean(axis=2)
        assert grey[scene.labels == 1].mean() < grey[scene.labels == 0].mean() - 10


@pytest.mark.parametrize(("width_px", "height_px"), [(319, 320), (320, 319)])
def test_scenes_smaller_than_a_plot_are_refused(width_px: int, height_px: int) -> None:
    with pytest.raises(ValueError, match="at least 320 px"):
        draw_scene(1, width_px, height_px)


def test_smallest_scene_can_be_drawn() -> None:
    assert draw_scene(1, 320, 320).pixels.shape == (320, 320, 3)


def test_background_is_no_object() -> None:
    with pytest.raises(ValueError, match="class must be 1, 2 or 3, got 0"):
        SceneObject(0, shapely.box(0, 0, 1, 1))


def test_scene_refuses_labels_of_another_size() -> None:
    with pytest.raises(ValueError, match="do not go with"):
        Scene(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8), ())
