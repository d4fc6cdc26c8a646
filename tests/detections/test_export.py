"""The same detections in every format."""

from __future__ import annotations

import json
import re
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from support.pieces import BLOCKS, make_rules, pieces_of_cells
from support.runs import make_run

from capecam.detections.assembly import assemble, write_detections
from capecam.detections.export import FORMATS, TILE_COLUMNS, export
from capecam.errors import OutputError, UsageError
from capecam.run.editable_products import write_geopackage


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    make_run(folder, BLOCKS)
    rules = make_rules(join_distance_px=1.0, min_area_m2=0.01)
    write_detections(folder, assemble(pieces_of_cells(folder, 20, 30), rules), rules)
    write_geopackage(folder, rules)
    return folder


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "pmtiles"])
def test_every_format_has_the_same_columns_rows_and_locations(
    out: Path, tmp_path: Path, kind: str
) -> None:
    expected = gpd.read_parquet(out / "detections.parquet")
    path = export(out, kind, tmp_path / f"given.{kind}", "pixel")
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]
    if kind == "csv":
        found = pd.read_csv(path)
        assert list(found.columns) == list(expected.columns[:-1])
    else:
        read = gpd.read_parquet if kind == "parquet" else gpd.read_file
        found = read(path).to_crs(expected.crs)
        assert list(found.columns) == list(expected.columns)
        order = found.set_index("id").loc[expected["id"]].reset_index()
        distance = shapely.hausdorff_distance(
            order.geometry.to_numpy(), expected.geometry.to_numpy()
        )
        assert distance.max() < 0.02  # GeoJSON has seven decimals of a degree
    found = found.set_index("id").loc[expected["id"]]  # FlatGeobuf sorts by location
    text = kind in ("csv", "geojson")  # which have the digits that a number deserves
    assert np.allclose(found["area_m2"], expected["area_m2"], rtol=1e-12, atol=0.005 if text else 0)
    assert found["class"].tolist() == expected["class"].tolist()


def test_geojson_is_rfc_7946(out: Path) -> None:
    tree = json.loads(export(out, "geojson").read_text())
    assert "crs" not in tree
    for feature in tree["features"]:
        shape = shapely.geometry.shape(feature["geometry"])
        left, bottom, right, top = shape.bounds
        assert 18 < left <= right < 19
        assert -35 < bottom <= top < -33
        assert all(part.exterior.is_ccw for part in shape.geoms)


def test_text_files_have_the_digits_that_numbers_deserve(out: Path, tmp_path: Path) -> None:
    for kind in ("geojson", "csv"):
        text = export(out, kind, tmp_path / f"given.{kind}").read_text()
        digits = [len(found) for found in re.findall(r"\d\.(\d+)", text)]
        assert max(digits) == 7  # of longitude and latitude, 1 cm
    (feature, *_) = json.loads((tmp_path / "given.geojson").read_text())["features"]
    found = feature["properties"]
    for name, decimals in (("area_m2", 2), ("confidence", 4), ("lon", 7)):
        assert found[name] == round(found[name], decimals)


def test_vector_tiles_have_every_detection_at_the_largest_scale(out: Path, tmp_path: Path) -> None:
    table = gpd.read_parquet(out / "detections.parquet").set_index("id")
    expected = table[table["area_m2"] > 0.1]  # a unit of a tile is 0.12 m
    path = export(out, "pmtiles", tmp_path / "given.pmtiles")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes()[:8] == b"PMTiles\3"
    info = pyogrio.read_info(path)["dataset_metadata"]
    assert (info["name"], info["minzoom"], info["maxzoom"]) == ("detections", "13", "16")
    found = gpd.read_file(path).to_crs(expected.crs)
    shapes = found.dissolve("id").loc[expected.index]  # an object on two tiles is in both
    assert shapes.centroid.distance(expected.centroid).max() < 0.2
    assert shapes.area.sum() == pytest.approx(expected.area.sum(), rel=0.1)
    assert shapes["class"].tolist() == expected["class"].tolist()
    assert np.allclose(shapes["area_m2"], expected["area_m2"], atol=0.005)
    assert set(shapes.columns) <= {"mvt_id", *TILE_COLUMNS}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("outline", ["regular", "pixel"])
def test_a_run_without_detections_is_an_empty_layer_or_an_error(
    tmp_path: Path, kind: str, outline: str
) -> None:
    out = make_run(tmp_path / "out", np.zeros((20, 30), np.uint8))
    path = tmp_path / f"given.{kind}"
    if kind == "pmtiles":
        message = r"given.pmtiles: there are no detections.*another --format: fgb, geojson"
        with pytest.raises(OutputError, match=message):
            export(out, kind, path, outline)
        assert [p.name for p in tmp_path.iterdir()] == ["out"]
        return
    export(out, kind, path, outline)
    if kind == "csv":
        found = pd.read_csv(path)
    else:
        found = gpd.read_parquet(path) if kind == "parquet" else gpd.read_file(path)
    assert len(found) == 0
    if kind != "geojson":  # which has columns of its features only
        assert "area_m2" in found.columns


def test_the_geopackage_of_the_run_is_not_written_again(out: Path) -> None:
    before = (out / "detections.gpkg").stat()
    assert export(out, "gpkg") == out / "detections.gpkg"
    assert (out / "detections.gpkg").stat() == before


def test_errors_name_the_format_or_the_missing_file_or_folder(out: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="one of fgb, geojson, csv, parquet, gpkg, pmtiles; got 'shp'"
    ):
        export(out, "shp")
    with pytest.raises(OutputError, match=r"holds no detections.parquet"):
        export(tmp_path, "csv")
    with pytest.raises(OutputError, match="there is no folder"):
        export(out, "csv", tmp_path / "missing" / "a.csv")
