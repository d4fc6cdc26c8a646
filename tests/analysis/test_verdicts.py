"""Verdicts find their detections again, whatever has happened to these since."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from support.cities import CRS, blobs, colours_model, write_tif
from support.commands import typed
from support.reviews import sql

from capecam.analysis.review.queue import add_queue
from capecam.analysis.review.review_file import ReviewFile
from capecam.analysis.review.review_scores import evaluate_reviews, wilson
from capecam.analysis.review.verdicts import (
    areas_m2,
    detections_of,
    found_since,
    match_verdicts,
    one_per_detection,
)
from capecam.errors import UsageError
from capecam.run.supervisor import run
from capecam.settings.loading import load
from capecam.store.run_folder import RunFolder


def shifted(n: int, dx: float = 0.0, side: float = 1.0) -> shapely.Polygon:
    """The n-th of a row of unit squares, 10 m apart, dx m to the right."""
    return shapely.box(10 * n + dx, 0, 10 * n + dx + side, side)


def verdicts(*rows: tuple, **columns: object) -> gpd.GeoDataFrame:
    """Rows of (outline, id, class, verdict, true class)."""
    shapes, ids, classes, words, true = zip(*rows, strict=True)
    data = {
        "id": ids, "class_id": classes, "verdict": words, "true_class_id": true, "checked_at": "",
        "row": np.arange(1, len(rows) + 1), **columns,
    }  # fmt: skip
    return gpd.GeoDataFrame(data, geometry=list(shapes), crs=CRS)


def detections(*rows: tuple) -> gpd.GeoDataFrame:
    """Rows of (outline, id, class)."""
    shapes, ids, classes = zip(*rows, strict=True)
    return gpd.GeoDataFrame({"id": ids, "class_id": classes}, geometry=list(shapes), crs=CRS)


def test_a_verdict_belongs_to_the_outline_that_was_looked_at() -> None:
    """Squares moved by d overlap by (1 - d) / (1 + d): .5 at a third."""
    found = match_verdicts(
        verdicts(
            (shifted(0), "1_0_0", 1, "right", 0),
            (shifted(1), "1_1_0", 1, "wrong", 0),
            (shifted(2), "1_2_0", 1, "right", 0),
            (shifted(3), "1_3_0", 1, "wrong", 2),
            (shifted(4), "1_4_0", 1, "wrong", 2),
            (shifted(5), "1_5_0", 1, "wrong", 0),
            (shifted(6), "1_6_0", 1, "right", 0),
            (shifted(7), "1_7_0", 1, "", 0),
            (shifted(8), "", 1, "right", 0),
        ),
        detections(
            (shifted(7), "1_7_0", 1),
            (shifted(0), "1_0_0", 1),
            (shifted(1, 0.33), "1_9_9", 1),  # another id: IoU .504
            (shifted(2, 0.34), "1_2_0", 1),  # the same id: IoU .493
            (shifted(3), "2_3_0", 2),  # it was said to be of class 2, and now is
            (shifted(4), "1_4_0", 1),
            (shifted(5), "2_5_0", 2),  # it was no object of class 1
            (shifted(6), "2_6_0", 2),  # it was right in class 1
        ),
    ).rows
    assert found["detection"].tolist() == [1, 2, -1, 4, 5, -1, 7, 0, -1]
    assert found["by"].tolist() == [
        "id", "overlap", "", "overlap", "id", "", "overlap", "id", "",
    ]  # fmt: skip
    assert found["truth_id"].tolist() == [1, 0, 1, 2, 2, 0, 1, -1, 1]
    assert found["is_right"].tolist() == [
        True, False, False, True, False, False, False, False, False,
    ]  # fmt: skip
    assert found["iou"].round(3).tolist() == [1, 0.504, 0.493, 1, 1, 1, 1, 1, 0]
    assert [found["reason"][n] for n in (2, 5, 8)] == [
        "the outline of 1_2_0 is another now (IoU 0.49)",
        "is of another class now, and was wrong as the old one",
        "there is no detection any more",
    ]


def test_ids_that_mean_something_else_now_lead_nowhere() -> None:
    """After a move of the grid, ids may be exchanged; the outlines say which is which."""
    found = match_verdicts(
        verdicts((shifted(0), "a", 1, "right", 0), (shifted(1), "b", 1, "wrong", 0)),
        detections((shifted(0), "b", 1), (shifted(1), "a", 1)),
    )
    assert found.rows["detection"].tolist() == [0, 1]
    assert found.rows["by"].tolist() == ["overlap", "overlap"]


def test_an_object_that_was_cut_in_two_has_no_verdict() -> None:
    whole = shapely.box(0, 0, 4, 1)
    halves = detections((shapely.box(0, 0, 2, 1), "a", 1), (shapely.box(2, 0, 4, 1), "b", 1))
    found = match_verdicts(verdicts((whole, "a", 1, "right", 0)), halves)
    assert len(found.unmatched) == 1
    joined = match_verdicts(
        verdicts(*((shape, "", 1, "right", 0) for shape in halves.geometry)),
        detections((whole, "a", 1)),
    )
    assert len(joined.unmatched) == 2


def test_nothing_matches_nothing() -> None:
    some = verdicts((shifted(0), "a", 1, "right", 0))
    others = detections((shifted(0), "a", 1))
    assert len(match_verdicts(some, others.iloc[:0]).unmatched) == 1
    assert len(match_verdicts(some.iloc[:0], others).rows) == 0
    assert len(one_per_detection(match_verdicts(some.iloc[:0], others).looked_at).rows) == 0


def test_the_last_verdict_counts_and_a_contradiction_does_not() -> None:
    words = ["right", "wrong", "right", "wrong", "wrong", "wrong", "right", "wrong"]
    times = ["2026-02", "2026-01", "", "", "2026-01", "2026-01", "", "2026-01"]
    places = [0, 0, 1, 1, 2, 2, 3, 3]
    rows = [(shifted(n), "", 1, word, 0) for n, word in zip(places, words, strict=True)]
    found = match_verdicts(
        verdicts(*rows, checked_at=times), detections(*((shifted(n), "", 1) for n in range(4)))
    )
    distinct = one_per_detection(found.looked_at)
    assert distinct.rows["row"].tolist() == [1, 6, 8]
    assert distinct.disputed["row"].tolist() == [3, 4]


def test_what_was_missed_may_be_found_since() -> None:
    missed = gpd.GeoDataFrame(
        {"class_id": [1, 1, 2, 1, 1], "m2": [np.nan, np.nan, np.nan, 7.0, 7.0]},
        geometry=[
            shifted(0), shifted(1, 0.5), shifted(2), shapely.Point(30.5, 0.5), shapely.Point(0, 99),
        ],
        crs=CRS,
    )  # fmt: skip
    now = detections(*((shifted(n), "", 1) for n in range(4)))
    assert found_since(missed, now).tolist() == [True, False, False, True, False]
    assert areas_m2(missed, "m2").round(6).tolist() == [1, 1, 1, 7, 7]


def test_wilson_by_hand() -> None:
    """1 of 10: (.1 + .19207) / 1.38415, and 1.95996 / 1.38415 * sqrt(.009 + .0096037) around it."""
    assert wilson(1, 10) == pytest.approx((0.017876, 0.404150), abs=2e-6)
    assert wilson(0, 0) is None
    assert wilson(0, 5)[0] == pytest.approx(0, abs=1e-9)
    assert wilson(5, 5)[1] == pytest.approx(1)


SIZE = 420


def make(folder: Path, *, west: bool = False) -> Path:
    """A run of one image; with another in the north-west, the grid begins there."""
    write_tif(folder / "in" / "a.tif", blobs(SIZE, SIZE, seed=5))
    if west:
        write_tif(folder / "in" / "b.tif", blobs(SIZE, SIZE, seed=6), -SIZE, -SIZE)
    run(load(None, {
        "sources": [str(folder / "in")], "out": str(folder / "out"), "compute.readers": 0,
        "explain.calibration_tiles": 4, "explain.methods": ["gradcam"], "objects.explain": "none",
    }), model=colours_model())  # fmt: skip
    return folder / "out"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("review"))


@pytest.fixture
def out(made, tmp_path) -> Path:
    """A copy of a finished run, beside its images."""
    shutil.copytree(made.parent, tmp_path / "city")
    return tmp_path / "city" / "out"


def review(out: Path) -> None:
    """Three right, one wrong, one of another class; one missed; one not yet looked at."""
    add_queue(out, 6)
    sql(
        out / "review.gpkg",
        "UPDATE verdicts SET verdict = 'right' WHERE fid < 4",
        "UPDATE verdicts SET verdict = 'wrong' WHERE fid = 4",
        "UPDATE verdicts SET verdict = 'wrong', true_class = CASE class WHEN 'pool heater' "
        "THEN 'solar panel' ELSE 'pool heater' END WHERE fid = 5",
    )
    table = gpd.read_parquet(out / "detections.parquet")
    x, y = table.total_bounds[:2] + 500
    missed = gpd.GeoDataFrame(
        {"class": ["water heater"]}, crs=table.crs,
        geometry=[shapely.MultiPolygon([shapely.box(x, y, x + 2, y + 3)])],
    )  # fmt: skip
    pyogrio.write_dataframe(missed, out / "review.gpkg", layer="missed", append=True)


def test_the_queue_is_added_once(out) -> None:
    first = json.loads(typed("review", out, "--top", 3, "--json").stdout)
    assert first == {
        "file": str(out / "review.gpkg"), "added": 3, "not_yet": 3, "looked_at": 0,
        "queue": len(gpd.read_parquet(out / "detections.parquet")),
    }  # fmt: skip
    before = (out / "review.gpkg").read_bytes()
    again = typed("review", out, "--top", 3).stdout
    assert again.endswith("0 detection(s) added; 3 to be looked at, 0 looked at; --top 6 adds the "
                          "next of the queue\n")  # fmt: skip
    assert (out / "review.gpkg").read_bytes() == before
    typed("review", out, "--top", 5)
    queue = pd.read_parquet(out / "detections.parquet").sort_values("review")["id"].tolist()
    rows = pyogrio.read_dataframe(out / "review.gpkg", layer="verdicts")
    assert rows["id"].tolist() == queue[:5]
    assert rows["verdict"].isna().all()


def test_verdicts_are_counted(out) -> None:
    review(out)
    found = json.loads(typed("evaluate", out, "--reviews", "--json").stdout)
    assert found == json.loads((out / "reviews.json").read_text())
    total = found["classes"][-1]
    counts = {"looked_at": 5, "right": 3, "wrong": 2, "other_class": 1, "no_object": 1}
    assert {key: total[key] for key in counts} == counts
    assert total["precision"] == 0.6
    assert found["not_yet"] == 1
    assert (total["missed"], round(total["missed_m2"], 6)) == (1, 6)
    assert found["origins"]["sample"][-1]["looked_at"] == 0
    assert found["confusion"]["water heater"]["(nothing)"] == 1
    assert sum(found["confusion"]["(nothing)"].values()) == 1
    text = typed("evaluate", out, "--reviews", out / "review.gpkg", "--to", out / "a").stdout
    assert "no estimate for the city" in text
    assert (out / "a" / "reviews.json").exists()


def test_what_is_looked_at_in_a_sample_is_counted_apart(out) -> None:
    review(out)
    run_ = RunFolder.open(out)
    block = gpd.GeoDataFrame(
        {"block": ["b1"], "probability": [0.1], "checked": [True]},
        geometry=[shapely.box(*run_.grid.bounds)], crs=run_.grid.crs,
    )  # fmt: skip
    rows = detections_of(run_).iloc[:2][["id", "class", "geometry"]]
    ReviewFile.of(run_).add({"sample": block, "verdicts": rows.assign(block="b1", verdict="right")})
    found = evaluate_reviews(out)
    assert found.by_origin["queue"][-1].looked_at == 5
    assert found.by_origin["sample"][-1].right == 2
    assert found.blocks == (1, 1)


@pytest.mark.thorough
def test_commands_leave_the_review_alone(out, tmp_path) -> None:
    """Ten runs, and every other command that writes into the folder."""
    review(out)
    before = (out / "review.gpkg").read_bytes()
    for _ in range(10):
        make(out.parent)
    typed("finish", out)
    typed("verify", out)
    typed("evaluate", out, "--reviews")
    typed("summarize", out, "--zones", out / "detections.gpkg")
    typed("export", out, "--format", "gpkg")
    message = typed("export", out, "--format", "gpkg", "--to", out / "review.gpkg", code=2).stderr
    assert "holds what people say" in message
    (out / "run.json").unlink()
    make(out.parent)  # as if it had never run
    assert (out / "review.gpkg").read_bytes() == before
    assert len(evaluate_reviews(out).unmatched) == 0


@pytest.mark.thorough
def test_verdicts_survive_a_moved_grid(out, tmp_path) -> None:
    review(out)
    before = evaluate_reviews(out)
    moved = make(tmp_path / "moved", west=True)
    shutil.copy(out / "review.gpkg", moved)
    ids = set(gpd.read_parquet(out / "detections.parquet")["id"])
    assert not ids & set(gpd.read_parquet(moved / "detections.parquet")["id"])
    after = evaluate_reviews(moved)
    assert [entry.to_json() for entry in after.classes] == [
        entry.to_json() for entry in before.classes
    ]
    assert after.unmatched == []
    rows = match_verdicts(
        ReviewFile.of(RunFolder.open(moved)).read().verdicts, detections_of(RunFolder.open(moved))
    ).rows
    assert (rows["by"] == "overlap").all()
    assert add_queue(moved, 0).added == 0


def test_a_verdict_without_a_detection_is_listed_and_stays(out) -> None:
    review(out)
    far = gpd.GeoDataFrame(
        {"class": "solar panel", "verdict": "right", "id": "1_5_5"},
        geometry=[shapely.box(0, 0, 5, 5)], crs="EPSG:4326", index=[0],
    )  # fmt: skip
    file = ReviewFile.of(RunFolder.open(out))
    near = far.set_geometry([shapely.box(*RunFolder.open(out).grid.bounds)], crs=file.crs)
    file.add({"verdicts": near})
    found = json.loads(typed("evaluate", out, "--reviews", "--json").stdout)
    (only,) = found["unmatched"]
    assert (only["row"], only["id"]) == (7, "1_5_5")
    assert only["reason"].startswith("the outline there is another now")
    assert found["classes"][-1]["looked_at"] == 5
    assert "1 verdicts without a detection, which stay in the file" in (
        typed("evaluate", out, "--reviews").stdout
    )
    assert len(file.read().verdicts) == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "exactly one of --truth and --reviews must be given"),
        (["--reviews", "--truth", __file__], "exactly one of --truth and --reviews must be given"),
        (["--reviews", "--steps"], "--area, --steps and --misses need --truth; leave them out"),
        (["--reviews"], "there is no such file; check its path"),
        (["--reviews", "x.gpkg"], "x.gpkg: there is no such file"),
    ],
)
def test_calls_that_make_no_sense(made, options, message) -> None:
    assert message in typed("evaluate", made, *options, code=2).stderr


def test_a_vector_file_has_no_reviews(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"holds no run\.json"):
        evaluate_reviews(tmp_path / "a.gpkg")
