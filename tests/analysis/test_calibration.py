"""Calibration of right and wrong: scores by hand, selection, the command, and runs with it."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from sklearn.metrics import roc_auc_score
from support.cities import blobs, colours_model, quick_settings, write_tif
from support.commands import typed
from support.outputs import write_output

from capecam.analysis import held_out
from capecam.analysis.held_out import measured
from capecam.analysis.review import fitting
from capecam.analysis.review.calibration import CalibrationRequest, calibrate
from capecam.analysis.review.fitting import Labelled, choose, fit
from capecam.analysis.review.labelled import blocks
from capecam.analysis.scoring import is_right
from capecam.detections.confidence_calibration import feature_names
from capecam.detections.object_columns import OBJECT_COLUMNS
from capecam.detections.signals import SIGNALS
from capecam.errors import UsageError
from capecam.grid import Window
from capecam.run.city_products import finish
from capecam.run.plan import make_plan
from capecam.run.supervisor import run
from capecam.store.run_folder import known_run

FEW = ("soft_edge", "margin", "compactness")
SLOW = set(SIGNALS) - set(FEW)
"""Candidates that would only take time."""

P = np.array([0.05, 0.15, 0.55, 0.95])
RIGHT = np.array([False, True, False, True])


def test_scores_by_hand() -> None:
    assert measured("ece", P, RIGHT) == pytest.approx((0.05 + 0.85 + 0.55 + 0.05) / 4)
    assert measured("brier", P, RIGHT) == pytest.approx((0.05**2 + 0.85**2 + 0.55**2 + 0.05**2) / 4)
    losses = [math.log(1 / p) for p in (0.95, 0.15, 0.45, 0.95)]
    assert measured("log_loss", P, RIGHT) == pytest.approx(sum(losses) / 4)
    assert measured("auc", P, RIGHT) == pytest.approx(3 / 4)
    assert np.isnan(measured("auc", P, np.ones(4, bool)))


def test_a_bin_is_judged_by_its_mean() -> None:
    p, right = np.full(10, 0.72), np.arange(10) < 7
    assert measured("ece", p, right) == pytest.approx(0.02)


def test_errors_in_the_first_tenth() -> None:
    p, right = np.arange(20) / 20, np.ones(20, bool)
    right[[0, 1, 10, 15]] = False
    assert measured("errors_first_tenth", p, right) == pytest.approx(2 / 4)
    assert measured("errors_first_tenth", p[:5], right[:5]) == pytest.approx(0.5 / 2)


def test_intervals_are_of_blocks() -> None:
    """All objects of a block are drawn together: ten of each kind are worth one of each."""
    block = np.repeat([0, 1], 10)
    estimate = held_out.mean_gain(np.repeat([0.0, 1.0], 10), block)
    assert (estimate.value, estimate.low, estimate.high) == (0.5, 0.0, 1.0)
    weights = next(held_out.draws(block))
    assert weights.shape == (1000, 20)
    assert set(weights.ravel().tolist()) == {0.0, 1.0, 2.0}
    assert (weights[:, :10] == weights[:, :1]).all()
    assert (weights.sum(axis=1) == 20).all()


@pytest.mark.parametrize("name", list(held_out.MEASURES))
def test_a_weight_is_a_number_of_copies(name: str) -> None:
    rng = np.random.default_rng(3)
    p, right = rng.integers(0, 20, 40) / 20, rng.random(40) < 0.6
    times = rng.integers(0, 3, 40)
    weighted = held_out.MEASURES[name](p, right, times[None].astype(float))
    copied = measured(name, p.repeat(times), right.repeat(times))
    if name != "errors_first_tenth":  # the order of copies with equal probability is another
        assert weighted == pytest.approx(copied)
    assert measured(name, p, right) == pytest.approx(
        held_out.MEASURES[name](p, right, np.full((2, 40), 3.0))
    )


def test_the_auc_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(4)
    p, right = rng.integers(0, 30, 200) / 30, rng.random(200) < 0.6
    assert measured("auc", p, right) == pytest.approx(roc_auc_score(right, p))


def test_the_standard_error_is_that_of_blocks() -> None:
    """Two blocks with means -1 and 1: the error of their mean is sqrt(2) / sqrt(2)."""
    difference, block = np.repeat([-1.0, 1.0], 10), np.repeat([0, 1], 10)
    assert held_out.standard_error(difference, block) == pytest.approx(1.0)
    rng = np.random.default_rng(0)
    alone = rng.normal(size=500)
    assert held_out.standard_error(alone, np.arange(500)) == pytest.approx(
        alone.std(ddof=1) / math.sqrt(500)
    )


def labelled(count: int = 400, seed: int = 0) -> Labelled:
    """Objects whose odds depend on confidence and on margin, and not on the rest."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.normal(size=(count, len(SIGNALS))), columns=[*SIGNALS])
    table[["soft_edge", "near_probability"]] = rng.random((count, 2))
    z = rng.normal(1, 1.5, count)
    table["confidence"] = 1 / (1 + np.exp(-z))
    table["area_m2"] = np.exp(rng.normal(1.5, 1, count))
    table["class"] = rng.choice(["solar panel", "water heater"], count)
    odds = 0.8 * z + 1.5 * table["margin"].to_numpy()
    right = rng.random(count) < 1 / (1 + np.exp(-odds))
    block = rng.integers(0, 60, count)
    return Labelled.of(table, right, block, ("solar panel", "water heater"), FEW)


def test_the_fit_finds_the_odds() -> None:
    data = labelled(4000)
    fitted = fit(data, ("margin",), 10.0)
    names = [*data.base, "margin"]
    slope = dict(zip(names, (fitted.weight / fitted.scale).tolist(), strict=True))
    assert slope["logit(confidence)"] == pytest.approx(0.8, abs=0.15)
    assert slope["margin"] == pytest.approx(1.5, abs=0.2)
    assert slope["ln(area_m2)"] == pytest.approx(0, abs=0.15)


@pytest.mark.thorough
def test_only_the_signal_that_pays_is_chosen() -> None:
    data = labelled(300)
    choice, again = choose(data, [FEW]), choose(labelled(300), [FEW])
    assert choice.signals == ("margin",)
    assert choice.trials[0].gain.low > 0
    assert (choice.signals, choice.strength) == (again.signals, again.strength)
    assert np.array_equal(choice.p, again.p)


def test_noise_is_left_out() -> None:
    data = labelled()
    rng = np.random.default_rng(1)
    x = data.x.copy()
    x[:, [*data.base, *FEW].index("margin")] = rng.normal(size=len(data))
    choice = choose(replace(data, x=x), [FEW])
    assert choice.signals == ()
    assert np.array_equal(choice.p, choice.base)


def test_a_later_group_must_pay_beside_the_earlier_one() -> None:
    """A copy of what is used already adds nothing, whatever it would alone."""
    data = labelled(300)
    copy = replace(data, x=np.hstack([data.x, data.x[:, [-2]]]), candidates=(*FEW, "alone"))
    choice = choose(copy, [["margin"], ["alone"]])
    assert choice.signals == ("margin",)
    assert [trial.pays for trial in choice.trials] == [True, False]


def test_folds_do_not_divide_blocks() -> None:
    data = labelled(300)
    fold = fitting.folds(data)
    pairs = np.unique(np.stack([data.block, fold]), axis=1)
    assert pairs.shape[1] == len(np.unique(data.block))
    assert set(fold.tolist()) == set(range(fitting.FOLDS))


def test_held_out_probabilities_do_not_know_their_fold() -> None:
    """Turning the labels of a fold changes no probability in it."""
    data = labelled(200)
    fold = fitting.folds(data)
    own = fold == 0
    turned = replace(data, right=data.right ^ own)
    before, after = (fitting.held_out(d, fold, ("margin",), 1.0) for d in (data, turned))
    assert np.array_equal(before[own], after[own])
    assert not np.array_equal(before[~own], after[~own])


def test_errors_in_one_block_leave_a_fold_without_any() -> None:
    data = labelled(200)
    right = data.block != data.block[0]
    choice = choose(replace(data, right=right), [["margin"]])
    assert np.isfinite(choice.p).all()
    alone = data.block == data.block[0]
    assert choice.base[alone].min() > 0.99  # nothing else says that there are errors


def test_a_true_probability_has_an_ece_by_chance() -> None:
    """One bin of 100 objects: the mean of |X / 100 - .5| is .5 * sqrt(2 / pi) / 10."""
    expected = 0.5 * math.sqrt(2 / math.pi) / 10
    assert held_out.chance_error(np.full(100, 0.5)) == pytest.approx(expected, rel=0.15)


def test_a_small_place_gets_smaller_blocks() -> None:
    rng = np.random.default_rng(0)
    assert blocks(rng.random((500, 2)) * 1000)[0] == 100
    edge, block = blocks(rng.random((500, 2)) * 200)
    assert edge == 25
    assert len(np.unique(block)) == 64


def test_right_is_one_to_one_and_of_the_class() -> None:
    true = gpd.GeoDataFrame(
        {"class_id": [1, 2]}, geometry=[shapely.box(0, 0, 4, 4), shapely.box(9, 0, 13, 4)]
    )
    found = gpd.GeoDataFrame(
        {"class_id": [1, 1, 1]},
        geometry=[shapely.box(0, 0, 4, 3), shapely.box(0, 0, 4, 4), shapely.box(9, 0, 13, 4)],
    )
    assert is_right(true, found, 0.5).tolist() == [False, True, False]


# ------------------------------------------------------------------------- the command, end to end


def city(tmp_path: Path, count: int = 300) -> Path:
    """A run's folder without a run, and truth.gpkg with the objects that are right."""
    out = tmp_path / "out"
    write_output(out, count, cells=[Window(0, 0, 8000, 8000)])
    table = gpd.read_parquet(out / "detections.parquet").drop(columns=[*OBJECT_COLUMNS, *SLOW])
    table.to_parquet(out / "detections.parquet")
    rng = np.random.default_rng(5)
    odds = 3 * (table["confidence"] - 0.7) / 0.1 + 4 * (table["margin"] - 0.5)
    right = rng.random(count) < 1 / (1 + np.exp(-odds))
    table[right][["class", "geometry"]].to_file(tmp_path / "truth.gpkg")
    return out


def test_the_command(tmp_path: Path) -> None:
    out = city(tmp_path)
    text = typed("calibrate", out, "--truth", tmp_path / "truth.gpkg").stdout
    assert "300 labelled detections" in text
    assert re.search(r"\| margin .*\| used", text)
    assert re.search(r"\| compactness .*\| left out", text)
    assert "margin: used (held-out gain in log-loss" in text
    tree = json.loads((out / "p_right.json").read_text())
    assert tree["signals"] == ["margin"]
    scores = tree["scores"]
    assert scores["p_right"]["auc"]["value"] > scores["base"]["auc"]["value"]
    assert scores["p_right"]["ece"]["low"] <= scores["p_right"]["ece"]["high"]
    assert f"{scores['p_right']['ece']['value']:.3f}" in text


def test_too_few_are_refused(tmp_path: Path) -> None:
    out = city(tmp_path, 90)
    with pytest.raises(UsageError, match="only 90 detections are labelled, and at least 100"):
        calibrate(CalibrationRequest(out, tmp_path / "truth.gpkg"))


def test_hardly_any_errors_are_refused(tmp_path: Path) -> None:
    out = city(tmp_path, 120)
    table = gpd.read_parquet(out / "detections.parquet")
    table[5:][["class", "geometry"]].to_file(tmp_path / "all.gpkg")
    with pytest.raises(UsageError, match=r"of 120 labelled detections are wrong"):
        calibrate(CalibrationRequest(out, tmp_path / "all.gpkg"))


def test_one_spot_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_output(out, 150, cells=[Window(0, 0, 700, 700)])
    table = gpd.read_parquet(out / "detections.parquet")
    table[::2][["class", "geometry"]].to_file(tmp_path / "truth.gpkg")
    with pytest.raises(UsageError, match="blocks of 25 m, and at least 10 are needed"):
        calibrate(CalibrationRequest(out, tmp_path / "truth.gpkg"))


def test_either_truth_or_reviews(tmp_path: Path) -> None:
    (tmp_path / "run.json").touch()
    error = typed("calibrate", tmp_path, code=2).stderr
    assert "exactly one of --truth and --reviews must be given" in error


# ------------------------------------------------------------------------------ runs that apply it


def calibration_file(
    path: Path,
    classes: Sequence[str] | None = None,
    signals: Sequence[str] = (),
    weight: float = -1.0,
) -> Path:
    """A calibration by which the most confident are the least likely right."""
    classes = classes or ["solar panel", "water heater", "pool heater"]
    terms = [
        {"feature": name, "mean": 0.0, "scale": 1.0, "weight": 0.0}
        for name in feature_names(classes, signals)
    ]
    terms[0]["weight"] = weight
    tree = {
        "version": 1, "classes": classes, "signals": signals, "intercept": 2.0, "terms": terms,
        "origin": {"run": "elsewhere", "checkpoint": "f" * 64, "crs": "x", "bounds": [0, 0, 1, 1],
                   "labels": "truth", "iou": 0.5, "right": 100, "wrong": 50},
    }  # fmt: skip
    path.write_text(json.dumps(tree))
    return path


@pytest.fixture
def small_city(tmp_path: Path) -> Path:
    write_tif(tmp_path / "in" / "a.tif", blobs(320, 320, seed=4))
    return tmp_path


def test_a_run_with_a_calibration(small_city: Path, caplog, monkeypatch) -> None:
    plain = quick_settings(small_city, objects__explain="none")
    run(plain, model=colours_model())
    out = small_city / "out"
    without = gpd.read_parquet(out / "detections.parquet")
    assert "p_right" not in without
    assert "expected" not in (out / "run.json").read_text()
    assert "expected_count" not in (out / "summary.csv").read_text()

    path = calibration_file(small_city / "c.json")
    settings = quick_settings(
        small_city, objects__explain="none", detections__calibrate_with=str(path)
    )
    with caplog.at_level(logging.WARNING):
        outcome = run(settings, model=colours_model())
    assert (outcome.done, outcome.kept) == (0, 1)
    assert "was made with another network and in another place" in caplog.text
    table = gpd.read_parquet(out / "detections.parquet")
    assert list(table.columns[-3:]) == ["p_right", "review", "geometry"]
    p = table["confidence"].clip(0.001, 0.999)
    assert table["p_right"].to_numpy() == pytest.approx(1 / (1 + np.exp(np.log(p / (1 - p)) - 2)))
    queue = table.sort_values("review")
    assert (np.diff(queue["p_right"]) >= 0).all()
    summary = pd.read_csv(out / "summary.csv").set_index("class")
    expected = table.groupby("class")["p_right"].sum()
    for name, value in expected.items():
        assert summary.loc[name, "expected_count"] == pytest.approx(value, abs=0.06)
    record = known_run(out)
    assert record.p_right.objects == 150
    assert record.totals.expected["solar panel"] == summary.loc["solar panel", "expected_count"]
    assert "are expected to be right" in (out / "report.html").read_text()

    calibration_file(path, weight=1.0)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was loaded")

    monkeypatch.setattr("capecam.pipeline.run_explainer.load_run_model", refuse)
    finish(out)
    again = gpd.read_parquet(out / "detections.parquet")
    assert again.loc[again["review"].idxmin(), "confidence"] == again["confidence"].min()
    assert known_run(out).p_right.sha256 != record.p_right.sha256

    run(plain, model=colours_model())
    pd.testing.assert_frame_equal(gpd.read_parquet(out / "detections.parquet"), without)
    assert "p_right" not in json.loads((out / "run.json").read_text())


@pytest.mark.parametrize(
    ("classes", "signals", "message"),
    [
        (["roof"], [], "was made for the classes roof, and the run has solar panel, water heater"),
        (None, ["own_drop"], "needs own_drop, which the run does not measure for every detection"),
    ],
)
def test_a_calibration_that_does_not_fit_is_refused_before_any_work(
    small_city: Path, classes: list[str] | None, signals: list[str], message: str
) -> None:
    path = calibration_file(small_city / "c.json", classes, signals)
    settings = quick_settings(
        small_city, detections__calibrate_with=str(path), objects__explain="none"
    )
    for start in (make_plan, lambda given: run(given, model=colours_model())):
        with pytest.raises(UsageError, match=message):
            start(settings)
    assert not (small_city / "out").exists()


def test_a_calibration_with_explanations_needs_them_all(small_city: Path) -> None:
    path = calibration_file(small_city / "c.json", signals=["alone"])
    settings = quick_settings(
        small_city, detections__calibrate_with=str(path), objects__explain="all",
        tiling__size=160,
    )  # fmt: skip
    assert run(settings, model=colours_model()).exit_code == 0
    table = gpd.read_parquet(small_city / "out" / "detections.parquet")
    assert table["p_right"].notna().all()
    assert (np.diff(table.sort_values("review")["p_right"]) >= 0).all()


def test_reviews_are_labels(tmp_path: Path) -> None:
    """Verdicts as a person writes them; those without a verdict do not count."""
    out = city(tmp_path)
    table = gpd.read_parquet(out / "detections.parquet")
    true = gpd.read_file(tmp_path / "truth.gpkg")
    right = table.geometry.intersects(true.union_all())
    verdicts = table[["id", "class", "geometry"]].assign(
        verdict=np.where(right, "right", "wrong"), true_class="", block=""
    )
    verdicts.loc[:9, "verdict"] = ""
    verdicts.to_file(out / "review.gpkg", layer="verdicts")
    elsewhere = tmp_path / "new" / "c.json"
    tree = json.loads(typed("calibrate", out, "--reviews", "--to", elsewhere, "--json").stdout)
    assert tree.pop("file") == str(elsewhere)
    assert json.loads(elsewhere.read_text()) == tree
    assert tree["origin"]["labels"] == "reviews"
    assert tree["origin"]["right"] + tree["origin"]["wrong"] == len(table) - 10
    assert tree["origin"]["right"] == right[10:].sum()
    assert tree["signals"] == ["margin"]
    error = typed("calibrate", out, "--reviews", tmp_path / "none.gpkg", code=2).stderr
    assert "none.gpkg" in error
