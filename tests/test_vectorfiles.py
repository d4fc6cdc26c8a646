"""Vector files that people bring: read in part, mended, doubted."""

from __future__ import annotations

import logging
from pathlib import Path

import geopandas as gpd
import pandas as pd
import pyproj
import pytest
import shapely

from capecam.errors import UsageError
from capecam.vectorfiles import misplaced, read_polygons

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


def test_files_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    (tmp_path / "text.gpkg").write_text("not a layer")
    pd.DataFrame({"a": [1]}).to_csv(tmp_path / "table.csv")
    gpd.GeoDataFrame(geometry=[HERE]).to_file(tmp_path / "nowhere.shp")
    for name, message in (
        ("none.gpkg", "no such file"),
        ("text.gpkg", "cannot be read as a vector layer"),
        ("table.csv", "without geometry"),
        ("nowhere.shp", "no coordinate reference system"),
    ):
        with pytest.raises(UsageError, match=message):
            read_polygons(tmp_path / name)
