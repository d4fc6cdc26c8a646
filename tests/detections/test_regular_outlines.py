"""Regular outlines: few vertices, right angles, the area of the pixels, and no overlaps."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.affinity import rotate, translate
from support.commands import typed
from support.runs import make_run
from support.tracing import LO19, rasters, trace

from capecam.detections.export import export
from capecam.detections.outline_edges import ALONG, FREE, Knots, find_edges
from capecam.detections.regions import Polygons, join, mask
from capecam.detections.regularization import MANY_VERTICES, is_usable, regular_outlines
from capecam.errors import OutputError, UsageError
from capecam.grid import Grid, Window

PAGE = Window(0, 0, 200, 200)
L = shapely.box(40, 40, 120, 100) - shapely.box(90, 40, 120, 70)
TRIANGLE = shapely.Polygon([(40, 40), (150, 60), (60, 140)])
FRAME = shapely.box(50, 50, 140, 120) - shapely.box(70, 70, 120, 100)
DISC = shapely.Point(90, 90).buffer(30, quad_segs=64)


def drawn(*shapes: shapely.Polygon) -> Polygons:
    """Outlines of the largest regions of pixels of shapes."""
    regions = [trace(mask(shape, PAGE).astype(np.uint8)).geometry for shape in shapes]
    return np.array([max(some, key=shapely.area) for some in regions], object)


def iou(a: Polygons, b: Polygons) -> np.ndarray:
    both = shapely.area(shapely.intersection(a, b))
    return both / (shapely.area(a) + shapely.area(b) - both)


def turns(shape: shapely.Geometry) -> np.ndarray:
    """Turns at the corners of the first ring, in degrees."""
    step = np.diff(shapely.get_coordinates(shapely.get_rings(shapely.get_parts(shape))[0]), axis=0)
    heading = np.degrees(np.arctan2(step[:, 1], step[:, 0]))
    return (np.diff(heading, append=heading[:1]) + 180) % 360 - 180


@pytest.mark.parametrize("angle", [0, 7, 30, 45, 82])
@pytest.mark.parametrize(
    ("shape", "vertices"), [(shapely.box(50, 60, 130, 95), 5), (L, 7), (TRIANGLE, 4), (FRAME, 10)]
)
def test_drawn_shapes_come_back(shape: shapely.Polygon, vertices: int, angle: float) -> None:
    true = np.array([rotate(shape, angle, (90, 90))])
    pixels = drawn(*true)
    outlines = regular_outlines(pixels)
    assert shapely.get_num_coordinates(outlines) == vertices
    assert np.isclose(shapely.area(outlines), shapely.area(pixels))
    assert iou(outlines, true) >= max(iou(pixels, true)[0] - 1e-9, 0.975)
    if shape is not TRIANGLE:
        assert np.allclose(np.abs(turns(outlines[0])), 90)


def test_round_objects_stay_round() -> None:
    ellipse = rotate(shapely.affinity.scale(DISC, 1, 0.6), 20)
    true = np.array([DISC, ellipse])
    pixels = drawn(*true)
    outlines = regular_outlines(pixels)
    assert (iou(outlines, true) >= iou(pixels, true)).all()
    assert (shapely.get_num_coordinates(outlines) < shapely.get_num_coordinates(pixels) / 5).all()


def test_edges_are_the_cheapest_of_all() -> None:
    """Every choice of corners and kinds is tried; distances are integrated by Simpson's rule."""
    rng = np.random.default_rng(2)
    angles = np.arange(6) + rng.uniform(0, 0.5, 6)
    xy = np.column_stack([np.cos(angles), np.sin(angles)]) * rng.uniform(12, 20, (6, 1))
    knots = Knots.of(xy, np.zeros(6, np.int64))
    direction, prices = 0.3, np.array([4.0, 5.0, 11.0])

    def cost(kind: int, points: np.ndarray) -> float:
        middles = (points[1:] + points[:-1]) / 2
        weight = np.repeat(np.hypot(*np.diff(points, axis=0).T) / 6, 3) * np.tile(
            [1, 4, 1], len(middles)
        )
        samples = np.stack([points[:-1], middles, points[1:]], axis=1).reshape(-1, 2)
        off = samples - np.average(samples, axis=0, weights=weight)
        spread = (off * weight[:, None]).T @ off
        if kind == FREE:
            return float(np.linalg.eigvalsh(spread)[0] + prices[FREE])
        a = direction + (0 if kind == ALONG else np.pi / 2)
        normal = np.array([-np.sin(a), np.cos(a)])
        return float(normal @ spread @ normal + prices[kind])

    def ways() -> Iterator[float]:
        count = len(knots.xy)
        ring = np.concatenate([knots.xy, knots.xy[:1]])
        for size in range(count):
            for corners in itertools.combinations(range(1, count), size):
                ends = [0, *corners, count]
                for kinds in itertools.product(range(3), repeat=len(ends) - 1):
                    if any(a == b != FREE for a, b in itertools.pairwise(kinds)):
                        continue
                    edges = zip(kinds, itertools.pairwise(ends), strict=True)
                    yield sum(cost(kind, ring[a : b + 1]) for kind, (a, b) in edges)

    found = find_edges(knots, np.array([direction]), prices)
    ends = [*found.knot.tolist(), len(knots.xy)]
    ring = np.concatenate([knots.xy, knots.xy[:1]])
    total = sum(
        cost(kind, ring[a : b + 1])
        for kind, (a, b) in zip(found.kind.tolist(), itertools.pairwise(ends), strict=True)
    )
    assert len(knots.xy) == 6
    assert total == pytest.approx(min(ways()))


@settings(max_examples=15, deadline=None)
@given(rasters, st.integers(1, 7), st.tuples(st.integers(-999, 999), st.integers(-999, 999)))
def test_any_object_has_a_valid_outline_wherever_it_is(
    classes: np.ndarray, zoom: int, way: tuple[int, int]
) -> None:
    """Objects of blocks of pixels; parts that touch at a corner are joined."""
    classes = np.kron(classes, np.ones((zoom, zoom), np.uint8))
    pixels = join(trace(np.pad(classes, 1)), 0.0).geometry
    outlines = regular_outlines(pixels)
    assert shapely.is_valid(outlines).all()
    assert np.allclose(shapely.area(outlines), shapely.area(pixels), rtol=0.02)
    assert (shapely.hausdorff_distance(outlines, pixels) <= 4).all()

    def same(a: Polygons, b: Polygons) -> bool:
        return bool(np.all(shapely.equals_exact(a, b, 1e-6)))

    moved = regular_outlines(np.array([translate(shape, *way) for shape in pixels], object))
    assert same(moved, np.array([translate(shape, *way) for shape in outlines], object))
    alone = [regular_outlines(pixels[[n]])[0] for n in range(len(pixels))]
    assert outlines.tolist() == alone


@pytest.mark.parametrize("count", [MANY_VERTICES - 1, MANY_VERTICES + 1, 10_000])
def test_an_outline_is_usable_up_to_4_px_however_many_vertices_it_has(count: int) -> None:
    """Two combs with a hole, of which the tips or the hole are moved."""
    teeth = (count - 7) // 2
    x = np.arange(2 * teeth)

    def comb(tip: float = 0, hole: float = 0) -> shapely.Polygon:
        y = 20 + 3.0 * (x % 2)
        y[teeth] += tip
        ring = [(0, 0), (2 * teeth - 1, 0), *zip(x[::-1], y[::-1], strict=True)]
        near = shapely.box(10 + hole, 5, 20 + hole, 15).exterior
        return shapely.Polygon(ring, [near.coords])

    shape = comb()
    assert (shapely.get_num_coordinates(shape) > MANY_VERTICES) == (count > MANY_VERTICES)
    others = np.array([comb(0.5), comb(hole=3.9), comb(hole=4.1), comb(30), comb(-10)], object)
    shapes = np.array([shape] * len(others), object)
    assert is_usable(others, shapes).tolist() == [True, True, False, False, False]
    assert is_usable(shapes, others).tolist() == [True, True, False, False, False]


@settings(max_examples=15, deadline=None)
@given(st.floats(0, 90), st.floats(15, 60), st.floats(15, 60), st.integers(0, 99))
def test_turned_pixels_have_a_turned_outline(
    angle: float, width: float, height: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(95, 105, 2)
    shape = rotate(shapely.box(x - width, y - height / 2, x + width, y + height / 2), angle)
    classes = mask(shape, PAGE).astype(np.uint8)
    (outline,) = regular_outlines(trace(classes).geometry)
    (turned,) = regular_outlines(trace(np.ascontiguousarray(np.rot90(classes))).geometry)
    back = shapely.transform(turned, lambda xy: np.column_stack([200 - xy[:, 1], xy[:, 0]]))
    assert iou(np.array([outline]), np.array([back])) > 0.98


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """A run with objects of two classes side by side, touching, in noise, and one of two parts."""
    classes = mask(rotate(shapely.box(20, 20, 60, 50), 20), PAGE).astype(np.uint8)
    near = mask(rotate(shapely.box(50, 18, 90, 53), 20, (40, 35)), PAGE)
    classes[near & (classes == 0)] = 2
    classes[mask(rotate(shapely.box(120, 20, 150, 60), 33), PAGE)] = 1
    classes[120:160, 20:80] = np.random.default_rng(0).integers(0, 4, (40, 60))
    classes[mask(rotate(L, 10), PAGE) & (classes == 0)] = 3
    return make_run(tmp_path_factory.mktemp("out"), classes)


@pytest.mark.parametrize("kind", ["gpkg", "geojson"])
def test_exported_objects_do_not_overlap(out: Path, tmp_path: Path, kind: str) -> None:
    typed("export", out, "--format", kind, "--to", tmp_path / f"regular.{kind}", "-q")
    typed(
        "export", out, "--format", kind, "--to", tmp_path / f"pixel.{kind}", "--outline", "pixel",
        "-q",
    )  # fmt: skip
    regular, pixel = (
        gpd.read_file(tmp_path / f"{name}.{kind}").sort_values("id", ignore_index=True)
        for name in ("regular", "pixel")
    )
    assert list(regular.columns) == list(pixel.columns)
    assert regular.drop(columns="geometry").equals(pixel.drop(columns="geometry"))
    shapes, given = (
        shapely.transform(table.to_crs(LO19.crs).geometry.to_numpy(), LO19.to_pixels)
        for table in (regular, pixel)
    )
    rounding = 0.1 if kind == "geojson" else 1e-6  # px; GeoJSON has seven decimals of a degree
    error = np.abs(shapely.area(shapes) - shapely.area(given))
    assert (error <= 0.02 * shapely.area(given) + rounding * shapely.length(given)).all()
    first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    first, second = np.stack([first, second])[:, first < second]
    overlap = shapely.area(shapely.intersection(shapes[first], shapes[second]))
    assert len(first) > 0
    assert (overlap <= rounding * shapely.length(shapes[first])).all()
    is_large = shapely.area(given) > 500
    vertices, before = (shapely.get_num_coordinates(some[is_large]) for some in (shapes, given))
    assert is_large.sum() == 4
    assert vertices.min() == 5
    assert (vertices < before / 3).all()


def test_the_files_of_a_run_keep_the_outlines_of_pixels(out: Path, tmp_path: Path) -> None:
    before = (out / "detections.parquet").read_bytes()
    assert export(out, "parquet") == out / "detections.parquet"
    with pytest.raises(OutputError, match="keeps the outlines of pixels; name another file"):
        export(out, "parquet", outline="regular")
    with pytest.raises(UsageError, match="must be one of regular, pixel; got 'round'"):
        export(out, "fgb", tmp_path / "a.fgb", outline="round")
    assert (out / "detections.parquet").read_bytes() == before
    export(out, "csv", tmp_path / "regular.csv")
    export(out, "csv", tmp_path / "pixel.csv", outline="pixel")
    assert (tmp_path / "regular.csv").read_bytes() == (tmp_path / "pixel.csv").read_bytes()


def test_angles_are_right_on_the_ground_where_degrees_are_not_square(tmp_path: Path) -> None:
    """At 60 degrees of latitude, a degree of longitude is half as long as one of latitude."""
    grid = Grid(pyproj.CRS("EPSG:4326").to_wkt(), (25.0, 60.0), (1e-6, 1e-6), PAGE)
    on_ground = rotate(shapely.box(40, 40, 70, 120), 25)
    pixels = shapely.transform(on_ground, lambda xy: xy * [2, 1])
    out = make_run(tmp_path / "out", mask(pixels, PAGE).astype(np.uint8), grid)
    (shape,) = gpd.read_file(export(out, "fgb")).geometry
    metres = shapely.transform(shape, lambda xy: xy * [np.cos(np.radians(60)), 1])
    assert len(turns(metres)) == 4
    assert np.allclose(np.abs(turns(metres)), 90, atol=0.1)
