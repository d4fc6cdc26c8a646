"""Counts per zone, and two years compared: numbers worked out by hand on outputs made by hand."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree as ET

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import pytest
import shapely
from support.cities import CUSTOM_WKT, blobs, colours_model, write_tif
from support.runs import make_run
from support.tracing import LO19, NAMES

from capecam.analysis.zonal_summary import ZoneSummary, summarize
from capecam.analysis.zones import COLUMNS, ZoneRules
from capecam.errors import OutputError, UsageError
from capecam.grid import Grid, Window
from capecam.io import coverage
from capecam.run.supervisor import run
from capecam.settings.loading import load
from capecam.views.styles.vector_styles import graduated

PIXEL_M2 = 0.08 * 0.08


def boxes(*pixels: tuple[int, int, int, int], grid: Grid = LO19) -> gpd.GeoSeries:
    """(left, top, right, bottom) in pixels, as shapes on the map."""
    shapes = [shapely.transform(shapely.box(*box), grid.to_map) for box in pixels]
    return gpd.GeoSeries(shapes, crs=grid.crs)


def write_zones(path: Path, *pixels: tuple[int, int, int, int], **columns: list) -> Path:
    """Boxes in pixels as zones that are called A, B, ..."""
    columns = columns or {"name": [chr(ord("A") + n) for n in range(len(pixels))]}
    gpd.GeoDataFrame(columns, geometry=boxes(*pixels)).to_file(path)
    return path


def rows(summary: ZoneSummary, *columns: str) -> dict[tuple[str, int], tuple]:
    """Those of some columns by (zone, class_id); those of zones without anything left out."""
    table = summary.table.set_index(["zone", "class_id"])[list(columns)]
    return {key: tuple(row) for key, row in table.iterrows() if any(row)}


@pytest.fixture
def scene() -> np.ndarray:
    """Class 1 across column 45, class 2 right of column 90, class 3 in the first zone."""
    classes = np.zeros((60, 100), np.uint8)
    classes[10:20, 30:50] = 1
    classes[10:14, 92:98] = 2
    classes[30:33, 2:7] = 3
    return classes


@pytest.fixture
def halves(tmp_path) -> Path:
    """Left and right of column 45; columns from 90 on are in none."""
    return write_zones(tmp_path / "zones.gpkg", (0, 0, 45, 60), (45, 0, 90, 60))


def test_an_object_on_a_border_is_split_by_area_and_counted_once(tmp_path, scene, halves) -> None:
    found = summarize(make_run(tmp_path / "out", scene), None, ZoneRules(halves))
    assert rows(found, "count", "area_m2") == {
        ("A", 1): (1, pytest.approx(15 * 10 * PIXEL_M2)),
        ("B", 1): (0, pytest.approx(5 * 10 * PIXEL_M2)),
        ("A", 3): (1, pytest.approx(15 * PIXEL_M2)),
        ("(outside)", 2): (1, pytest.approx(24 * PIXEL_M2)),
    }
    assert list(found.table["zone_id"]) == [1] * 3 + [2] * 3 + [0] * 3
    zone = found.table.iloc[0]
    assert zone["zone_km2"] == pytest.approx(45 * 60 * PIXEL_M2 / 1e6)
    assert zone["valid_share"] == 1
    assert zone["per_km2"] == pytest.approx(1e6 / (45 * 60 * PIXEL_M2))
    assert found.table.iloc[-3:][["zone_km2", "valid_share", "per_km2"]].isna().all(axis=None)
    text = found.to_text()
    assert "A  solar panel" in text
    assert "5 row(s) without objects are in" in text  # B has a part of A's
    assert not any(line.split()[:2] == ["B", "water"] for line in text.splitlines())


def test_rows_add_up_to_the_city(tmp_path) -> None:
    rng = np.random.default_rng(3)
    classes = np.kron(rng.choice([0, 0, 0, 1, 2, 3, 255], (40, 60)), np.ones((3, 3), int))
    out = make_run(tmp_path / "out", classes.astype(np.uint8))
    corners = rng.uniform(-10, 180, (30, 3, 2))  # triangles across each other and the edges
    shapes = [shapely.transform(shapely.Polygon(c), LO19.to_map) for c in corners]
    gpd.GeoSeries(shapes, crs=LO19.crs).to_file(tmp_path / "zones.gpkg")
    found = summarize(out, None, ZoneRules(tmp_path / "zones.gpkg"))
    city = gpd.read_parquet(out / "detections.parquet").groupby("class_id")["area_m2"]
    total = found.table.groupby("class_id")[["count", "area_m2"]].sum()
    assert total["count"].tolist() == city.count().tolist()
    assert total["area_m2"].round(6).tolist() == city.sum().round(6).tolist()
    near = found.table.groupby("zone_id")["zone_km2"].first().drop(0)
    whole = shapely.union_all([shapes[zone_id - 1] for zone_id in near.index])
    assert near.sum() * 1e6 == pytest.approx(whole.area)
    assert (found.table["area_m2"] >= 0).all()


def test_valid_imagery_is_counted_to_the_pixel(tmp_path) -> None:
    classes = np.zeros((60, 100), np.uint8)
    classes[3:8, 2:9] = 255  # 35 pixels of nodata in A; in B, columns 40 to 60 are in no image
    out = make_run(tmp_path / "out", classes, cells=[Window(0, 0, 60, 40), Window(0, 60, 60, 40)])
    zones = write_zones(
        tmp_path / "zones.gpkg",
        (0, 0, 20, 30), (30, 10, 70, 60), (90, 50, 110, 80), (45, 5, 50, 9), (70, 0, 80, 9),
    )  # fmt: skip
    found = summarize(out, None, ZoneRules(zones))
    expected = [(600 - 35) / 600, 20 / 40, 10 * 10 / (20 * 30), 0, 1]
    assert found.table["valid_share"][:-3:3].tolist() == pytest.approx(expected, abs=1e-9)
    assert found.table["per_km2"][:-3:3].isna().tolist() == [False, False, False, True, False]
    assert found.to_json()["zones_counted_at_1_16"] == 0


def test_a_zone_thinner_than_a_pixel_has_the_validity_of_its_pixel(tmp_path) -> None:
    classes = np.zeros((20, 20), np.uint8)
    classes[:, 10:] = 255
    thin = boxes((4.1, 4.1, 4.4, 15.2), (12.1, 4.1, 12.4, 15.2))
    thin.to_file(tmp_path / "zones.gpkg")
    found = summarize(make_run(tmp_path / "o", classes), None, ZoneRules(tmp_path / "zones.gpkg"))
    assert found.table["valid_share"][:-3:3].tolist() == [1, 0]


def test_images_that_overlap_are_counted_once(tmp_path) -> None:
    cells = [Window(0, 0, 40, 60), Window(0, 40, 40, 60)]
    out = make_run(tmp_path / "out", np.zeros((40, 100), np.uint8), cells=cells)
    zones = write_zones(tmp_path / "zones.gpkg", (30, 0, 70, 40))
    assert summarize(out, None, ZoneRules(zones)).table["valid_share"][0] == 1


@pytest.mark.parametrize("strip", [100, 1 << 24])
def test_large_zones_are_counted_on_the_overview(tmp_path, monkeypatch, strip: int) -> None:
    monkeypatch.setattr(coverage, "FULL_PX", 5000)
    monkeypatch.setattr(coverage, "STRIP_PX", strip)
    classes = np.zeros((320, 480), np.uint8)
    classes[:, 160:] = 255
    zones = tmp_path / "zones.gpkg"
    large, small = boxes((0, 0, 320, 320), (150, 0, 170, 20))
    shapes = [large - small, shapely.MultiPolygon([small])]
    gpd.GeoSeries(shapes, crs=LO19.crs).to_file(zones)
    found = summarize(make_run(tmp_path / "out", classes), None, ZoneRules(zones))
    large, small = found.table["valid_share"][:-3:3]
    assert large == pytest.approx(0.5, abs=1e-3)
    assert small == 0.5
    assert "imagery of 1 large zone(s) was counted at 1/16" in found.to_text()


def test_a_place_in_two_zones_belongs_to_the_first(tmp_path, scene, caplog) -> None:
    zones = write_zones(
        tmp_path / "zones.gpkg", (25, 0, 90, 60), (0, 0, 50, 60), (60, 20, 90, 50), (0, 0, 3, 60)
    )
    out = make_run(tmp_path / "out", scene)
    found = summarize(out, None, ZoneRules(zones))
    overlap = (25 * 60 + 30 * 30) * PIXEL_M2  # the last is a sliver of 0.24 m
    assert (
        f"2 pair(s) of zones overlap, by {overlap:.1f} m² (first pair: 'A' and 'B')" in caplog.text
    )
    assert rows(found, "count", "area_m2") == {
        ("A", 1): (1, pytest.approx(200 * PIXEL_M2)),
        ("B", 3): (1, pytest.approx(15 * PIXEL_M2)),
        ("(outside)", 2): (1, pytest.approx(24 * PIXEL_M2)),
    }
    own = [65 * 60, 25 * 60, 0, 0]
    assert found.table["zone_km2"][:-3:3].tolist() == pytest.approx(
        [pixels * PIXEL_M2 / 1e6 for pixels in own]
    )
    assert found.table["valid_share"][:-3:3].isna().tolist() == [False, False, True, True]


@pytest.mark.parametrize("driver", ["GeoJSON", "ESRI Shapefile", "FlatGeobuf"])
def test_zones_in_another_crs_and_format(tmp_path, scene, halves, driver: str, caplog) -> None:
    out = make_run(tmp_path / "out", scene)
    same = summarize(out, None, ZoneRules(halves)).table[:6]
    other = tmp_path / {"ESRI Shapefile": "a.shp", "FlatGeobuf": "a.fgb"}.get(driver, "a")
    gpd.read_file(halves).to_crs("EPSG:4326").to_file(other, driver=driver)
    found = summarize(out, None, ZoneRules(other)).table[:6]
    found = found.sort_values(["zone", "class_id"])  # FlatGeobuf has an order of its own
    assert found.crs == same.crs
    assert found["count"].tolist() == same["count"].tolist()
    for column in ("area_m2", "zone_km2", "valid_share"):
        assert found[column].tolist() == pytest.approx(same[column].tolist(), abs=1e-5)
    assert not caplog.text


def test_areas_are_in_m2_whatever_the_crs_counts_in(tmp_path, scene) -> None:
    foot = 1200 / 3937
    feet = Grid(pyproj.CRS("EPSG:2227").to_wkt(), (6e6, 2e6), (0.25, 0.25), Window(0, 0, 1, 1))
    degrees = Grid(
        pyproj.CRS("EPSG:4326").to_wkt(), (18.4, -33.9), (1e-6, 1e-6), Window(0, 0, 1, 1)
    )
    geod = pyproj.Geod(ellps="WGS84")
    width, height = (
        geod.inv(18.4, -33.9, 18.4 + x, -33.9 - y)[2] for x, y in ((1e-4, 0), (0, 6e-5))
    )
    for grid, whole_m2 in ((feet, 100 * 60 * (0.25 * foot) ** 2), (degrees, width * height)):
        out = make_run(tmp_path / str(grid.pixel[0]), scene, grid)
        boxes((0, 0, 100, 60), grid=grid).to_file(out / "z.gpkg")
        found = summarize(out, None, ZoneRules(out / "z.gpkg")).table
        assert found["zone_km2"][0] * 1e6 == pytest.approx(whole_m2, rel=1e-5)
        pixels = found["area_m2"][:3] / whole_m2 * 6000
        assert pixels.tolist() == pytest.approx([200, 24, 15], rel=1e-5)


def test_what_zones_are_called(tmp_path, scene) -> None:
    out = make_run(tmp_path / "out", scene)
    two = (0, 0, 45, 60), (45, 0, 90, 60)
    zones = tmp_path / "zones.gpkg"

    def names(name: str | None = None, **columns: list) -> list[str]:
        zones.unlink(missing_ok=True)
        write_zones(zones, *two, **columns)
        return summarize(out, None, ZoneRules(zones, name)).table["zone"][::3].tolist()

    assert names(number=[7, 8], ward=["w", None]) == ["w", "2", "(outside)"]
    assert names(number=[7, 8]) == ["1", "2", "(outside)"]
    assert names("number", number=[7, 8], ward=["w", None]) == ["7", "8", "(outside)"]
    with pytest.raises(UsageError, match="has no column 'Word'; did you mean Ward"):
        names("Word", Ward=["w", "v"])


def test_attributes_stay_and_give_way_to_our_columns(tmp_path, scene) -> None:
    columns = {"Count": [5, 6], "zone": ["a", "b"], "half": [0.5, 1.0], "since": ["2011", "2016"]}
    zones = write_zones(tmp_path / "zones.geojson", (45, 0, 90, 60), (500, 0, 510, 9), **columns)
    table = summarize(make_run(tmp_path / "out", scene), None, ZoneRules(zones)).table
    assert list(table.columns) == [
        *COLUMNS[:9],
        "zone_Count",
        "zone_zone",
        "half",
        "since",
        "geometry",
    ]
    assert table["zone"].tolist() == ["a"] * 3 + ["(outside)"] * 3  # the other one is far away
    assert table["zone_Count"].tolist() == [5, 5, 5, pd.NA, pd.NA, pd.NA]


def test_buildings_are_those_on_valid_imagery(tmp_path, scene, halves) -> None:
    scene[50:, :] = 255
    houses = boxes(
        (30, 10, 50, 20), (1, 1, 9, 9), (60, 40, 70, 45), (91, 9, 99, 15), (5, 52, 9, 58)
    )
    houses.to_crs("EPSG:4326").to_file(tmp_path / "houses.geojson")
    rules = ZoneRules(halves, footprints=tmp_path / "houses.geojson")
    found = summarize(make_run(tmp_path / "out", scene), None, rules).table
    assert found["buildings"].tolist() == [2, 2, 2, 1, 1, 1, 1, 1, 1]
    assert found["per_building"].tolist() == [0.5, 0, 0.5, 0, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("shift", [0, 0.05])
def test_buildings_that_are_there_thrice(tmp_path, scene, halves, caplog, shift: float) -> None:
    """Exact copies count once; others are the user's decision."""
    places = (30, 10, 50, 20), (1, 1, 9, 9), (60, 40, 70, 45)
    houses = [boxes(*((x + n * shift, *rest) for x, *rest in places)) for n in range(3)]
    pd.concat(houses).to_file(tmp_path / "houses.gpkg")
    rules = ZoneRules(halves, footprints=tmp_path / "houses.gpkg")
    found = summarize(make_run(tmp_path / "out", scene), None, rules).table
    assert found["buildings"][::3].tolist() == ([6, 3, 0] if shift else [2, 1, 0])
    what = "nearly the same as others (IoU over 0.95), and all count" if shift else "exact copies"
    assert f"6 of 9 buildings are {what}" in caplog.text


def test_buildings_in_one_feature_are_doubted(tmp_path, scene, halves, caplog) -> None:
    whole = gpd.GeoSeries([shapely.union_all(boxes((1, 1, 9, 9), (60, 40, 70, 45)))], crs=LO19.crs)
    whole.to_file(tmp_path / "houses.gpkg")
    rules = ZoneRules(halves, footprints=tmp_path / "houses.gpkg")
    summarize(make_run(tmp_path / "out", scene), None, rules)
    assert "1 of 1 buildings have parts more than 2 m apart, 2 groups of parts" in caplog.text


def test_a_real_run_is_summarized(tmp_path) -> None:
    write_tif(tmp_path / "in" / "a.tif", blobs(200, 150))
    write_tif(tmp_path / "in" / "b.tif", blobs(200, 170, seed=1), 150)
    given = {"sources": [str(tmp_path / "in")], "out": str(tmp_path / "out")}
    quick = {"detections.min_area_m2": 0.0, "explain.methods": ["gradcam"]}
    outcome = run(load(None, {**given, **quick}), model=colours_model())
    zones = write_zones(tmp_path / "zones.gpkg", (0, 0, 130, 200), (130, 0, 330, 100))
    found = summarize(outcome.out, None, ZoneRules(zones))
    assert found.table["valid_share"][:6].tolist() == pytest.approx([1] * 3 + [190 / 200] * 3)
    total = found.table.groupby("class")[["count", "area_m2"]].sum().round(2)
    city = pd.read_csv(outcome.out / "summary.csv", index_col="class").loc[total.index]
    assert total.equals(city[["count", "area_m2"]])
    assert total["count"].sum() >= 5


def read_all(out: Path, layer: str) -> list[pd.DataFrame]:
    """A layer as GeoParquet, as GeoPackage, and as CSV if it is written so."""
    package = gpd.read_file(out / f"{layer}.gpkg", layer=layer)
    tables = [gpd.read_parquet(out / f"{layer}.parquet"), package]
    if (out / f"{layer}.csv").exists():
        tables.append(pd.read_csv(out / f"{layer}.csv"))
    return tables


def test_all_formats_say_the_same(tmp_path, scene) -> None:
    zones = write_zones(
        tmp_path / "zones.gpkg", (0, 0, 45, 60), (45, 0, 90, 60), name=["Ünder, \"B\"", "B"],
        number=[7, None], day=pd.to_datetime(["2020-02-29", None]), flag=[True, False],
    )  # fmt: skip
    out = make_run(tmp_path / "out", scene)
    older = make_run(tmp_path / "older", np.roll(scene, 2, axis=1))
    summary = summarize(older, out, ZoneRules(zones))
    assert {path.name for path in summary.files} == {
        "zones.csv", "zones.parquet", "zones.gpkg", "changes.parquet", "changes.gpkg",
    }  # fmt: skip
    for layer in ("zones", "changes"):
        parquet, gpkg, *csv = read_all(out, layer)
        assert parquet.crs == gpkg.crs
        assert set(parquet.geom_type.dropna()) == {"MultiPolygon"}
        assert shapely.equals_exact(parquet.geometry.array, gpkg.geometry.array)[
            parquet.geometry.notna()
        ].all()
        for other in (gpkg, *csv):
            expected = parquet.drop(columns="geometry").astype(object)
            found = other.drop(columns="geometry", errors="ignore").astype(object)
            assert list(found) == list(expected)
            for name in expected:
                pairs = zip(found[name], expected[name], strict=True)
                for a, b in pairs:
                    same = pd.isna(a) if pd.isna(b) else a == b or pd.Timestamp(a) == b
                    assert same, name
    json_rows = json.loads(json.dumps(summary.to_json()))["rows"]
    assert [row["area_m2"] for row in json_rows] == parquet_column(out, "area_m2")
    assert json_rows[-1]["zone_km2"] is None
    with closing(sqlite3.connect(out / "zones.gpkg")) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (10200,)


def parquet_column(out: Path, name: str) -> list:
    return pd.read_parquet(out / "zones.parquet")[name].tolist()


def test_files_are_the_same_every_time(tmp_path, scene, halves) -> None:
    outs = [make_run(tmp_path / name, scene) for name in ("a", "b")]
    for out in outs:
        summarize(tmp_path / "a", out, ZoneRules(halves))
    for name in ("zones.csv", "zones.parquet", "changes.parquet"):
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()


def style(gpkg: Path) -> ET.Element:
    """The default style of the only layer, as QGIS looks it up."""
    with closing(sqlite3.connect(gpkg)) as database:
        ((layer, qml),) = database.execute(
            "SELECT f_table_name, styleQML FROM layer_styles JOIN gpkg_geometry_columns "
            "ON table_name = f_table_name AND column_name = f_geometry_column WHERE useAsDefault"
        ).fetchall()
    assert layer == gpkg.stem
    return ET.fromstring(qml.removeprefix("<!DOCTYPE qgis>"))


def test_the_style_is_inside_and_shows_the_first_class(tmp_path, scene, halves) -> None:
    out = make_run(tmp_path / "out", scene)
    summarize(out, out, ZoneRules(halves))
    classes = style(out / "zones.gpkg").findall("renderer-v2/rules/rule")
    assert [rule.get("label") for rule in classes] == [f"{name} per km²" for name in NAMES[1:]]
    assert [rule.get("checkstate") for rule in classes] == ["1", "0", "0"]
    assert classes[1].get("filter") == '"class_id" = 2'
    symbols = style(out / "zones.gpkg").findall("renderer-v2/symbols/symbol")
    drawn = [leaf.get("symbol") for rule in classes for leaf in rule]
    assert drawn == [symbol.get("name") for symbol in symbols]
    changes = style(out / "changes.gpkg").findall("renderer-v2/rules/rule")
    assert [rule.get("label") for rule in changes][:3] == [
        "new",
        "gone",
        "unseen in the other year",
    ]


def test_shades_hold_equal_shares_of_the_values() -> None:
    rules = graduated("per_km2", np.array([np.nan, 0.0, *range(1, 101)]), "#00FF00", "none")
    assert [rule.label for rule in rules] == [
        "none", "0", "0 - 20.8", "20.8 - 40.6", "40.6 - 60.4", "60.4 - 80.2", "over 80.2",
    ]  # fmt: skip
    colors = [rule.symbol.find(".//Option[@name='color']").get("value") for rule in rules]
    assert (colors[2], colors[-1]) == ("173,255,173,200", "0,255,0,200")
    same = graduated("x", np.array([3.0, 3.0]), "#00FF00", "none")
    assert [rule.label for rule in same] == ["none", "0", "over 0"]
    assert len(graduated("x", np.array([np.nan]), "#00FF00", "none")) == 3


@pytest.fixture
def years(tmp_path, scene) -> tuple[Path, Path]:
    """Before and after, on anchors 40 pixels apart, in the same CRS by two names.

    Class 1 is kept, shifted by 3 px. One of class 2 is gone; another is new where class 3 was,
    which is gone. Left of column 10 nothing was seen before, below row 50 nothing after.
    """
    before, after = np.zeros((60, 100), np.uint8), np.zeros((60, 100), np.uint8)
    before[:, :10], after[50:] = 255, 255
    before[10:20, 33:53] = after[10:20, 30:50] = 1
    before[10:14, 92:98] = 2
    before[30:34, 60:68], after[30:34, 60:68] = 3, 2
    after[20:24, 2:6] = 1
    before[54:58, 70:78] = 3
    shifted = Grid(CUSTOM_WKT, LO19.xy(-40, -40), LO19.pixel, Window(0, 0, 1, 1))
    wide = np.pad(before, ((40, 0), (40, 0)), constant_values=255)
    return (
        make_run(tmp_path / "before", wide, shifted),
        make_run(tmp_path / "after", after),
    )


def test_two_years_are_compared(years, halves) -> None:
    before, after = years
    found = summarize(before, after, ZoneRules(halves))
    columns = ("count_before", "count", "count_change", "kept", "new", "gone", "unseen")
    assert rows(found, *columns) == {
        ("A", 1): (1, 2, 1, 1, 0, 0, 1),
        ("B", 2): (0, 1, 1, 0, 1, 0, 0),
        ("B", 3): (2, 0, -2, 0, 0, 1, 1),
        ("(outside)", 2): (1, 0, -1, 0, 0, 1, 0),
    }
    text = found.to_text()
    assert {"count_before", "count_change", "new", "gone"} <= set(text.split())
    assert max(len(line) for line in text.splitlines() if "zones.csv" not in line) <= 120
    areas = {key: tuple(np.divide(row, PIXEL_M2)) for key, row in rows(
        found, "area_m2_before", "area_m2", "area_m2_change"
    ).items()}  # fmt: skip
    assert areas[("A", 1)] == pytest.approx((120, 150 + 16, 46), abs=1e-3)
    assert areas[("B", 1)] == pytest.approx((80, 50, -30), abs=1e-3)
    first = found.table.iloc[0]
    assert first["valid_share"] == pytest.approx(50 / 60)
    assert first["valid_share_before"] == pytest.approx(35 / 45)


def test_changes_name_their_partners(years, halves) -> None:
    before, after = years
    summarize(before, after, ZoneRules(halves))
    table = gpd.read_parquet(after / "changes.parquet")
    ids = {
        name: set(gpd.read_parquet(out / "detections.parquet")["id"])
        for name, out in (("before", before), ("after", after))
    }
    assert {run: set(part["id"]) for run, part in table.groupby("run")} == ids
    kept = table[table["status"] == "kept"].set_index("run")
    assert kept["id"].to_dict() == {"before": "1_73_50", "after": "1_30_10"}
    assert kept["other_id"].to_dict() == {"after": "1_73_50", "before": "1_30_10"}
    assert kept["iou"].tolist() == pytest.approx([17 / 23] * 2)
    alone = table[table["status"] != "kept"]
    assert alone[["other_id", "iou"]].isna().all(axis=None)
    facts = alone[["run", "status", "class_id", "zone"]].itertuples(index=False, name=None)
    assert set(facts) == {
        ("before", "gone", 2, "(outside)"), ("before", "gone", 3, "B"),
        ("before", "unseen", 3, "B"), ("after", "new", 2, "B"), ("after", "unseen", 1, "A"),
    }  # fmt: skip


def test_what_hardly_overlaps_is_another_object(years, halves) -> None:
    before, after = years
    found = summarize(before, after, ZoneRules(halves, min_iou=0.75))  # 17/23 is 0.739
    assert rows(found, "kept", "new", "gone", "unseen")[("A", 1)] == (0, 1, 1, 1)
    with pytest.raises(UsageError, match="above 0 and at most 1, got 0"):
        ZoneRules(halves, min_iou=0)


def test_years_in_different_crs_meet_in_the_later(tmp_path, scene, halves) -> None:
    to_utm = pyproj.Transformer.from_crs(LO19.crs, "EPSG:32734", always_xy=True)
    x, y = to_utm.transform(*LO19.xy(40, 15))
    crs = pyproj.CRS("EPSG:32734").to_wkt()
    utm = Grid(crs, (x - 50 * 0.1, y + 50 * 0.1), (0.1, 0.1), Window(0, 0, 1, 1))
    earlier = np.zeros((100, 100), np.uint8)
    earlier[46:54, 42:58] = 1  # 1.6 x 0.8 m, as in the scene; turned by 1.4 degrees
    before, after = make_run(tmp_path / "b", earlier, utm), make_run(tmp_path / "a", scene)
    found = summarize(before, after, ZoneRules(halves))
    assert rows(found, "kept", "gone")[("A", 1)] == (1, 0)
    changes = gpd.read_parquet(after / "changes.parquet")
    assert changes.crs == pyproj.CRS(LO19.crs)
    assert changes["iou"].max() > 0.9
    assert found.table["area_m2_before"].sum() == pytest.approx(128 * 0.01)


def placed(crs: str, lon: float, lat: float, size: float) -> Grid:
    """A grid whose pixel (30, 50) is at a location."""
    known = pyproj.CRS(crs)
    x, y = pyproj.Transformer.from_crs("EPSG:4326", known, always_xy=True).transform(lon, lat)
    corner = x - 50 * size, y + 30 * size
    return Grid(known.to_wkt(), corner, (size, size), Window(0, 0, 1, 1))


def write_degrees(path: Path, *boxes: tuple[float, float, float, float]) -> Path:
    names = [chr(ord("A") + n) for n in range(len(boxes))]
    shapes = [shapely.box(*box) for box in boxes]
    gpd.GeoDataFrame({"name": names}, geometry=shapes, crs="EPSG:4326").to_file(path)
    return path


def test_a_border_in_degrees_is_a_curve_between_its_corners(tmp_path) -> None:
    """The chord of the border of 1° passes about 80 m from it, and beside everything here."""
    classes = np.zeros((60, 100), np.uint8)
    classes[10:14, [10, 50]] = 1  # north of the parallel in row 30
    classes[40:44, [10, 30, 50, 70]] = 1
    out = make_run(tmp_path / "out", classes, placed("ESRI:102562", 18.5, -34, 0.08))
    zones = write_degrees(tmp_path / "z.gpkg", (18, -34, 19, -33), (18, -35, 19, -34))
    found = rows(summarize(out, None, ZoneRules(zones)), "count")
    assert found == {("A", 1): (2,), ("B", 1): (4,)}


@pytest.mark.parametrize("crs", ["EPSG:3460", "EPSG:3832", "EPSG:32701", "EPSG:4326"])
def test_zones_that_meet_at_180_degrees(tmp_path, crs: str) -> None:
    classes = np.zeros((60, 100), np.uint8)
    classes[10:14, [10, 20, 30, 60, 70, 80]] = 1
    size = 1e-6 if crs == "EPSG:4326" else 0.1
    out = make_run(tmp_path / "out", classes, placed(crs, 180, -17, size))
    zones = write_degrees(tmp_path / "z.gpkg", (179, -18, 180, -16), (-180, -18, -179, -16))
    found = summarize(out, None, ZoneRules(zones))
    assert rows(found, "count") == {("A", 1): (3,), ("B", 1): (3,)}
    assert found.table["zone_km2"][:6].tolist() == pytest.approx([23_568] * 6, rel=3e-3)


@pytest.mark.parametrize(
    ("crs", "lon", "lat"),
    [
        ("EPSG:3857", 13.4, 52.5),  # lengths are off by 1.64
        ("EPSG:32601", 18.4, 20.0),  # far outside of its zone
        ("EPSG:4326", 18.4, -34.0),
        ("EPSG:3031", 30.0, -75.0),
    ],
)
def test_areas_of_zones_are_those_on_the_ground(tmp_path, scene, crs: str, lon, lat) -> None:
    out = make_run(tmp_path / "out", scene, placed(crs, lon, lat, 1e-6 if lat == -34 else 0.1))
    box = (lon - 0.5, lat - 0.5, lon + 0.5, lat + 0.5)
    zones = write_degrees(tmp_path / "z.gpkg", box, (-180, -90, 180, 90))
    found = summarize(out, None, ZoneRules(zones)).table
    ring = shapely.segmentize(shapely.box(*box), 0.01)
    true = pyproj.Geod(ellps="WGS84").geometry_area_perimeter(ring)[0] / 1e6
    assert found["zone_km2"][0] == pytest.approx(true, rel=1e-5)
    assert found["per_km2"][0] > 0
    pixel_m2 = found["area_m2"][0] / 200
    assert found["per_km2"][0] == pytest.approx(1e6 / (6000 * pixel_m2), rel=1e-3)


def test_nothing_found_is_a_row_of_zeros(tmp_path, halves) -> None:
    out = make_run(tmp_path / "out", np.zeros((60, 100), np.uint8))
    found = summarize(out, out, ZoneRules(halves))
    assert not rows(found, "count", "area_m2", "kept", "new", "gone", "unseen")
    assert (found.table["per_km2"].dropna() == 0).all()
    assert found.to_text().startswith("9 row(s) without objects are in")
    assert len(gpd.read_file(out / "changes.gpkg", layer="changes")) == 0


def test_errors_say_what_to_do(tmp_path, scene, halves) -> None:
    out = make_run(tmp_path / "out", scene)
    far = write_zones(tmp_path / "far.gpkg", (5000, 0, 5100, 60))
    with pytest.raises(UsageError, match=r"far\.gpkg: no zone touches .* check its CRS"):
        summarize(out, None, ZoneRules(far))
    with pytest.raises(UsageError, match=r"far\.gpkg: no footprint lies on .* check its CRS"):
        summarize(out, None, ZoneRules(halves, footprints=far))
    with pytest.raises(UsageError, match="there is no such file"):
        summarize(out, None, ZoneRules(tmp_path / "none.gpkg"))
    with pytest.raises(OutputError, match=r"holds no run\.json"):
        summarize(tmp_path, None, ZoneRules(halves))
    other = make_run(tmp_path / "other", scene)
    run = json.loads((other / "run.json").read_text())
    run["settings"]["model"]["classes"][1]["name"] = "panel"
    (other / "run.json").write_text(json.dumps(run))
    with pytest.raises(UsageError, match=r"different classes \(panel, .*; solar panel, "):
        summarize(other, out, ZoneRules(halves))
    (other / "detections.parquet").unlink()
    with pytest.raises(OutputError, match="capecam finish"):
        summarize(other, None, ZoneRules(halves))
