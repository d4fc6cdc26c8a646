"""Edges, longitudes and cuts of polygons in another CRS."""

from __future__ import annotations

import json
import logging
from functools import cache
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely

from capecam.errors import UsageError
from capecam.io.reprojection import reproject
from capecam.io.vector_reader import read_polygons

DEGREES = pyproj.CRS("EPSG:4326")
LO19 = pyproj.CRS("ESRI:102562")
FIJI = pyproj.CRS("EPSG:3460")


@cache
def to(crs: pyproj.CRS) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(DEGREES, crs, always_xy=True)


def at(crs: pyproj.CRS, lon: float, lat: float) -> shapely.Point:
    return shapely.Point(to(crs).transform(lon, lat))


def moved(shape: shapely.Geometry, crs: pyproj.CRS, near: shapely.Geometry | None = None):
    (found,), (cut,) = reproject(np.array([shape]), DEGREES, crs, near)
    return found, cut


@pytest.mark.parametrize(
    "code", ["ESRI:102562", "EPSG:32734", "EPSG:3035", "EPSG:3031", "EPSG:3857"]
)
def test_an_edge_stays_where_it_is_on_the_ground(code: str) -> None:
    """Points of edges of 1° lie on the edges, also beyond the corners' chord."""
    crs = pyproj.CRS(code)
    west, south = (
        (8, 52) if code == "EPSG:3035" else (30, -76) if code == "EPSG:3031" else (18, -35)
    )
    box = shapely.box(west, south, west + 1, south + 1)
    found, cut = moved(box, crs)
    along = np.random.default_rng(1).uniform(0, 4, 200)
    truth = [at(crs, *shapely.line_interpolate_point(box.exterior, x).coords[0]) for x in along]
    assert shapely.distance(found.exterior, np.array(truth)).max() < 0.04
    assert not cut


def test_short_edges_are_transformed_to_the_bit() -> None:
    rng = np.random.default_rng(2)
    corners = rng.uniform((18.4, -34), (18.5, -33.9), (50, 1, 2)) + rng.uniform(0, 5e-4, (50, 5, 2))
    shapes = shapely.convex_hull(shapely.multipoints(corners))
    found, _ = reproject(shapes, DEGREES, LO19)
    expected = gpd.GeoSeries(shapes, crs=DEGREES).to_crs(LO19).to_numpy()
    assert shapely.to_wkb(found).tolist() == shapely.to_wkb(expected).tolist()
    same, _ = reproject(shapes, DEGREES, DEGREES, shapely.box(18, -35, 19, -33))
    assert shapely.to_wkb(same).tolist() == shapely.to_wkb(shapes).tolist()


def test_neighbours_keep_one_border() -> None:
    lower, upper = (moved(shapely.box(18, y, 19, y + 1), LO19)[0] for y in (-35, -34))
    assert not lower.overlaps(upper)
    assert shapely.union(lower, upper).area == pytest.approx(lower.area + upper.area, rel=1e-12)


@pytest.mark.parametrize(
    "code", ["EPSG:3460", "EPSG:3832", "EPSG:32760", "EPSG:32701", "EPSG:4326"]
)
@pytest.mark.parametrize("turn", [-360, 0, 360])
def test_longitudes_are_counted_around_the_imagery(code: str, turn: int) -> None:
    crs = pyproj.CRS(code)
    here = at(crs, 179.5, -17)
    box = shapely.box(179 + turn, -18, 180 + turn, -16)
    found, _ = moved(box, crs, near=here.buffer(0.001))
    assert found.covers(here)
    wide, _ = moved(shapely.box(178 + turn, -18, 182 + turn, -16), crs, near=here.buffer(0.001))
    assert wide.geom_type == "Polygon"
    assert wide.covers(here)


WORLD = shapely.box(-180, -90, 180, 90)


@pytest.mark.parametrize(
    ("code", "place", "extent"),
    [
        ("ESRI:102562", (18.4, -34), (17.99, -34.88, 20, -28.38)),
        ("EPSG:32734", (18.4, -34), (18, -80, 24, 0)),
        ("EPSG:2154", (2.3, 48.8), (-9.86, 41.15, 10.38, 51.56)),
        ("EPSG:3460", (179.9, -17), (176.81, -20.81, 181.85, -12.42)),
    ],
)
@pytest.mark.parametrize(
    "world", [WORLD, shapely.box(0, -90, 360, 90), shapely.box(-170, -85, 190, 85)]
)
def test_what_is_larger_than_a_projection_is_cut_to_its_area_of_use(
    code: str, place: tuple[float, float], extent: tuple, world: shapely.Geometry
) -> None:
    crs = pyproj.CRS(code)
    here = at(crs, *place)
    found, cut = moved(world, crs, here.buffer(100))
    expected, _ = moved(shapely.box(*extent), crs)
    assert cut
    assert found.covers(here)
    assert found.symmetric_difference(expected).area < 1e-6 * expected.area


@pytest.mark.parametrize(
    ("code", "lon", "lat"),
    [("ESRI:102562", 18.4, -34), ("EPSG:3460", 179.9, -17), ("EPSG:3460", -179.9, -17),
     ("EPSG:2193", 175, -40), ("EPSG:3793", -176.5, -44)],
)  # fmt: skip
def test_the_world_in_web_mercator_is_cut_on_both_sides_of_its_seam(
    code: str, lon: float, lat: float
) -> None:
    """In these projections, a ring along 180° and two parallels lies around the poles alone."""
    crs, half = pyproj.CRS(code), 20_037_508.0
    here = at(crs, lon, lat).buffer(100)
    world = np.array([shapely.box(-half, -half, half, half)])
    (found,), (cut,) = reproject(world, pyproj.CRS("EPSG:3857"), crs, here)
    assert cut
    assert found.covers(here)


def test_a_crs_without_an_area_of_use_keeps_what_is_around_the_imagery() -> None:
    custom = pyproj.CRS("+proj=tmerc +lat_0=0 +lon_0=19 +k=1 +ellps=WGS84 +units=m")
    here = at(custom, 18.4, -34)
    found, cut = moved(WORLD, custom, here.buffer(100))
    assert cut
    assert found.covers(here.buffer(100_000))
    assert found.area < 1.5e12


def test_the_world_stays_whole_in_degrees_and_web_mercator() -> None:
    for code in ("EPSG:4326", "EPSG:3857", "EPSG:4258"):
        crs = pyproj.CRS(code)
        here = at(crs, 18.4, -34)
        found, _ = moved(WORLD, crs, here.buffer(0.01))
        assert all(found.covers(at(crs, lon, 10)) for lon in (-150, 0, 100, 150))


def write_geojson(path: Path, *rings: list) -> Path:
    """Polygons, or multipolygons if there are several rings, as they were typed."""
    shapes = [
        {"type": "Polygon", "coordinates": [ring]}
        if isinstance(ring[0][0], (int, float))
        else {"type": "MultiPolygon", "coordinates": [[part] for part in ring]}
        for ring in rings
    ]
    features = [{"type": "Feature", "properties": {}, "geometry": shape} for shape in shapes]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def ring(left: float, right: float, south: float = -18, north: float = -16) -> list:
    return [[left, south], [right, south], [right, north], [left, north], [left, south]]


@pytest.mark.parametrize("lon", [179.5, -179.5, 179.95])
@pytest.mark.parametrize(
    "zone",
    [ring(179, 181), ring(-181, -179), [ring(179, 180), ring(-180, -179)], ring(179, -179)],
    ids=["beyond 180", "beyond -180", "RFC 7946", "uncut"],
)
def test_a_zone_across_the_antimeridian_is_one_place(
    tmp_path: Path, lon: float, zone: list
) -> None:
    path = write_geojson(tmp_path / "a.geojson", zone, ring(170, 171))
    here = at(FIJI, lon, -17).buffer(50)
    for everywhere, count in ((True, 2), (False, None)):
        found = read_polygons(path, FIJI, near=here, everywhere=everywhere)
        assert count in (None, len(found))
        assert found.geometry.iloc[0].geom_type == "Polygon"
        assert found.geometry.iloc[0].covers(here)
        assert found.geometry.iloc[0].area == pytest.approx(47.147e9, rel=1e-3)


@pytest.mark.parametrize("city", ["EPSG:3460", "EPSG:32701", "EPSG:32760", "EPSG:4326"])
@pytest.mark.parametrize(
    ("code", "turns"),
    [
        ("EPSG:3857", (0, 0)),
        ("EPSG:3857", (0, 1)),
        ("EPSG:6933", (-1, 0)),
        ("ESRI:54002", (-1, -1)),
    ],
)
def test_eastings_of_cylindrical_projections_may_go_beyond_180(
    city: str, code: str, turns: tuple[int, int], tmp_path: Path, caplog
) -> None:
    """Zones west and east of 180, each on either side of the map."""
    crs, world = pyproj.CRS(city), to(pyproj.CRS(code)).transform
    (edge, south), (_, north), (end, _) = (world(*p) for p in ((180, -18), (180, -16), (179, -17)))
    width = edge - end
    lefts = (edge - width, -edge)
    zones = [
        shapely.box(x + turn * 2 * edge, south, x + turn * 2 * edge + width, north)
        for x, turn in zip(lefts, turns, strict=True)
    ]
    gpd.GeoDataFrame(geometry=zones, crs=code).to_file(tmp_path / "zones.gpkg")
    near = at(crs, 180, -17).buffer(100 if crs.is_projected else 0.001)
    table = read_polygons(tmp_path / "zones.gpkg", crs, near=near)
    for zone, lon in zip(table.geometry, (179.9, 180.1), strict=True):
        (place,), _ = reproject(np.array([shapely.box(lon, -17.1, lon + 1e-4, -17)]), DEGREES,
                                crs, near)  # fmt: skip
        assert zone.contains(place)
    assert not [entry for entry in caplog.records if entry.levelno >= logging.WARNING]


@pytest.mark.parametrize("lon", [-74.0, 286.0])
def test_files_that_count_from_0_to_360_are_read_near_the_imagery(
    tmp_path: Path, lon: float
) -> None:
    crs = pyproj.CRS("EPSG:32618")
    boxes = [shapely.box(x, 40, x + 0.5, 41) for x in (lon - 0.2, lon + 20)]
    table = gpd.GeoDataFrame(geometry=boxes, crs=DEGREES)
    here = at(crs, -74, 40.5).buffer(50)
    for suffix in ("gpkg", "geojson", "fgb", "parquet"):
        path = tmp_path / f"a.{suffix}"
        table.to_parquet(path) if suffix == "parquet" else table.to_file(path)
        found = read_polygons(path, crs, near=here)
        assert len(found) == 1
        assert found.geometry.iloc[0].covers(here)


def test_an_edge_around_the_world_is_read_by_what_the_imagery_says(tmp_path: Path, caplog) -> None:
    path = write_geojson(tmp_path / "a.geojson", ring(-179, 179, -40, -10))
    cape, fiji = at(LO19, 18.4, -34).buffer(50), at(FIJI, 179.99, -17).buffer(50)
    for crs, near, way in (
        (LO19, cape, "around the world"),
        (FIJI, fiji, "across the antimeridian"),
    ):
        caplog.clear()
        found = read_polygons(path, crs, near=near)
        assert found.geometry.iloc[0].covers(near)
        assert f"are taken to go {way} (number 1)" in caplog.text
    border = at(FIJI, 179, -17).buffer(5000)
    with pytest.raises(UsageError, match=r"may go across .* \(number 1\); cut it at 180° with"):
        read_polygons(path, FIJI, near=border)


def test_what_is_cut_or_left_out_is_named(tmp_path: Path, caplog) -> None:
    shapes = [WORLD, shapely.box(18, -35, 19, -33), shapely.box(105, -1, 120, 1)]
    gpd.GeoDataFrame(geometry=shapes, crs=DEGREES).to_file(tmp_path / "a.gpkg")
    with caplog.at_level(logging.WARNING):
        found = read_polygons(
            tmp_path / "a.gpkg", LO19, near=at(LO19, 18.4, -34).buffer(9), everywhere=True
        )
    assert found.index.tolist() == [0, 1]
    assert "1 feature(s) reach beyond the CRS of the imagery, cut to its area of use" in caplog.text
    assert "1 feature(s) lie outside of the CRS of the imagery, left out (number 3" in caplog.text
