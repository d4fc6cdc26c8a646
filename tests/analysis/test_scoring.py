"""Scores worked out by hand, and matching against every possible assignment."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cities import CUSTOM_WKT, blobs, colours_model, write_tif

from capecam.analysis import matching
from capecam.analysis.evaluation import EvaluationRequest, evaluate
from capecam.analysis.matching import match, overlaps
from capecam.analysis.scoring import Rules
from capecam.errors import OutputError, UsageError
from capecam.run.supervisor import run
from capecam.settings.loading import load

NAMES = ("background", "solar panel", "water heater", "pool heater")
X, Y = -51_000.0, -3_763_000.0


def boxes(rng: np.random.Generator) -> np.ndarray:
    corner = rng.integers(0, 12, (2, rng.integers(1, 6)))
    return shapely.box(*corner, *(corner + rng.integers(1, 9, corner.shape)))


def best_of_all(a: np.ndarray, b: np.ndarray, least: float, *, most_pairs: bool) -> tuple:
    """The most pairs and the largest sum of any assignment, or the largest sum alone."""
    iou = {(i, j): x for i, j, x in zip(*overlaps(a, b, least), strict=True)}
    long, short = max(len(a), len(b)), min(len(a), len(b))
    found = []
    for order in itertools.permutations(range(long), short):
        pairs = [(i, j) if len(a) <= len(b) else (j, i) for i, j in enumerate(order)]
        taken = [iou[pair] for pair in pairs if pair in iou]
        found.append((len(taken) if most_pairs else 0, round(sum(taken), 9)))
    return max(found)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    least=st.sampled_from([0.01, 0.1, 0.3, 0.5]),
    most=st.booleans(),
    sparse=st.booleans(),
)
def test_no_assignment_is_better(seed: int, least: float, *, most: bool, sparse: bool) -> None:
    rng = np.random.default_rng(seed)
    a, b = boxes(rng), boxes(rng)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "DENSE", 0 if sparse else 1_000_000)
        i, j, iou = match(a, b, least, most_pairs=most)
    assert len(set(i)) == len(set(j)) == len(i)
    assert (iou >= least).all()
    found = (len(i) if most else 0, round(float(iou.sum()), 9))
    assert found == pytest.approx(best_of_all(a, b, least, most_pairs=most))


def test_the_best_pair_first_would_end_with_fewer() -> None:
    a = np.array([shapely.box(0, 0, 10, 1), shapely.box(9, 0, 19, 1)])
    b = np.array([shapely.box(4, 0, 14, 1), shapely.box(-6, 0, 4, 1)])
    i, j, _ = match(a, b, 0.2)  # though 0 and 0 overlap most
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 1), (1, 0)]


def layer(path: Path, *rows: tuple, crs: str = "ESRI:102562") -> Path:
    """Squares of (class, left, top, side), in metres from a corner, with confidence if given."""
    table = {"class": [row[0] for row in rows]}
    if rows and len(rows[0]) > 4:
        table["confidence"] = [row[4] for row in rows]
    shapes = [shapely.box(X + x, Y - y - side, X + x + side, Y - y) for _, x, y, side, *_ in rows]
    gpd.GeoDataFrame(table, geometry=shapes, crs="ESRI:102562").to_crs(crs).to_file(path)
    return path


def asked(found: Path, truth: Path, **options) -> dict:
    return evaluate(EvaluationRequest(found, truth, **options)).to_json()


def by_class(answer: dict) -> dict[str, dict]:
    return {row["class"]: row for row in answer["classes"]}


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, Path]:
    """Two panels found of three, one of them badly; a heater called a panel; one thing too many."""
    truth = layer(
        tmp_path / "truth.gpkg",
        ("solar panel", 0, 0, 4), ("solar panel", 10, 0, 4), ("solar panel", 20, 0, 4),
        ("water heater", 30, 0, 2),
    )  # fmt: skip
    found = layer(
        tmp_path / "found.gpkg",
        ("solar panel", 0, 0, 4, 0.9), ("solar panel", 11, 0, 4, 0.7),
        ("solar panel", 30, 0, 2, 0.8), ("pool heater", 40, 0, 3, 0.3),
    )  # fmt: skip
    return found, truth


def test_a_scene_scored_by_hand(scene) -> None:
    answer = asked(*scene)
    panels = by_class(answer)["solar panel"]
    assert (panels["true"], panels["found"], panels["matched"]) == (3, 3, 2)
    assert panels["precision"] == panels["recall"] == panels["f1"] == pytest.approx(2 / 3)
    assert panels["mean_iou"] == pytest.approx((1 + 12 / 20) / 2)
    assert (panels["count_error"], panels["area_error_m2"]) == (0, pytest.approx(36 - 48))
    # 0.9 is right, 0.8 wrong, 0.7 right; a third was not found.
    assert panels["average_precision"] == pytest.approx((1 + 2 / 3) / 3)
    heaters, pools = by_class(answer)["water heater"], by_class(answer)["pool heater"]
    assert (heaters["recall"], heaters["precision"], heaters["f1"]) == (0, None, 0)
    assert (pools["recall"], pools["precision"], pools["count_error_relative"]) == (None, 0, None)
    everything = by_class(answer)["all classes"]
    assert (everything["true"], everything["found"], everything["matched"]) == (4, 4, 2)
    assert answer["confusion"]["water heater"]["solar panel"] == 1
    assert answer["confusion"]["solar panel"] == {
        "(nothing)": 1, "solar panel": 2, "water heater": 0, "pool heater": 0,
    }  # fmt: skip
    assert answer["confusion"]["(nothing)"]["pool heater"] == 1


def test_the_curve_leaves_out_what_is_less_confident(scene) -> None:
    curve = {p["confidence"]: p for p in by_class(asked(*scene))["solar panel"]["curve"]}
    assert [curve[c]["found"] for c in (0.0, 0.7, 0.75, 0.85, 0.95)] == [3, 3, 2, 1, 0]
    assert [curve[c]["precision"] for c in (0.75, 0.85, 0.95)] == [0.5, 1.0, None]
    assert [curve[c]["recall"] for c in (0.75, 0.85)] == pytest.approx([1 / 3, 1 / 3])


def test_the_overlap_that_makes_a_pair_is_a_setting(scene) -> None:
    for iou, matched in ((0.6, 2), (0.61, 1)):
        answer = asked(*scene, rules=Rules(iou))
        assert by_class(answer)["solar panel"]["matched"] == matched
    with pytest.raises(UsageError, match="--iou"):
        Rules(0.0)


def test_intervals_hold_the_value_and_can_be_repeated(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    places = [(float(60 * n), float(rng.integers(0, 900)), 4.0) for n in range(60)]
    truth = layer(tmp_path / "t.gpkg", *[("solar panel", *place) for place in places])
    found = layer(tmp_path / "f.gpkg", *[("solar panel", *place) for place in places[:40]])
    first, again = (by_class(asked(found, truth))["solar panel"] for _ in range(2))
    low, high = first["intervals_95"]["recall"]
    assert low < 2 / 3 < high
    assert 0.1 < high - low < 0.4
    assert first["intervals_95"]["precision"] == (1, 1)
    assert first == again


def test_only_what_was_labelled_counts(tmp_path: Path, scene) -> None:
    found, truth = scene
    # Of the second true panel (10..14) and the found one (11..15), less than half lies in it.
    area = gpd.GeoSeries([shapely.box(X - 1, Y - 9, X + 11.9, Y + 1)], crs="ESRI:102562")
    area.to_crs(4326).segmentize(1e-5).to_file(tmp_path / "area.geojson")
    answer = asked(found, truth, area=tmp_path / "area.geojson", rules=Rules(0.4))
    panels = by_class(answer)["solar panel"]
    assert answer["area_km2"] == pytest.approx(12.9 * 10 / 1e6, rel=1e-3)
    assert (panels["true"], panels["found"], panels["matched"]) == (1, 1, 1)
    wide = gpd.GeoSeries([shapely.box(X - 1, Y - 9, X + 13, Y + 1)], crs="ESRI:102562")
    wide.to_file(tmp_path / "wide.gpkg")
    panels = by_class(asked(found, truth, area=tmp_path / "wide.gpkg"))["solar panel"]
    assert (panels["true"], panels["found"], panels["matched"]) == (2, 2, 2)
    assert panels["true_m2"] == pytest.approx(16 + 12)
    assert panels["mean_iou"] == pytest.approx((1 + 8 / 12) / 2)  # cut at 13, on both sides


def test_the_border_of_a_labelled_area_in_degrees_is_a_curve(tmp_path: Path) -> None:
    rows = [
        ("solar panel", 0, y, 4) for y in (-20, -10, 10)
    ]  # the border is 0.5° long to each side
    same = layer(tmp_path / "a.gpkg", *rows)
    lon, lat = pyproj.Transformer.from_crs("ESRI:102562", 4326, always_xy=True).transform(X, Y)
    border = shapely.box(lon - 0.5, lat, lon + 0.5, lat + 1)
    gpd.GeoSeries([border], crs=4326).to_file(tmp_path / "area.gpkg")
    panels = by_class(asked(same, same, area=tmp_path / "area.gpkg"))["solar panel"]
    assert (panels["true"], panels["found"], panels["matched"]) == (2, 2, 2)


def annotations(
    path: Path, shift: float = 0.0, flags=("PV_normal", "PV_heater", "PV_pool")
) -> Path:
    """In the layout of the city's file: flags, a CRS with a misleading name, metres as degrees."""
    rng = np.random.default_rng(7)
    x, y = X + 25 * np.arange(30) + shift, Y - rng.integers(0, 500, 30)
    sides = rng.uniform(1, 6, 30)
    own = np.arange(30) % 3
    table = {flag: (own == n).astype(float) for n, flag in enumerate(flags)}
    table[flags[1]][own == 0] = np.nan  # as in the file, where 0 is missing now and then
    table["centroid_latitude"] = y
    shapes = shapely.box(x, y - sides, x + sides, y)
    gpd.GeoDataFrame(table, geometry=shapes, crs=CUSTOM_WKT).to_file(path)
    return path


def test_the_citys_annotations_against_themselves(tmp_path: Path) -> None:
    truth = annotations(tmp_path / "a.gpkg")
    answer = asked(truth, truth)
    assert [row["true"] for row in answer["classes"]] == [10, 10, 10, 30]
    for row in answer["classes"]:
        assert row["precision"] == row["recall"] == row["f1"] == row["mean_iou"] == 1
        assert row["area_error_m2"] == 0


def test_shifted_annotations_match_where_they_are_large_enough(tmp_path: Path) -> None:
    truth, moved = annotations(tmp_path / "a.gpkg"), annotations(tmp_path / "b.gpkg", shift=1.0)
    sides = gpd.read_file(truth).geometry.bounds.eval("maxx - minx").to_numpy()
    iou = np.maximum(sides - 1, 0) / (sides + 1)  # a square of side s, moved by 1 m
    everything = by_class(asked(moved, truth))["all classes"]
    assert everything["matched"] == (iou >= 0.5).sum()
    assert 5 < everything["matched"] < 25
    assert everything["mean_iou"] == pytest.approx(iou[iou >= 0.5].mean())


def test_swapped_classes_match_nothing_and_the_confusion_says_so(tmp_path: Path) -> None:
    truth = annotations(tmp_path / "a.gpkg")
    swapped = annotations(tmp_path / "b.gpkg", flags=("PV_heater", "PV_normal", "PV_pool"))
    answer = asked(swapped, truth)
    assert by_class(answer)["solar panel"]["matched"] == 0
    assert by_class(answer)["pool heater"]["f1"] == 1
    assert answer["confusion"]["solar panel"]["water heater"] == 10
    assert answer["confusion"]["water heater"]["solar panel"] == 10


def test_degrees_are_measured_in_metres(tmp_path: Path, scene) -> None:
    found, truth = scene
    table = gpd.read_file(found).to_crs("EPSG:4326")
    table.to_file(tmp_path / "wgs.geojson")
    panels = by_class(asked(tmp_path / "wgs.geojson", truth))["solar panel"]
    assert panels["matched"] == 2
    assert panels["found_m2"] == pytest.approx(36, rel=2e-3)


def test_nothing_found_and_nothing_true(tmp_path: Path, scene) -> None:
    found, truth = scene
    empty = tmp_path / "empty.gpkg"
    gpd.read_file(truth).iloc[:0].to_file(empty)
    everything = by_class(asked(empty, truth))["all classes"]
    assert (everything["precision"], everything["recall"]) == (None, 0)
    everything = by_class(asked(found, empty))["all classes"]
    assert (everything["precision"], everything["recall"]) == (0, None)
    answer = asked(empty, empty)
    assert by_class(answer)["all classes"]["f1"] is None
    json.dumps(answer, allow_nan=False)


def test_layers_of_one_file_are_compared(tmp_path: Path, scene) -> None:
    found, truth = scene
    for suffix, driver in (("gpkg", "GPKG"), ("gdb", "OpenFileGDB")):
        both = tmp_path / f"both.{suffix}"
        for name, path in (("found", found), ("truth", truth)):
            gpd.read_file(path).to_file(both, layer=name, driver=driver)
        layers = (Path(f"{both}|layername={name}") for name in ("found", "truth"))
        assert by_class(asked(*layers)) == by_class(asked(found, truth))
        assert by_class(asked(both, truth)) == by_class(asked(found, truth))


def test_layers_without_a_class_are_refused(tmp_path: Path, scene) -> None:
    found, truth = scene
    gpd.read_file(found)[["confidence", "geometry"]].to_file(tmp_path / "bare.gpkg")
    with pytest.raises(UsageError, match="says no class: none of the columns class, class_id, PV"):
        asked(tmp_path / "bare.gpkg", truth)
    layer(tmp_path / "odd.gpkg", ("solar pannel", 0, 0, 4))
    with pytest.raises(UsageError, match=r"'solar pannel'; did you mean solar panel\?"):
        asked(tmp_path / "odd.gpkg", truth)
    with pytest.raises(OutputError, match="--steps needs the folder of a run"):
        asked(found, truth, by_step=True)


def test_rows_with_several_classes_or_none_are_left_out(tmp_path: Path, caplog) -> None:
    truth = annotations(tmp_path / "a.gpkg")
    table = gpd.read_file(truth)
    table.loc[0, "PV_pool"] = 1.0
    table.loc[1, "PV_heater"] = 0.0
    table.to_file(tmp_path / "b.gpkg")
    with caplog.at_level(logging.WARNING):
        answer = asked(tmp_path / "b.gpkg", truth)
    assert by_class(answer)["all classes"]["found"] == 28
    assert "2 row(s) have no class or several" in caplog.text


def test_what_lies_far_from_all_truth_is_doubted(tmp_path: Path, scene, caplog) -> None:
    _, truth = scene
    far = layer(tmp_path / "far.gpkg", ("solar panel", 0, 0, 4), ("solar panel", 900, 0, 4))
    with caplog.at_level(logging.WARNING):
        asked(far, truth)
    assert "1 of 2 found objects lie more than 100 m outside of all truth" in caplog.text


def test_an_interval_without_width_is_no_certainty(tmp_path: Path) -> None:
    same = layer(tmp_path / "a.gpkg", ("solar panel", 0, 0, 4), ("solar panel", 900, 0, 4))
    text = evaluate(EvaluationRequest(same, same)).to_text()
    assert "1.000 [-]" in text
    assert "[1.000 1.000]" not in text
    assert "[-]: not known" in text


def test_a_run_is_scored_by_step(tmp_path: Path) -> None:
    pixels = blobs(320, 320, seed=2)
    pixels[:, 100:110, 100:140] = 30
    pixels[0, 100:110, 100:118] = pixels[0, 100:110, 120:140] = 230  # one object in two regions
    write_tif(tmp_path / "images" / "a.tif", pixels)
    options = {"sources": [str(tmp_path / "images")], "out": str(tmp_path / "out")}
    options |= {"compute.readers": 0, "explain.calibration_tiles": 1, "detections.min_area_m2": 2.5}
    assert run(load(None, options), model=colours_model()).exit_code == 0
    truth = tmp_path / "truth.gpkg"
    gpd.read_parquet(tmp_path / "out" / "detections.parquet").to_file(truth)
    answer = asked(tmp_path / "out", truth, by_step=True)
    assert by_class(answer)["all classes"]["f1"] == 1
    found = {row["step"]: row["found"] for row in answer["steps"] if row["class"] == "all classes"}
    assert list(found) == ["tracing", "joining", "dropping small ones"]
    assert found["tracing"] > found["joining"] > found["dropping small ones"] > 3
    assert answer["area_km2"] == pytest.approx((320 * 0.08) ** 2 / 1e6)
    kept = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    detections = (tmp_path / "out" / "detections.parquet").read_bytes()
    assert kept.pop("detections") == hashlib.sha256(detections).hexdigest()
    assert kept == json.loads(json.dumps(answer))


def test_a_truth_that_holds_objects_twice_says_so_and_counts_them_once(
    tmp_path: Path, scene, caplog
) -> None:
    found, truth = scene
    table = gpd.read_file(truth)
    turned = table.geometry.reverse()
    doubled = gpd.GeoDataFrame(
        {"class": [*table["class"]] * 2}, geometry=[*table.geometry, *turned], crs=table.crs
    )
    doubled.to_file(tmp_path / "doubled.gpkg")
    answer = asked(found, tmp_path / "doubled.gpkg")
    assert by_class(answer) == by_class(asked(found, truth))
    assert "4 of 8 true objects are exact copies of others, which count once" in caplog.text
    assert "Delete duplicate geometries" in caplog.text


def test_objects_that_are_nearly_the_same_are_counted_and_named(tmp_path: Path, caplog) -> None:
    rows = [("solar panel", 0, 0, 4), ("solar panel", 0.04, 0, 4), ("water heater", 0, 0.02, 4)]
    path = layer(tmp_path / "a.gpkg", *rows)
    assert by_class(asked(path, path))["solar panel"]["true"] == 2
    assert "1 of 3 true objects are nearly the same as others (IoU over 0.95)" in caplog.text
    assert "must not overlap" in caplog.text, "'Delete duplicate geometries' leaves these"
    assert "1 of 3 found objects are nearly the same as others" in caplog.text


def test_found_objects_that_are_there_twice_stay_wrong_and_are_named(
    tmp_path: Path, scene, caplog
) -> None:
    _, truth = scene
    table = gpd.read_file(truth)
    twice = tmp_path / "twice.gpkg"
    table.iloc[[0, 0, 1, 2, 3]].to_file(twice)
    assert by_class(asked(twice, truth))["all classes"]["precision"] == pytest.approx(4 / 5)
    assert "1 of 5 found objects are nearly the same" in caplog.text


def test_one_outline_of_two_classes_is_named(tmp_path: Path, scene, caplog) -> None:
    rows = [("solar panel", 0, 0, 4), ("water heater", 0, 0, 4)]
    asked(scene[0], layer(tmp_path / "both.gpkg", *rows))
    assert "1 of 2 true objects have the outline of one of another class" in caplog.text


@pytest.mark.parametrize("crs", ["ESRI:102562", "EPSG:4326"])
def test_a_dissolved_truth_says_so(tmp_path: Path, scene, caplog, crs: str) -> None:
    found, truth = scene
    table = gpd.read_file(truth).to_crs(crs).dissolve("class").reset_index()
    table.to_file(tmp_path / "one.geojson")
    panels = by_class(asked(found, tmp_path / "one.geojson"))["solar panel"]
    assert panels["true"] == 1
    expected = (
        "1 of 2 true objects have parts more than 2 m apart, 3 groups of parts that count as 1"
    )
    assert expected in caplog.text
    assert "ogr2ogr -explodecollections" in caplog.text


def test_parts_of_one_roof_are_one_object(tmp_path: Path, caplog) -> None:
    row = shapely.MultiPolygon([shapely.box(X, Y + y, X + 9, Y + y + 1) for y in (0, 2, 4, 6, 8)])
    table = gpd.GeoDataFrame({"class": ["solar panel"]}, geometry=[row], crs="ESRI:102562")
    table.to_file(tmp_path / "a.gpkg")
    asked(tmp_path / "a.gpkg", tmp_path / "a.gpkg")
    assert not caplog.text
