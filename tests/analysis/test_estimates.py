"""Samples of blocks and estimates, from runs made by hand to the files of the result."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import pytest
import shapely
from support.cities import CRS, blobs, colours_model, quick_settings, write_tif
from support.reviews import sql
from support.runs import make_run
from support.tracing import LO19

from capecam.analysis.review.atlas import write_atlas
from capecam.analysis.review.estimates import EstimateRequest, Estimates, estimate
from capecam.analysis.review.review_file import ReviewFile
from capecam.analysis.review.sampling import SampleRequest, add_looks, draw_sample
from capecam.analysis.zonal_summary import summarize
from capecam.analysis.zones import ZoneRules
from capecam.cli import app
from capecam.errors import UsageError
from capecam.grid import Grid, Window
from capecam.run.supervisor import run
from capecam.store.file_names import MISSED
from capecam.store.run_folder import RunFolder
from capecam.views.report.report import write_report

BLOCK_PX = 100
"""Blocks of 8 m, the smallest: 100 pixels."""


def scene(seed: int = 1, side: int = 8, share: float = 0.6) -> np.ndarray:
    """Classes with an object of 20 x 15 pixels in a corner of some blocks."""
    rng = np.random.default_rng(seed)
    classes = np.zeros((side * BLOCK_PX, side * BLOCK_PX), np.uint8)
    for row, col in np.argwhere(rng.random((side, side)) < share):
        y, x = row * BLOCK_PX + 10, col * BLOCK_PX + 10
        classes[y : y + 15, x : x + 20] = rng.integers(1, 4)
    return classes


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return make_run(tmp_path / "out", scene())


@pytest.fixture
def zones(tmp_path: Path) -> ZoneRules:
    """Three zones: A and B of 8 rows and 3 columns of blocks each, C of one column."""
    path = tmp_path / "zones.gpkg"
    edges = ((0, 300), (300, 600), (600, 700))
    shapes = [
        shapely.transform(shapely.box(left, 0, right, 800), LO19.to_map) for left, right in edges
    ]
    gpd.GeoDataFrame({"name": ["A", "B", "C"]}, geometry=shapes, crs=LO19.crs).to_file(path)
    return ZoneRules(path)


def review_file(out: Path) -> ReviewFile:
    return ReviewFile.of(RunFolder.open_finished(out))


def check_all(out: Path, *more: str) -> Path:
    """Say that everything in the sample is right, and then something else."""
    path = review_file(out).path
    sql(path, "UPDATE verdicts SET verdict = 'right' WHERE block != ''",
        "UPDATE sample SET checked = 1", *more)  # fmt: skip
    return path


def add_missed(out: Path, *pixels: tuple[int, int, int, int], **columns: object) -> None:
    """Draw missed solar panels: boxes in pixels."""
    shapes = [shapely.transform(shapely.box(*box), LO19.to_map) for box in pixels]
    rows = {"class": ["solar panel"] * len(shapes), **columns}
    review_file(out).add({MISSED: gpd.GeoDataFrame(rows, geometry=shapes, crs=LO19.crs)})


def rows(found: Estimates, *columns: str) -> dict[tuple[str, int], tuple]:
    """Columns by zone and class."""
    table = found.rows.set_index(["zone", "class_id"])[list(columns)]
    return {key: tuple(row) for key, row in table.iterrows()}


def test_a_sample_is_the_same_for_the_same_seed(tmp_path, out) -> None:
    first, second, other = (
        draw_sample(out, SampleRequest(20, 8, seed=seed), tmp_path / f"{name}.gpkg")
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert list(first.rows["block"]) == list(second.rows["block"])
    assert list(first.rows["block"]) != list(other.rows["block"])
    assert first.design.digest == second.design.digest != other.design.digest


def test_the_layers_say_what_was_drawn(out, zones) -> None:
    drawn = draw_sample(out, SampleRequest(30, 8, zones))
    review = review_file(out).read()
    assert len(review.sample) == 30
    design = review.design
    assert (design["looks"].sum(), design["blocks"].sum()) == (30, 64)
    by_stratum = design.set_index("stratum")
    expected = by_stratum["looks"] / by_stratum["blocks"]
    assert review.sample["probability"].tolist() == pytest.approx(
        expected[review.sample["stratum"]].tolist()
    )
    # Every detection whose point is in a block has a row, and no other.
    detections = gpd.read_parquet(out / "detections.parquet")
    blocks = review.sample.sjoin(
        gpd.GeoDataFrame(detections[["id"]], geometry=detections.geometry.centroid)
    )
    assert set(review.verdicts["id"]) == set(blocks["id"])
    by_id = blocks.set_index("id")["block"]
    assert review.verdicts["block"].tolist() == by_id[review.verdicts["id"]].tolist()
    assert set(review.sample["zone"]) == {"A", "B", "C", "(outside)"}
    assert review.sample.area.tolist() == pytest.approx([64.0] * 30)
    assert drawn.rows["area_m2"].sum() == pytest.approx(30 * 64, rel=0.1)  # seen at 1/16


def test_blocks_at_the_edge_are_cut(tmp_path) -> None:
    out = make_run(tmp_path / "cut", scene()[:750, :730])
    drawn = draw_sample(out, SampleRequest(64, 8))
    areas = sorted({round(area, 2) for area in drawn.rows.area})
    assert areas == [round(a * b, 2) for a, b in ((2.4, 4), (2.4, 8), (4, 8), (8, 8))]


def test_a_census_is_the_truth(out, zones) -> None:
    """All 64 blocks: two solar panels are wrong, one is a water heater, and one was missed."""
    draw_sample(out, SampleRequest(64, 8, zones))
    panels = gpd.read_parquet(out / "detections.parquet")
    panels = panels[panels["class_id"] == 1].reset_index()
    wrong = "UPDATE verdicts SET verdict = 'wrong', true_class = {} WHERE id = '{}'"
    check_all(
        out,
        wrong.format("NULL", panels["id"][0]),
        wrong.format("'water heater'", panels["id"][1]),
        f"UPDATE verdicts SET true_m2 = 5 WHERE id = '{panels['id'][2]}'",
    )
    add_missed(out, (50, 50, 60, 60))
    found = estimate(out, None, EstimateRequest(zones=zones))
    counted = summarize(out, None, zones).table.set_index(["zone", "class_id"])
    table = found.rows.set_index(["zone", "class_id"])
    for what, summary in (("count", "count"), ("m2", "area_m2")):
        zoned = table.loc[table.index.get_level_values(0) != "(all)", f"{what}_map"]
        assert zoned.to_numpy() == pytest.approx(counted[summary].to_numpy(), abs=1e-5)
    assert (table["count_lo"] == table["count_hi"]).all()
    assert table["m2_lo"].to_numpy() == pytest.approx(table["m2_hi"].to_numpy())
    whole, number = table.loc["(all)"], len(panels)
    object_m2 = 20 * 15 * 0.08**2
    assert whole["count_est"][1] == number - 2 + 1
    assert whole["count_est"][2] == whole["count_map"][2] + 1
    assert whole["m2_est"][1] == pytest.approx(
        (number - 3) * object_m2 + 5 + 100 * 0.08**2, abs=1e-4
    )
    assert whole["precision_est"][1] == pytest.approx((number - 2) / number, abs=1e-5)
    assert whole["recall_est"][1] == pytest.approx((number - 2) / (number - 1), abs=1e-5)
    assert whole["recall_est"][3] == 1
    zone_of = "A" if panels.geometry[0].centroid.x < -51_000 + 24 else "B"
    assert table["count_est"][zone_of, 1] < table["count_map"][zone_of, 1] + 1


def test_three_zones_by_hand(tmp_path) -> None:
    """Blocks of 8 m in three zones side by side: 4, 4 and 2 of them; every one has one panel.

    Wrong are, in the sample, one panel of A and none of B. x is 1 everywhere, so that the rate is
    1, and A has 4 - 4 x share wrong; C is checked completely.
    """
    classes = np.zeros((200, 500), np.uint8)
    for row in range(2):
        for col in range(5):
            y, x = 100 * row + 20, 100 * col + 20
            classes[y : y + 50, x : x + 50] = 1
    out = make_run(tmp_path / "out", classes)
    path = tmp_path / "zones.gpkg"
    shapes = [
        shapely.transform(shapely.box(left, 0, right, 200), LO19.to_map)
        for left, right in ((0, 200), (200, 400), (400, 500))
    ]
    gpd.GeoDataFrame({"name": ["A", "B", "C"]}, geometry=shapes, crs=LO19.crs).to_file(path)
    zones = ZoneRules(path)
    drawn = draw_sample(out, SampleRequest(15, 8, zones))
    assert drawn.design.strata.looks.sum() == 10  # a census: 15 are more than there are
    fresh = tmp_path / "six.gpkg"
    drawn = draw_sample(out, SampleRequest(6, 8, None, seed=2), fresh)
    sql(fresh, "UPDATE verdicts SET verdict = 'right'", "UPDATE sample SET checked = 1")
    by_zone = drawn.rows.sjoin(gpd.read_file(path), predicate="within")
    first = by_zone[by_zone["name"] == "A"]["block"].iloc[0]
    sql(fresh, f"UPDATE verdicts SET verdict = 'wrong' WHERE block = '{first}'")
    found = estimate(out, None, EstimateRequest(sample=fresh, zones=zones), to=tmp_path / "six")
    weight = 10 / 6  # one stratum of 10 blocks, of which 6 were drawn
    panels = {
        zone: row for (zone, k), row in rows(found, "count_map", "count_est").items() if k == 1
    }
    assert panels["A"] == pytest.approx((4, 4 - weight))
    assert panels["B"] == pytest.approx((4, 4))
    assert panels["C"] == pytest.approx((2, 2))
    assert panels["(all)"] == pytest.approx((10, 10 - weight))
    m2 = rows(found, "m2_est")["A", 1]
    assert m2 == pytest.approx(((4 - weight) * 50 * 50 * 0.08**2,), abs=1e-4)
    assert found.rows["looks"].iloc[-1] == 6


def test_what_is_open_is_refused_or_said(out, caplog) -> None:
    draw_sample(out, SampleRequest(30, 8))
    with pytest.raises(UsageError, match="30 of 30 blocks are not done"):
        estimate(out, None, EstimateRequest(partial=True))
    path = check_all(out, "UPDATE sample SET checked = 0 WHERE fid <= 5")
    with pytest.raises(UsageError, match=r"5 of 30 blocks are not done.*--partial"):
        estimate(out, None, EstimateRequest())
    whole = sql(path, "SELECT block FROM verdicts LIMIT 1")[0][0]
    sql(path, f"UPDATE verdicts SET verdict = NULL WHERE block = '{whole}'")
    with pytest.raises(UsageError, match=r"1 detection\(s\) in 1 have no verdict"):
        estimate(out, None, EstimateRequest())
    with caplog.at_level(logging.WARNING):
        found = estimate(out, None, EstimateRequest(partial=True))
    assert "taken for a random part" in caplog.text
    assert found.facts["partial"]
    run = found.facts["runs"][0]
    assert run["looks"] < run["drawn"] == 30


def test_there_is_one_sample_in_a_file(out) -> None:
    draw_sample(out, SampleRequest(10, 8))
    with pytest.raises(UsageError, match="holds a sample already; add looks"):
        draw_sample(out, SampleRequest(10, 8))


def test_without_a_sample_there_is_no_estimate(out) -> None:
    review_file(out).add({})
    with pytest.raises(UsageError, match="holds no sample; draw one"):
        estimate(out, None, EstimateRequest())
    with pytest.raises(UsageError, match="holds no sample; draw one"):
        add_looks(out, 10)


def test_more_looks_are_the_next_of_the_same_draw(out, zones) -> None:
    first = draw_sample(out, SampleRequest(20, 8, zones))
    check_all(out, "UPDATE verdicts SET note = 'mine'")
    more = add_looks(out, 12)
    assert len(more.rows) == 12
    assert not set(more.rows["block"]) & set(first.rows["block"])
    review = review_file(out).read()
    assert len(review.sample) == 32
    assert review.sample["checked"].sum() == 20
    assert (review.verdicts["note"] == "mine").sum() == first.detections
    last = review.design[review.design["phase"] == 2].set_index("stratum")
    assert last["looks"].sum() == 32
    share = (last["looks"] / last["blocks"])[review.sample["stratum"]]
    assert review.sample["probability"].tolist() == pytest.approx(share.tolist())
    check_all(out)
    assert estimate(out, None, EstimateRequest()).facts["runs"][0]["looks"] == 32
    add_looks(out, 1000)
    check_all(out)
    found = estimate(out, None, EstimateRequest())
    assert (found.rows["count_lo"] == found.rows["count_hi"]).all()
    with pytest.raises(UsageError, match="all blocks are in the sample"):
        add_looks(out, 1)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("DELETE FROM sample WHERE block NOT IN (SELECT block FROM verdicts)",
         r"block.s. that were drawn are not in the layer"),
        ("INSERT INTO sample (geom, block, draw, checked, probability) SELECT geom, '9_9', draw, "
         "1, 1 FROM sample WHERE fid = 1",
         "1 block.s. of the layer sample were not drawn"),
        ("UPDATE sample SET draw = 'another' WHERE fid = 2", "were not drawn"),
        ("UPDATE sample_design SET seed = 9", "sample_design was changed"),
        ("UPDATE sample_design SET members = 'x'", "sample_design was changed"),
        ("UPDATE sample_design SET looks = looks + 1", "that were drawn are not in"),
        ("UPDATE verdicts SET block = (SELECT max(block) FROM sample WHERE block NOT IN "
         "(SELECT block FROM verdicts WHERE fid = 1)) WHERE fid = 1", "not in the block that"),
        ("INSERT INTO verdicts (geom, id, class, block, verdict) SELECT geom, id, class, "
         "block, verdict FROM verdicts WHERE fid = 1", "has two verdicts in block"),
    ],
)  # fmt: skip
def test_what_was_not_drawn_is_refused(out, edit, message) -> None:
    draw_sample(out, SampleRequest(20, 8))
    check_all(out, edit)
    with pytest.raises(UsageError, match=message):
        estimate(out, None, EstimateRequest())


def test_the_queue_is_never_read(out) -> None:
    """Verdicts without a block change nothing, whatever they say."""
    draw_sample(out, SampleRequest(20, 8))
    path = check_all(out)
    before = estimate(out, None, EstimateRequest()).rows
    sql(path, "INSERT INTO verdicts (geom, id, class, verdict) SELECT geom, id, class, "
              "'wrong' FROM verdicts")  # fmt: skip
    after = estimate(out, None, EstimateRequest()).rows
    pd.testing.assert_frame_equal(before, after)


def test_a_missed_object_counts_in_the_block_where_it_lies(out) -> None:
    draw_sample(out, SampleRequest(64, 8))
    check_all(out)
    block = review_file(out).read().sample["block"].iloc[0]
    add_missed(out, (550, 550, 560, 560), block=[block])
    add_missed(out, (650, 650, 660, 660))
    found = estimate(out, None, EstimateRequest())
    panels = rows(found, "count_map", "count_est")["(all)", 1]
    assert panels[1] - panels[0] == pytest.approx(2)
    assert found.facts["runs"][0]["missed_astray"] == 1


def test_a_proposed_place_counts_once_and_only_if_it_was_confirmed(out) -> None:
    """Places of the queue of misses: not looked at, nothing, confirmed, and drawn as well."""
    draw_sample(out, SampleRequest(64, 8))
    check_all(out)
    before = rows(estimate(out, None, EstimateRequest()), "count_est", "m2_est")["(all)", 1]
    places = ((50, 50, 60, 60), (150, 50, 160, 60), (250, 50, 260, 60), (350, 50, 360, 60))
    verdicts = ["", "nothing", "missed", "missed"]
    add_missed(out, *places, id=list("abcd"), verdict=verdicts, m2=[9.0] * 4)
    add_missed(out, (350, 50, 370, 60))
    found = rows(estimate(out, None, EstimateRequest()), "count_est", "m2_est")["(all)", 1]
    assert found[0] - before[0] == 2
    assert found[1] - before[1] == pytest.approx(9 + 200 * 0.08**2, abs=1e-5)


def test_a_map_that_was_made_again_is_estimated_with_the_same_sample(tmp_path, out, caplog) -> None:
    """The truth of the blocks is what was checked; a better map makes intervals narrower."""
    truth = scene()
    rng = np.random.default_rng(4)
    worse = truth.copy()
    for row, col in np.argwhere(rng.random((8, 8)) < 0.3):
        worse[row * 100 : row * 100 + 100, col * 100 : col * 100 + 100] = 0
    bad = make_run(tmp_path / "bad", worse)
    draw_sample(bad, SampleRequest(40, 8, seed=3))
    check_all(bad)
    review = review_file(bad).read()
    inside = shapely.union_all(review.sample.geometry.to_numpy())
    every = gpd.read_parquet(out / "detections.parquet")
    gone = every[~every["id"].isin(gpd.read_parquet(bad / "detections.parquet")["id"])]
    gone = gone[gone.geometry.centroid.within(inside)]
    rows_ = gpd.GeoDataFrame({"class": gone["class"]}, geometry=gone.geometry, crs=every.crs)
    review_file(bad).add({MISSED: rows_})
    first = estimate(bad, None, EstimateRequest())
    sample = review_file(bad).path
    with caplog.at_level(logging.WARNING):
        again = estimate(out, None, EstimateRequest(sample=sample))
    assert "made again since the sample" in caplog.text
    assert not again.facts["runs"][0]["same_map"]
    true = np.array([(truth == k).sum() / 300 for k in (1, 2, 3)])
    assert again.rows["count_est"].to_numpy() == pytest.approx(true)
    assert again.rows["recall_est"].to_numpy() == pytest.approx([1, 1, 1])
    for found in (first, again):
        assert (found.rows["count_lo"] <= true + 1e-6).all()
        assert (true - 1e-6 <= found.rows["count_hi"]).all()
    width = [(f.rows["count_hi"] - f.rows["count_lo"]).sum() for f in (first, again)]
    assert width[1] < width[0]


def test_detections_outside_of_the_frame_are_refused(tmp_path, out) -> None:
    small = make_run(tmp_path / "small", scene()[:400])
    draw_sample(small, SampleRequest(20, 8))
    check_all(small)
    with pytest.raises(UsageError, match="outside of the area that was mapped when"):
        estimate(out, None, EstimateRequest(sample=review_file(small).path))


def test_change_between_two_years(tmp_path, zones) -> None:
    """Twice as many panels in the second year: that can be told from chance; equal years not."""
    first = make_run(tmp_path / "one", scene(1, share=0.4))
    later = make_run(tmp_path / "two", scene(1, share=0.8))
    for out in (first, later):
        draw_sample(out, SampleRequest(50, 8))
        check_all(out)
    found = estimate(first, later, EstimateRequest(zones=zones))
    whole = found.rows[found.rows["zone"] == "(all)"]
    assert whole["count_differs"].any()
    assert (whole["count_change_est"] > 0).all()
    difference = whole["count_est"] - whole["count_before_est"]
    assert whole["count_change_est"].to_numpy() == pytest.approx(difference.to_numpy(), abs=1e-5)
    assert any("more than before" in line for line in found.sentences)
    same = estimate(first, first, EstimateRequest())
    assert not same.rows["count_differs"].any()
    assert any("no change can be told from chance" in line for line in same.sentences)


def test_the_files_hold_the_table(out, zones) -> None:
    draw_sample(out, SampleRequest(30, 8, zones))
    check_all(out)
    found = estimate(out, None, EstimateRequest(zones=zones))
    assert [path.name for path in found.files] == [
        "estimates.csv", "estimates.parquet", "estimates.gpkg", "estimates.json",
    ]  # fmt: skip
    table = gpd.read_parquet(out / "estimates.parquet")
    assert len(table) == 3 * 5
    assert len(gpd.read_file(out / "estimates.gpkg", layer="estimates")) == 15
    csv = pd.read_csv(out / "estimates.csv")
    assert list(csv.columns) == [name for name in table.columns if name != "geometry"]
    tree = json.loads((out / "estimates.json").read_text())
    assert tree["rows"] == found.to_json()["rows"]
    assert tree["rows"][0]["precision_est"] is None
    assert "95" in tree["sentences"][-1]
    text = found.to_text()
    assert "(all)" in text
    assert "best estimate" in text


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"looks": 0}, "--looks must be from 1"),
        ({"block_m": 2}, "--block must be from 8 to 1000 m"),
    ],
)
def test_requests_that_make_no_sense(out, request_, message) -> None:
    with pytest.raises(UsageError, match=message):
        draw_sample(out, SampleRequest(**request_))


def test_too_many_zones_for_the_looks(out, zones, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        drawn = draw_sample(out, SampleRequest(10, 8, zones))
    assert "--looks 15 would do" in caplog.text
    assert set(drawn.design.zones) == {""}
    check_all(out)
    found = estimate(out, None, EstimateRequest(zones=zones))
    assert (found.rows["count_hi"] >= found.rows["count_lo"]).all()


def test_zones_may_borrow(out, zones) -> None:
    draw_sample(out, SampleRequest(20, 8, zones))
    check_all(out, "UPDATE verdicts SET verdict = 'wrong' WHERE fid % 5 = 0")
    alone = estimate(out, None, EstimateRequest(zones=zones)).rows
    borrowed = estimate(out, None, EstimateRequest(zones=zones, borrow=True)).rows
    assert borrowed["borrowed"].any()
    assert not alone["borrowed"].any()
    assert not borrowed["borrowed"][borrowed["zone"] == "(all)"].any()
    whole = alone["zone"] == "(all)"
    pd.testing.assert_frame_equal(alone[whole], borrowed[whole])
    assert (alone["count_est"] != borrowed["count_est"]).any()


def test_the_commands(out, zones, capsys) -> None:
    """From the draw to the report's numbers, as typed."""
    sample = runner_json(capsys, "sample", out, "--looks", 20, "--block", 8, "--json")
    assert (sample["looks"], sample["added"], sample["blocks"]) == (20, 20, 64)
    assert sum(row["looks"] for row in sample["strata"]) == 20
    more = runner_json(capsys, "sample", out, "--more", 4, "--json")
    assert (more["looks"], more["added"], more["draw"]) == (24, 4, sample["draw"])
    with pytest.raises(UsageError, match="leave out how that was drawn"):
        app(["sample", str(out), "--more", "4", "--seed", "1"])
    check_all(out)
    found = runner_json(capsys, "estimate", out, "--zones", zones.zones, "--json")
    assert found["runs"][0]["looks"] == 24
    assert len(found["rows"]) == 15


def runner_json(capsys, *words: object) -> dict:
    with pytest.raises(SystemExit) as end:
        app([str(word) for word in words])
    assert end.value.code in (0, None)
    return json.loads(capsys.readouterr().out)


@pytest.mark.thorough
def test_the_atlas_has_a_page_for_each_open_block(tmp_path) -> None:
    """On a run with imagery: outlines lie where the imagery is."""
    write_tif(tmp_path / "in" / "a.tif", blobs(300, 300))
    done = run(quick_settings(tmp_path), model=colours_model())
    out = tmp_path / "out"
    assert done.exit_code == 0
    drawn = draw_sample(out, SampleRequest(9, 8))
    write_atlas(out, tmp_path / "atlas.html")
    html = (tmp_path / "atlas.html").read_text()
    pages = html.count("<section>")
    assert pages == len(drawn.rows)
    assert html.count("data:image/webp") == pages
    assert html.count('class="block"') == pages
    assert html.count("right ☐") == drawn.detections > 0
    sql(review_file(out).path, "UPDATE sample SET checked = 1 WHERE fid = 1")
    write_atlas(out, tmp_path / "atlas.html")
    assert (tmp_path / "atlas.html").read_text().count("<section>") == pages - 1
    with pytest.raises(UsageError, match="must be HTML"):
        write_atlas(out, tmp_path / "atlas.pdf")


@pytest.mark.thorough
def test_the_report_shows_estimates_of_its_detections(tmp_path) -> None:
    write_tif(tmp_path / "in" / "a.tif", blobs(300, 300))
    run(quick_settings(tmp_path), model=colours_model())
    out = tmp_path / "out"
    draw_sample(out, SampleRequest(6, 8))
    check_all(out)
    estimate(out, None, EstimateRequest())
    html = write_report(out).read_text()
    assert 'id="estimates"' in html
    assert "best estimate" in html
    assert "<h3>Zones</h3>" not in html
    left, bottom, right, top = gpd.read_parquet(out / "detections.parquet").total_bounds
    middle = (left + right) / 2
    halves = [shapely.box(left, bottom, middle, top), shapely.box(middle, bottom, right, top)]
    path = tmp_path / "halves.gpkg"
    gpd.GeoDataFrame({"name": ["west <i>", "east"]}, geometry=halves, crs=CRS).to_file(path)
    estimate(out, None, EstimateRequest(zones=ZoneRules(path)))
    html = write_report(out).read_text()
    assert "<h3>Zones</h3>" in html
    assert html.count('stroke-width="0.6"><title>west &lt;i&gt;: ') == 3
    tree = json.loads((out / "estimates.json").read_text())
    tree["runs"][0]["detections"] = "0" * 64
    (out / "estimates.json").write_text(json.dumps(tree))
    assert 'id="estimates"' not in write_report(out).read_text()


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857"])
def test_blocks_are_of_metres_on_the_ground_in_any_crs(tmp_path, crs) -> None:
    """At 33.9 degrees south, a metre of Web Mercator is .83 m, and one of longitude is shorter."""
    corner, pixel = {
        "EPSG:4326": ((18.5, -33.9), (0.08 / 92_500, 0.08 / 110_900)),
        "EPSG:3857": ((2_059_000.0, -4_016_000.0), (0.0964, 0.0964)),
    }[crs]
    grid = Grid(pyproj.CRS(crs).to_wkt(), corner, pixel, Window(0, 0, 9, 9))
    out = make_run(tmp_path / "out", scene(), grid)
    drawn = draw_sample(out, SampleRequest(10_000, 8))
    area = shapely.area(drawn.rows.geometry.to_numpy())
    whole = drawn.rows[area > 0.99 * area.max()]
    to_metres = whole.to_crs("ESRI:102562")
    assert to_metres.area.to_numpy() == pytest.approx(64, rel=0.02)
    assert drawn.detections == len(gpd.read_parquet(out / "detections.parquet"))
    check_all(out)
    found = estimate(out, None, EstimateRequest()).rows
    assert found["count_est"].tolist() == found["count_map"].tolist()
    assert found["m2_est"].to_numpy() == pytest.approx(found["m2_map"].to_numpy())


def test_a_grid_that_moves_keeps_the_sample(tmp_path) -> None:
    """Another anchor gives other ids and pixels; blocks and truth stay where they are."""
    out = make_run(tmp_path / "out", scene())
    draw_sample(out, SampleRequest(40, 8))
    path = check_all(out)
    before = estimate(out, None, EstimateRequest()).rows
    moved = Grid(LO19.crs, (LO19.anchor[0] - 100 * 0.08, LO19.anchor[1] + 50 * 0.08), LO19.pixel,
                 LO19.window)  # fmt: skip
    classes = np.zeros((850, 900), np.uint8)
    classes[50:, 100:] = scene()
    again = make_run(tmp_path / "again", classes, moved)
    ids = [set(gpd.read_parquet(run / "detections.parquet")["id"]) for run in (out, again)]
    assert not ids[0] & ids[1]
    found = estimate(again, None, EstimateRequest(sample=path))
    assert not found.facts["runs"][0]["same_map"]
    columns = ["count_map", "count_est", "count_lo", "count_hi", "precision_est", "recall_est"]
    pd.testing.assert_frame_equal(found.rows[columns], before[columns])


def test_a_sample_made_by_hand_is_none(out) -> None:
    """Whoever chose the blocks, it was not chance."""
    box = gpd.GeoDataFrame(
        {"block": ["mine"], "probability": [0.5], "checked": [True]},
        geometry=[shapely.box(-51_000, -3_763_008, -50_992, -3_763_000)],
        crs=LO19.crs,
    )
    review_file(out).add({"sample": box})
    with pytest.raises(UsageError, match="holds no sample; draw one"):
        estimate(out, None, EstimateRequest())
    with pytest.raises(UsageError, match="holds a sample already"):
        draw_sample(out, SampleRequest(10, 8))
