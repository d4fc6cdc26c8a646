"""The model of being right: its formula, its file, and runs that it does not fit."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from capecam.detections.confidence_calibration import (
    ConfidenceCalibration,
    features,
    read_calibration,
)
from capecam.errors import UsageError

CLASSES = ("solar panel", "water heater", "pool heater")


def tree(**changes: object) -> dict[str, object]:
    """A calibration with one signal, as it is in a file."""
    terms = [
        ("logit(confidence)", 1.0, 2.0, 0.5),
        ("ln(area_m2)", 0.0, 1.0, 0.25),
        ("class solar panel", 0.0, 1.0, 0.1),
        ("class water heater", 0.0, 1.0, -0.1),
        ("class pool heater", 0.0, 1.0, 0.0),
        ("rectangularity", 0.8, 0.1, 1.0),
    ]
    names = ("feature", "mean", "scale", "weight")
    return {
        "version": 1, "classes": CLASSES, "signals": ["rectangularity"], "intercept": -0.5,
        "terms": [dict(zip(names, term, strict=True)) for term in terms],
        "origin": {"run": "out", "checkpoint": "a" * 64, "crs": "x", "bounds": [18, -34, 19, -33],
                   "labels": "truth", "iou": 0.5, "right": 90, "wrong": 20},
        **changes,
    }  # fmt: skip


def table(**changes: object) -> pd.DataFrame:
    row = {"class": "water heater", "confidence": 0.9, "area_m2": math.e, "rectangularity": 0.9}
    return pd.DataFrame([{**row, **changes}])


def write(path: Path, **changes: object) -> Path:
    path.write_text(json.dumps(tree(**changes)))
    return path


def test_the_formula(tmp_path: Path) -> None:
    calibration = read_calibration(write(tmp_path / "c.json"))
    z = -0.5 + 0.5 * (math.log(9) - 1) / 2 + 0.25 * 1 - 0.1 + 1.0 * (0.9 - 0.8) / 0.1
    assert calibration.p_right(table()) == pytest.approx(1 / (1 + math.exp(-z)))
    missing = calibration.p_right(table(rectangularity=np.nan))
    assert missing == pytest.approx(1 / (1 + math.exp(1 - z)))


def test_features_are_finite_for_any_confidence() -> None:
    rows = pd.concat([table(confidence=p, soft_edge=0.0) for p in (0.0, 1.0)])
    found = features(rows, CLASSES, ["soft_edge"])
    assert found[:, 0] == pytest.approx([math.log(0.001 / 0.999), math.log(0.999 / 0.001)])
    assert found[:, -1] == pytest.approx(math.log(1 / 254))


def test_the_file_holds_what_was_read(tmp_path: Path) -> None:
    calibration = read_calibration(write(tmp_path / "a.json"))
    calibration.write(tmp_path / "b.json")
    assert read_calibration(tmp_path / "b.json") == calibration


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"signals": []},
        {"intercept": "high"},
        {"intercept": float("nan")},
        {"classes": ["solar panel"]},
    ],
)
def test_other_files_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    path = write(tmp_path / "c.json", **changes)
    with pytest.raises(UsageError, match="is no calibration"):
        read_calibration(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="make one with capecam calibrate"):
        read_calibration(tmp_path / "none.json")


def test_what_does_not_fit_a_run(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json")
    calibration: ConfidenceCalibration = read_calibration(path)
    calibration.check_classes(CLASSES, path)
    with pytest.raises(UsageError, match="the run has solar panel; make one for this run"):
        calibration.check_classes(CLASSES[:1], path)
    calibration.check_signals(["rectangularity"], path)
    with pytest.raises(UsageError, match="needs rectangularity"):
        calibration.check_signals(["margin"], path)
    here = (18.2, -33.9, 18.3, -33.8)
    assert calibration.difference("a" * 64, here) is None
    assert calibration.difference("b" * 64, here) == "with another network"
    far = calibration.difference("b" * 64, (120.0, 30.0, 121.0, 31.0))
    assert far == "with another network and in another place"
