"""Tracing, joining and tables of regions. Oracles: a flood fill in Python, GDAL's polygons, and
counting by hand."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.gdal_tracing import gdal_trace
from support.tracing import LO19, NAMES, rasters, trace

from capecam.demo.scene import draw_scene
from capecam.detections.measurement import read_pieces, to_table, write_pieces
from capecam.detections.regions import Pieces, join, merge
from capecam.detections.tracing import Tracer
from capecam.grid import Grid, Window


def flood(classes: np.ndarray) -> dict[tuple[int, int], set[tuple[int, int]]]:
    """Return 4-connected regions by their first pixel in row-major order."""
    left = {(r, c) for r, c in np.argwhere((classes > 0) & (classes < 255)).tolist()}
    regions = {}
    for start in sorted(left):
        if start not in left:
            continue
        todo, region = [start], set()
        while todo:
            r, c = todo.pop()
            if (r, c) in left:
                left.remove((r, c))
                region.add((r, c))
                near = [(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)]
                todo += [p for p in near if p in left and classes[p] == classes[start]]
        regions[start] = region
    return regions


@settings(max_examples=150, deadline=None)
@given(rasters, st.sets(st.integers(1, 13), max_size=4))
def test_regions_are_those_of_a_flood_fill(classes: np.ndarray, cuts: set[int]) -> None:
    pieces = trace(classes, [c for c in cuts if c < len(classes)])
    regions = flood(classes)
    assert len(pieces) == len(regions)
    assert shapely.is_valid(pieces.geometry).all()
    for k, geometry, level, (start, region) in zip(
        pieces.class_id, pieces.geometry, pieces.level_sum, sorted(regions.items()), strict=True
    ):
        assert k == classes[start]
        assert geometry.area == len(region)
        assert level == 127 * len(region)
        centres = np.array(sorted(region)) + 0.5
        assert shapely.contains_xy(geometry, centres[:, 1], centres[:, 0]).all()


@settings(max_examples=60, deadline=None)
@given(rasters, st.sets(st.integers(1, 13), max_size=5))
def test_regions_do_not_depend_on_the_strips(classes: np.ndarray, cuts: set[int]) -> None:
    whole, strips = trace(classes), trace(classes, [c for c in cuts if c < len(classes)])
    assert [g.wkb for g in whole.geometry] == [g.wkb for g in strips.geometry]
    assert np.array_equal(whole.level_sum, strips.level_sum)


def assert_same(found: Pieces, expected: Pieces) -> None:
    """Compare pieces byte for byte."""
    assert [g.wkb for g in found.geometry] == [g.wkb for g in expected.geometry]
    assert found.class_id.tolist() == expected.class_id.tolist()
    assert found.level_sum.tolist() == expected.level_sum.tolist()
    assert found.images == expected.images


coordinates = st.integers(-50_000_000, 50_000_000)


@settings(max_examples=100, deadline=None)
@given(
    rasters.flatmap(
        lambda c: st.tuples(
            st.just(c), hnp.arrays(np.uint8, (3, *c.shape), elements=st.integers(0, 254))
        )
    ),
    st.sets(st.integers(1, 13), max_size=5),
    coordinates,
    coordinates,
)
def test_polygons_are_those_of_gdal(rasters, cuts, col, row) -> None:
    classes, levels = rasters
    strips = trace(classes, [c for c in cuts if c < len(classes)], col, row, levels)
    assert_same(strips, gdal_trace(classes, levels, col, row))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_polygons_of_noise_are_those_of_gdal(share: float, classes: int) -> None:
    """Near .6, the pixels of one class begin to hang together: holes in holes, touching corners."""
    rng = np.random.default_rng(classes)
    ids = rng.integers(1, classes + 1, (60, 70), np.uint8)
    noise = np.where(rng.random(ids.shape) < share, ids, rng.choice([0, 255], ids.shape))
    noise = noise.astype(np.uint8)
    levels = rng.integers(0, 255, (classes, *noise.shape), np.uint8)
    assert_same(trace(noise, [7, 8, 9, 41], levels=levels), gdal_trace(noise, levels))


def test_polygons_of_a_drawn_city_are_those_of_gdal() -> None:
    labels = draw_scene(3, 900, 700).labels
    levels = np.random.default_rng(0).integers(0, 255, (3, *labels.shape), np.uint8)
    pieces = trace(labels, range(250, len(labels), 250), levels=levels)
    assert len(pieces) > 5
    assert_same(pieces, gdal_trace(labels, levels))


def test_a_hole_that_touches_the_outside_is_a_ring_of_its_own() -> None:
    classes = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], np.uint8)
    (geometry,) = trace(classes, [2]).geometry
    assert geometry.is_valid
    assert shapely.get_coordinates(geometry.interiors[0]).tolist() == [
        [1, 1], [2, 1], [2, 2], [1, 2], [1, 1],
    ]  # fmt: skip
    assert [2, 2] in shapely.get_coordinates(geometry.exterior).tolist()


def test_memory_does_not_grow_with_the_height_of_regions() -> None:
    """Runs of one pixel, the most there can be, in stripes that no strip ends."""
    classes = np.tile(np.array([1, 2], np.uint8), (100, 100))
    levels = np.full((2, *classes.shape), 9, np.uint8)

    def peak(strips: int) -> int:
        tracer = Tracer(0, "image")
        tracemalloc.start()
        for i in range(strips):
            tracer.add(i * len(classes), classes, levels)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak(30) < 1.2 * peak(5)


def test_a_ring_keeps_its_hole_across_strips() -> None:
    ring = np.ones((9, 9), np.uint8)
    ring[3:6, 3:6] = 0
    (geometry,) = trace(ring, [2, 4, 5]).geometry
    assert geometry.area == 72
    assert len(geometry.interiors) == 1
    assert len(shapely.get_coordinates(geometry)) == 10  # no vertex where strips met


@pytest.mark.parametrize(("gap", "objects"), [(1, 1), (2, 1), (3, 2)])
def test_same_class_pieces_join_up_to_the_distance(gap: int, objects: int) -> None:
    classes = np.zeros((6, 20), np.uint8)
    classes[1:4, 2:5] = 1
    classes[1:4, 5 + gap : 9 + gap] = 1
    classes[4, 2:5] = 2  # another class touches, and is not joined
    joined = join(trace(classes), 2.0)
    assert sorted(joined.class_id) == [1] * objects + [2]
    assert shapely.area(joined.geometry[joined.class_id == 1]).sum() == 9 + 12
    if objects == 1:
        assert joined.geometry[0].geom_type == "MultiPolygon"  # unbridged


def test_the_gap_is_euclidean() -> None:
    classes = np.zeros((8, 8), np.uint8)
    classes[:2, :2] = 1
    classes[3:5, 3:5] = 1  # 1 across and 1 down: 1.41
    classes[7, 7] = 1  # 2 and 2: 2.83
    assert len(join(trace(classes), 2.0)) == 2


def test_pieces_of_two_cells_become_one_object() -> None:
    classes = np.zeros((10, 20), np.uint8)
    classes[2:6, 5:15] = 3
    levels = np.random.default_rng(0).integers(0, 255, (3, 10, 20)).astype(np.uint8)
    one = trace(classes, levels=levels)
    left = trace(classes[:, :9], levels=levels[:, :, :9])
    right = trace(classes[:, 9:], col=9, levels=levels[:, :, 9:])
    joined = join(Pieces.concatenate([right, left]), 2.0)
    assert [g.wkb for g in joined.geometry] == [g.wkb for g in one.geometry]
    assert joined.level_sum.tolist() == one.level_sum.tolist()


def test_columns() -> None:
    classes = np.zeros((10, 10), np.uint8)
    classes[2:4, 3:8] = 2
    levels = np.zeros((3, 10, 10), np.uint8)
    levels[1] = 200
    table = to_table(trace(classes, levels=levels, col=-100, row=50), LO19, NAMES)
    (found,) = table.to_dict("records")
    assert found["id"] == "2_-97_52"
    assert found["class"] == "water heater"
    assert found["area_m2"] == pytest.approx(10 * 0.0064)
    assert found["confidence"] == pytest.approx(200 / 254)
    assert found["images"] == "image"
    assert table.total_bounds == pytest.approx(
        [-51_007.76, -3_763_004.32, -51_007.36, -3_763_004.16]
    )
    lon, lat = pyproj.Transformer.from_crs("ESRI:102562", 4326, always_xy=True).transform(
        *found["geometry"].representative_point().coords[0]
    )
    assert (found["lon"], found["lat"]) == pytest.approx((lon, lat))
    assert table.crs.to_authority() == ("ESRI", "102562")


def test_area_in_degrees_is_geodesic() -> None:
    degree = 1e-6
    grid = Grid(pyproj.CRS(4326).to_wkt(), (18.0, -34.0), (degree, degree), Window(0, 0, 9, 9))
    classes = np.ones((5, 5), np.uint8)
    (area,) = to_table(trace(classes), grid, NAMES)["area_m2"]
    x, y = (
        [18.0, 18 + 5 * degree, 18 + 5 * degree, 18.0],
        [-34.0, -34.0, -34 - 5 * degree, -34 - 5 * degree],
    )
    expected = abs(pyproj.Geod(ellps="WGS84").polygon_area_perimeter(x, y)[0])
    assert area == pytest.approx(expected, rel=1e-3)


def test_area_in_feet_is_in_square_metres() -> None:
    grid = Grid(pyproj.CRS(2263).to_wkt(), (0.0, 0.0), (0.5, 0.5), Window(0, 0, 9, 9))
    (area,) = to_table(trace(np.ones((2, 2), np.uint8)), grid, NAMES)["area_m2"]
    assert area == pytest.approx(4 * (0.5 * 0.3048006096) ** 2)


def test_pieces_are_the_same_after_writing_and_reading(tmp_path) -> None:
    classes = np.random.default_rng(3).choice([0, 0, 0, 1, 2, 3], (40, 40)).astype(np.uint8)
    pieces = trace(classes, col=-637_513, row=47_037_511)
    grid = Grid(LO19.crs, (0.0, 0.0), (0.08, 0.08), Window(0, 0, 9, 9))
    write_pieces(pieces, grid, NAMES, tmp_path / "p.parquet")
    back = merge(read_pieces(tmp_path / "p.parquet", grid), np.empty((2, 0), np.int64))
    assert [shapely.normalize(g).wkb for g in back.geometry] == [g.wkb for g in pieces.geometry]
    assert back.images == pieces.images


def test_without_objects_the_table_has_no_rows(tmp_path) -> None:
    empty = trace(np.zeros((5, 5), np.uint8))
    write_pieces(empty, LO19, NAMES, tmp_path / "p.parquet")
    assert len(join(read_pieces(tmp_path / "p.parquet", LO19), 2.0)) == 0
