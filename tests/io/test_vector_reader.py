"""Vector files that people bring: read in part, mended, doubted."""

from __future__ import annotations

import logging
import os
import sqlite3
import struct
import zipfile
from contextlib import closing
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from capecam.errors import UsageError
from capecam.io.vector_reader import misplaced, read_polygons

LO19 = pyproj.CRS("ESRI:102562")
HERE = shapely.box(-51_000, -3_764_000, -50_900, -3_763_900)


def test_only_what_is_near_is_read_in_whatever_crs(tmp_path: Path) -> None:
    boxes = [HERE, shapely.box(-40_000, -3_764_000, -39_900, -3_763_900)]
    table = gpd.GeoDataFrame({"name": ["here", "there"]}, geometry=boxes, crs=LO19)
    for suffix in ("gpkg", "geojson", "fgb"):
        table.to_crs("EPSG:4326").to_file(tmp_path / f"a.{suffix}")
        found = read_polygons(tmp_path / f"a.{suffix}", LO19, near=HERE.buffer(10))
        assert found["name"].tolist() == ["here"]
        assert found.geometry.iloc[0].hausdorff_distance(HERE) < 1e-3
    assert len(read_polygons(tmp_path / "a.fgb", LO19)) == 2


def test_shapes_are_mended_and_what_has_no_area_is_left_out(tmp_path: Path, caplog) -> None:
    bow_tie = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
    spike = shapely.Polygon([(0, 0), (4, 0), (4, 4), (4, 0), (0, 0)])
    mixed = shapely.GeometryCollection([shapely.box(0, 0, 1, 1), shapely.Point(9, 9)])
    deep = shapely.Polygon([(0, 0, 5), (1, 0, 5), (1, 1, 5), (0, 1, 5)])
    shapes = [bow_tie, spike, mixed, deep, shapely.Point(1, 1), None]
    table = gpd.GeoDataFrame({"n": range(6)}, geometry=shapes, crs=LO19)
    table.to_file(tmp_path / "a.gpkg")
    with caplog.at_level(logging.WARNING):
        found = read_polygons(tmp_path / "a.gpkg")
    assert found["n"].tolist() == [0, 2, 3]
    assert found.geometry.area.tolist() == [2, 1, 1]
    assert found.is_valid.all()
    assert not found.geometry.has_z.any()
    assert "3 feature(s) have no area" in caplog.text


@pytest.mark.parametrize(
    ("crs", "bounds", "doubted"),
    [
        ("EPSG:4326", (18.4, -34, 18.5, -33.9), False),
        ("EPSG:4326", (-51_000, -3_764_000, -50_000, -3_763_000), True),  # metres
        ("ESRI:102562", (18.4, -34, 18.5, -33.9), True),  # degrees
        ("ESRI:102562", (-51_000, -3_764_000, -50_000, -3_763_000), False),
        ("ESRI:102562", (-51_000, -3e9, -50_000, -2.9e9), True),
        ("EPSG:2048", (50_000, 3_763_000, 51_000, 3_764_000), False),
    ],
)
def test_coordinates_that_cannot_be_in_their_crs(crs: str, bounds, *, doubted: bool) -> None:
    table = gpd.GeoDataFrame(geometry=[shapely.box(*bounds)], crs=crs)
    assert (misplaced(table) is not None) == doubted


# Warnings of pyogrio: a text that a Shapefile cuts off, a layer without a CRS.
@pytest.mark.filterwarnings("ignore:Value 'b+:RuntimeWarning", "ignore:'crs' was not:UserWarning")
def test_files_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    (tmp_path / "text.gpkg").write_text("not a layer")
    (tmp_path / "table.csv").write_text("a\n1\n")
    pyogrio.write_dataframe(pd.DataFrame({"a": [1]}), tmp_path / "table.gpkg")
    (tmp_path / "empty.gpkg").touch()
    (tmp_path / "page.geojson").write_text("<!DOCTYPE html><html><body>404")
    (tmp_path / "lfs.gpkg").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "list.geojson").write_text('{"type": "FeatureCollection", "features": [')
    os.mkfifo(tmp_path / "pipe.gpkg")
    here = gpd.GeoDataFrame({"a": ["b" * 9000]}, geometry=[HERE], crs=LO19)
    here.to_file(tmp_path / "whole.gpkg")
    here.to_parquet(tmp_path / "whole.parquet")
    here.to_file(tmp_path / "whole.fgb")
    here.drop(columns="a").to_file(tmp_path / "bare.shp")
    (tmp_path / "bare.shx").unlink()
    for name in ("whole.gpkg", "whole.parquet", "whole.fgb"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name.replace("whole", "half")).write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match="'crs' was not provided"):
        gpd.GeoDataFrame(geometry=[HERE]).to_file(tmp_path / "nowhere.shp")
    for name, message in (
        ("none.gpkg", "no such file"),
        ("text.gpkg", "cannot be read as a vector layer"),
        ("table.csv", "it is none of GeoPackage, GeoJSON"),
        ("table.gpkg", "without geometry"),
        ("empty.gpkg", "is empty"),
        ("page.geojson", "a web page"),
        ("lfs.gpkg", "git lfs pull"),
        ("list.geojson", "cannot be read as a vector layer"),
        ("pipe.gpkg", "no ordinary file"),
        ("half.gpkg", "cannot be read as a vector layer"),
        ("half.parquet", "cannot be read as a vector layer"),
        ("half.fgb", "cannot be read as a vector layer"),
        ("bare.shp", "shx"),
        (".", "is a folder"),
        ("nowhere.shp", "no coordinate reference system"),
    ):
        with pytest.raises(UsageError, match=message) as error:
            read_polygons(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
        assert "\n" not in str(error.value)


VRT = (
    "<OGRVRTDataSource><OGRVRTLayer name='a'><SrcDataSource>{}</SrcDataSource></OGRVRTLayer>"
    "</OGRVRTDataSource>"
)
PIPELINE = '{{"type": "gdal_streamed_alg", "command_line": "gdal vector pipeline ! read {}"}}'
XML = "<?xml version='1.0'?><!DOCTYPE kml [<!ENTITY a SYSTEM '{}'>]><kml>&a;</kml>"


@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "shp", "vrt"])
@pytest.mark.parametrize("directions", [VRT, "fgb\3fgb" + VRT, "{{}}" + VRT, PIPELINE, XML])
def test_files_that_lead_to_other_files_are_refused(
    tmp_path: Path, suffix: str, directions: str
) -> None:
    gpd.GeoDataFrame(geometry=[HERE], crs=LO19).to_file(tmp_path / "secret.gpkg")
    path = tmp_path / f"a.{suffix}"
    path.write_text(directions.format(tmp_path / "secret.gpkg"))
    with pytest.raises(UsageError, match="refused, because it is a VRT or another file that leads"):
        read_polygons(path)


@pytest.mark.parametrize("named", ["PG:dbname=a", "/vsicurl/http://127.0.0.1:1/a.gpkg", "WFS:a"])
def test_a_connection_is_no_file(named: str) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        read_polygons(Path(named))


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE VIRTUAL TABLE evil USING VirtualOGR('/etc/passwd')",
        "CREATE/**/VIRTUAL TABLE evil USING VirtualOGR('/etc/passwd')",
        "CREATE VIRTUAL TABLE \"using rtree\" USING VirtualOGR('/etc/passwd')",
        "CREATE VIRTUAL TABLE evil USING VirtualOGR('/etc/passwd', 'spatialindex')",
    ],
)
def test_a_virtual_table_is_refused_and_an_index_is_not(tmp_path: Path, sql: str) -> None:
    gpd.GeoDataFrame(geometry=[HERE], crs=LO19).to_file(tmp_path / "a.gpkg")  # with an R-tree
    assert len(read_polygons(tmp_path / "a.gpkg")) == 1
    link = sqlite3.connect(tmp_path / "a.gpkg")
    link.execute("PRAGMA writable_schema = ON")
    name = "using rtree" if '"' in sql else "evil"
    link.execute("INSERT INTO sqlite_master VALUES ('table', ?, ?, 0, ?)", (name, name, sql))
    link.commit()
    link.close()
    with pytest.raises(UsageError, match=f"its table '{name}' is virtual"):
        read_polygons(tmp_path / "a.gpkg")


def test_a_zipped_shapefile_is_read_and_a_bomb_is_not(tmp_path: Path) -> None:
    gpd.GeoDataFrame({"n": [1]}, geometry=[HERE], crs=LO19).to_file(tmp_path / "a.shp")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for suffix in ("shp", "shx", "dbf", "prj"):
            archive.write(tmp_path / f"a.{suffix}", f"in a folder/a.{suffix}")
    assert read_polygons(tmp_path / "a.zip").geometry.iloc[0].equals(HERE)
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.geojson", " " * 50_000_000)
    with pytest.raises(UsageError, match=r"unpacks to 0\.1 GB"):
        read_polygons(tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("a.geojson", VRT.format(tmp_path / "a.shp"))
    with pytest.raises(UsageError, match="leads to other files"):
        read_polygons(tmp_path / "c.zip")
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(UsageError, match="holds 0 vector files"):
        read_polygons(tmp_path / "d.zip")


def write_layers(path: Path, **layers: list) -> Path:
    """Layers of a GeoPackage by name; of nothing: a table."""
    for name, shapes in layers.items():
        rows = {"layer": [name] * max(1, len(shapes or []))}
        if shapes is None:
            pyogrio.write_dataframe(pd.DataFrame(rows), path, layer=name)
            continue
        table = gpd.GeoDataFrame({"layer": [name] * len(shapes)}, geometry=shapes, crs=LO19)
        kind = shapes[0].geom_type if shapes else "Polygon"
        pyogrio.write_dataframe(table, path, layer=name, geometry_type=kind)
    return path


def test_a_layer_is_named_as_in_qgis(tmp_path: Path, caplog) -> None:
    path = write_layers(tmp_path / "a.gpkg", table=None, first=[HERE], second=[HERE, HERE])
    assert read_polygons(path)["layer"].tolist() == ["first"]
    assert "has 2 layers (first, second); first is read; choose one with" in caplog.text
    caplog.clear()
    for text, name in (("layername=second", "second"), ("layerid=0", "first")):
        assert read_polygons(Path(f"{path}|{text}"))["layer"].iloc[0] == name
    assert not caplog.text
    for text, message in (
        ("layername=secund", "has no layer secund; did you mean second"),
        ("layerid=3", "has no layer number 3; its layers are first, second, table"),
        ("layername=table", "is a table without geometry"),
        ("subset=a = 1", r"a layer is named as in .*a\.gpkg\|layername=NAME"),
    ):
        with pytest.raises(UsageError, match=message):
            read_polygons(Path(f"{path}|{text}"))
    for suffix in ("geojson", "fgb", "shp"):
        gpd.GeoDataFrame(geometry=[HERE], crs=LO19).to_file(tmp_path / f"b.{suffix}")
        assert len(read_polygons(Path(f"{tmp_path}/b.{suffix}|layername=b"))) == 1
        with pytest.raises(UsageError, match="has no layer c; "):
            read_polygons(Path(f"{tmp_path}/b.{suffix}|layername=c"))
    (tmp_path / "c|layername=x").write_bytes((tmp_path / "b.geojson").read_bytes())
    assert len(read_polygons(tmp_path / "c|layername=x")) == 1


def test_the_first_layer_is_read_that_holds_polygons(tmp_path: Path, caplog) -> None:
    point, line = HERE.centroid, shapely.LineString(HERE.exterior)
    path = write_layers(tmp_path / "a.gpkg", empty=[], points=[point], lines=[line], zones=[HERE])
    assert read_polygons(path)["layer"].tolist() == ["zones"]
    assert "has 4 layers (empty, points, lines, zones); zones is read" in caplog.text
    path = write_layers(tmp_path / "b.gpkg", empty=[], points=[point])
    with pytest.raises(
        UsageError, match=r"layers holds polygons \(empty: Polygon, points: Point\)"
    ):
        read_polygons(path)
    placemark = "<Placemark>{}</Placemark>"
    shapes = (
        "<Point><coordinates>18,-34</coordinates></Point>",
        "<Polygon><outerBoundaryIs><LinearRing><coordinates>18,-34 19,-34 19,-33 18,-34"
        "</coordinates></LinearRing></outerBoundaryIs></Polygon>",
    )
    folders = [
        f"<Folder><name>{n}</name>{placemark.format(s)}</Folder>" for n, s in enumerate(shapes)
    ]
    kml = "<kml xmlns='http://www.opengis.net/kml/2.2'><Document>{}</Document></kml>"
    (tmp_path / "c.kml").write_text(kml.format("".join(folders)))
    assert len(read_polygons(tmp_path / "c.kml")) == 1


@pytest.mark.parametrize(
    ("shape", "what"),
    [
        (HERE.centroid, "points"),
        (shapely.LineString(HERE.exterior), r"lines and no polygons; .*'Lines to polygons'"),
    ],
)
def test_points_and_lines_are_no_polygons(tmp_path: Path, shape, what: str) -> None:
    for suffix in ("gpkg", "geojson", "shp", "parquet"):
        path = tmp_path / f"a.{suffix}"
        table = gpd.GeoDataFrame({"n": [1]}, geometry=[shape], crs=LO19)
        table.to_parquet(path) if suffix == "parquet" else table.to_file(path)
        with pytest.raises(UsageError, match=f"holds {what}"):
            read_polygons(path)


@pytest.mark.parametrize(("srs_id", "name"), [(-1, "Cartesian"), (0, "geographic")])
def test_an_undefined_crs_is_none(tmp_path: Path, srs_id: int, name: str) -> None:
    path = write_layers(tmp_path / "a.gpkg", a=[HERE])
    with closing(sqlite3.connect(path)) as database:
        for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
            database.execute(f'DROP TRIGGER "{trigger}"')
        for table in ("gpkg_contents", "gpkg_geometry_columns"):
            database.execute(f"UPDATE {table} SET srs_id = ?", (srs_id,))
        database.commit()
    for near in (None, HERE):
        with pytest.raises(
            UsageError, match=f"on Earth, only 'Undefined {name} SRS'; assign it with"
        ):
            read_polygons(path, LO19, near=near)


UNIT = [(0, 0), (4, 0), (4, 4), (0, 4)]


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        (shapely.Polygon([*UNIT, *UNIT]), 16),  # winds twice
        (shapely.Polygon([*UNIT, (0, 0), (2, 0), (2, 2), (0, 2)]), 16),  # and twice in a corner
        (shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)]), 2),  # a bow tie
        (shapely.Polygon([(0, 0), (4, 0), (4, 4), (4, 9), (4, 4), (0, 4)]), 16),  # a spike
        (shapely.MultiPolygon([shapely.Polygon(UNIT), shapely.box(1, 1, 2, 2)]), 16),  # nested
        (shapely.MultiPolygon([shapely.Polygon(UNIT), shapely.box(2, 2, 6, 6)]), 28),
        (shapely.MultiPolygon([shapely.Polygon(UNIT)] * 3), 16),
        (shapely.Polygon(UNIT, [[(3, 1), (5, 1), (5, 2), (3, 2)]]), 15),  # a hole that sticks out
        (shapely.Polygon(UNIT, [UNIT]), 16),  # the ring, once more as a hole
        (shapely.Polygon(UNIT, [[(1, 1), (3, 1), (3, 3), (1, 3)]] * 2), 12),
    ],
)
def test_what_a_ring_encloses_counts_once(tmp_path: Path, caplog, shape, area: float) -> None:
    table = gpd.GeoDataFrame({"n": [1, 2]}, geometry=[HERE, shape], crs=LO19)
    table.to_file(tmp_path / "a.gpkg")
    found = read_polygons(tmp_path / "a.gpkg").geometry
    assert found.iloc[1].is_valid
    assert found.iloc[1].area == area
    assert "1 invalid outline(s) repaired (number 2; " in caplog.text
    assert found.iloc[0].equals(HERE)


def test_valid_shapes_are_not_touched(tmp_path: Path, caplog) -> None:
    """Any direction, start, and repeated points."""
    rings = [UNIT, UNIT[::-1], [UNIT[0], *UNIT], [*UNIT[2:], *UNIT[:2]]]
    shapes = [shapely.Polygon(ring) for ring in rings]
    gpd.GeoDataFrame(geometry=shapes, crs=LO19).to_parquet(tmp_path / "a.parquet")
    found = read_polygons(tmp_path / "a.parquet").geometry.to_numpy()
    assert shapely.to_wkb(found).tolist() == shapely.to_wkb(np.array(shapes)).tolist()
    assert "repaired" not in caplog.text


def features(*geometries: str) -> str:
    """GeoJSON as no library would write it."""
    shown = ", ".join(
        f'{{"type": "Feature", "properties": {{"n": {n}, "geometry": "mine", "class_id": 9}}, '
        f'"geometry": {geometry}}}'
        for n, geometry in enumerate(geometries)
    )
    return f'{{"type": "FeatureCollection", "features": [{shown}]}}'


SQUARE = '{"type": "Polygon", "coordinates": [[[18, -34], [18.1, -34], [18.1, -33.9], [18, -34]]]}'


def test_coordinates_that_are_no_numbers_are_left_out(tmp_path: Path, caplog) -> None:
    strange = [SQUARE.replace("18.1,", f"{value},", 1) for value in ("NaN", "null")]
    (tmp_path / "a.geojson").write_text(features(SQUARE, *strange, "null"))
    found = read_polygons(tmp_path / "a.geojson", LO19)
    assert found["n"].tolist() == [0]
    assert np.isfinite(found.total_bounds).all()
    assert "left out" in caplog.text


def circle() -> bytes:
    """WKB of a curve polygon: a circle of radius 2, which neither shapely nor GeoPandas writes."""
    points = [(0, 0), (2, 2), (4, 0), (2, -2), (0, 0)]
    ring = struct.pack("<BII", 1, 8, len(points)) + b"".join(struct.pack("<2d", *p) for p in points)
    return struct.pack("<BII", 1, 10, 1) + ring


def test_curves_become_polygons(tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    gpd.GeoDataFrame(geometry=[HERE], crs=LO19).to_file(path, SPATIAL_INDEX="NO")
    link = sqlite3.connect(path)
    for (name,) in link.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        link.execute(f'DROP TRIGGER "{name}"')
    (header,) = link.execute("SELECT substr(geom, 1, 8) FROM a").fetchone()
    link.execute("UPDATE a SET geom = ?", (header[:3] + b"\1" + header[4:] + circle(),))
    link.commit()
    link.close()
    assert read_polygons(path).geometry.area.tolist() == pytest.approx([4 * np.pi], rel=1e-2)


def test_a_layer_of_nothing_is_an_empty_table(tmp_path: Path, caplog) -> None:
    for suffix in ("gpkg", "geojson", "fgb", "parquet"):
        path = tmp_path / f"a.{suffix}"
        empty = gpd.GeoDataFrame({"n": []}, geometry=[], crs="EPSG:4326")
        empty.to_parquet(path) if suffix == "parquet" else empty.to_file(path)
        caplog.clear()
        assert read_polygons(path, LO19, near=HERE).empty
        assert read_polygons(path).empty
        assert caplog.text.count("holds no features") == 2 - (suffix == "fgb")


def test_a_layer_that_lies_nowhere_near_says_what_is_odd_about_its_crs(
    tmp_path: Path, caplog
) -> None:
    metres = gpd.GeoDataFrame(geometry=[HERE], crs="EPSG:4326")
    for suffix in ("gpkg", "parquet", "fgb"):
        caplog.clear()
        path = tmp_path / f"a.{suffix}"
        metres.to_parquet(path) if suffix == "parquet" else metres.to_file(path)
        assert read_polygons(path, LO19, near=HERE).empty
        assert "is in degrees, but its coordinates cannot be" in caplog.text


def test_a_cut_flatgeobuf_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    boxes = [shapely.box(n, 0, n + 1, 1) for n in range(30)]
    gpd.GeoDataFrame(geometry=boxes, crs=LO19).to_file(tmp_path / "a.fgb")
    content = (tmp_path / "a.fgb").read_bytes()
    for size in range(len(content) // 2, len(content), 97):
        (tmp_path / "b.fgb").write_bytes(content[:size])
        with pytest.raises(UsageError, match=r"damaged|cannot be read"):
            read_polygons(tmp_path / "b.fgb")


def test_more_features_than_fit_are_refused_unless_only_some_are_near(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("capecam.io.vector_reader.MAX_FEATURES", 3)
    boxes = [shapely.box(n, 0, n + 1, 1) for n in range(9)]
    table = gpd.GeoDataFrame(geometry=boxes, crs=LO19)
    table.to_file(tmp_path / "a.gpkg")
    table.to_parquet(tmp_path / "a.parquet")
    for suffix in ("gpkg", "parquet"):
        with pytest.raises(UsageError, match="more than 3 features"):
            read_polygons(tmp_path / f"a.{suffix}")
    assert len(read_polygons(tmp_path / "a.gpkg", LO19, near=shapely.box(0, 0, 1.5, 1))) == 2


coordinates = st.floats(-1e6, 1e6, allow_nan=False) | st.sampled_from([0.0, 1.0, np.nan, np.inf])
rings = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=7)


@pytest.mark.filterwarnings("ignore:invalid value encountered in linearrings")  # NaN is meant
@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(rings, min_size=1, max_size=4))
def test_whatever_the_rings_polygons_come_out_valid(tmp_path_factory, shapes: list) -> None:
    path = tmp_path_factory.mktemp("rings") / "a.parquet"
    with np.errstate(invalid="ignore"):
        polygons = [shapely.Polygon([(0, 0), *ring]) for ring in shapes]
        gpd.GeoDataFrame(geometry=polygons, crs=LO19).to_parquet(path)
    found = read_polygons(path)
    assert found.geometry.is_valid.all()
    assert (found.geometry.area > 0).all()
    assert found.geometry.geom_type.isin(["Polygon", "MultiPolygon"]).all()
