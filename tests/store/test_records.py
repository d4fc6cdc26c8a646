"""Records of a run, also damaged and foreign ones: one line, or the cell is processed again."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capecam.errors import OutputError, SettingsError
from capecam.grid import Window
from capecam.pipeline.calibration import read_calibration
from capecam.store.ledger import Ledger
from capecam.store.records import ImageFacts
from capecam.store.run_folder import RunFolder, known_run

RUN: dict[str, Any] = {
    "settings": {}, "device": "cpu", "precision": "fp32", "batch_size": 4,
    "checkpoint": {"sha256": "00", "architecture": "FPN"}, "anchor": [0.0, 0.0],
    "grid": {"crs": "", "pixel": [0.08, 0.08],
             "window": {"row": 0, "col": 0, "height": 1, "width": 1}},
    "calibration": {"tops": {"gradcam": [1.0, None, 2.0]}, "basis": {"score": "mean"}, "tiles": 4},
    "cells": ["a"], "tiles": 4, "stages": {"cells": 1.0},
    "failures": {"b": "b\udcff.tif: its name is not UTF-8"},
}  # fmt: skip
CORE = {"row": 0, "col": 0, "height": 1, "width": 1}
FACTS = {"bytes": 1, "mtime_ns": 2, "sha256": "00"}
CELL: dict[str, Any] = {
    "status": "done", "tiles": 4, "detections": 1, "seconds": 1.0, "extra": 1,
    "basis": {"core": CORE},
    "images": {"a": FACTS}, "files": {"classes.tif": {"bytes": 1, "sha256": "00"}},
}  # fmt: skip


def test_records_are_read_and_written_unchanged(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    known_run(tmp_path).write(tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == RUN
    assert read_calibration(tmp_path / "run.json").scale_max == {"gradcam": (1.0, None, 2.0)}
    (tmp_path / "cells" / "a").mkdir(parents=True)
    (tmp_path / "cells" / "a" / "cell.json").write_text(json.dumps(CELL))
    record = Ledger.of(tmp_path).read("a")
    assert record
    assert record.to_json() == CELL


HOSTILE = ["", "{", "[]", "null", "5", "[" * 100_000, '{"a":' * 100_000, "\0" * 99, "\xff"]


@pytest.mark.parametrize("content", HOSTILE)
def test_a_file_that_is_not_a_record_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "cells" / "a").mkdir(parents=True)
    (tmp_path / "cells" / "a" / "cell.json").write_bytes(content.encode("latin-1"))
    (tmp_path / "run.json").write_bytes(content.encode("latin-1"))
    assert Ledger.of(tmp_path).read("a") is None
    with pytest.raises(OutputError, match="remove it to start afresh") as error:
        known_run(tmp_path)
    assert len(str(error.value)) < 500
    with pytest.raises(SettingsError, match="holds no calibration of a run"):
        read_calibration(tmp_path / "run.json")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"anchor": [0, float("nan")]}, "anchor.1"),
        ({"anchor": "here"}, "anchor"),
        ({"precision": "fp4"}, "precision"),
        ({"batch_size": 0}, "batch_size"),
        ({"grid": {**RUN["grid"], "pixel": [0, 1]}}, "grid.pixel.0"),
        ({"cells": ["../../etc"]}, "cells.0"),
        ({"calibration": {**RUN["calibration"], "tops": {"gradcam": [-1]}}}, "calibration.tops"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, change: dict[str, Any], where: str) -> None:
    (tmp_path / "run.json").write_text(json.dumps({**RUN, **change}))
    with pytest.raises(OutputError, match=rf"{where}.*remove it to start afresh"):
        known_run(tmp_path)


def test_a_pipe_for_a_calibration_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(SettingsError, match="no file"):
        read_calibration(tmp_path / "run.json")


junk = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.floats()
values = junk | st.lists(junk, max_size=2) | st.dictionaries(st.text(max_size=3), junk, max_size=2)


def with_one_changed(tree: dict[str, Any], data: st.DataObject, value: Any) -> str:
    """Return a record as JSON, with any of its entries replaced."""
    tree = copy.deepcopy(tree)
    branch: Any = tree
    while True:
        key = data.draw(st.sampled_from(sorted(branch)))
        if not isinstance(branch[key], dict) or not branch[key] or data.draw(st.booleans()):
            break
        branch = branch[key]
    branch[key] = value
    return json.dumps(tree)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data(), values)
def test_any_entry_of_a_cell_may_be_anything(tmp_path_factory, data, value: Any) -> None:
    folder = tmp_path_factory.mktemp("out")
    (folder / "cells" / "a").mkdir(parents=True)
    (folder / "cells" / "a" / "cell.json").write_text(with_one_changed(CELL, data, value))
    record = Ledger.of(folder).read("a")
    if record is not None:  # what is accepted is of the declared type
        assert all(isinstance(facts, ImageFacts) for facts in record.images.values())
        assert all("/" not in name for name in record.files)
        assert isinstance(record.tiles, int)
        assert isinstance(record.inputs.core, Window)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data(), values)
def test_any_entry_of_a_run_may_be_anything(tmp_path_factory, data, value: Any) -> None:
    folder = tmp_path_factory.mktemp("out")
    (folder / "run.json").write_text(with_one_changed(RUN, data, value))
    try:
        run = RunFolder.open(folder)
    except (OutputError, SettingsError):
        return
    assert run.record.batch_size >= 1
    assert run.grid.bounds
    assert not run.cells
