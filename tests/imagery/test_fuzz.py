"""Some cases of scripts/fuzz.py, the same ones in every run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.fuzzing import KINDS, Case, entries, judge, make_case, warm_up

CASES = {"raster": 30, "checkpoint": 20, "vector": 10, "yaml": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("fuzz")
    warm_up(path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_good_files_are_read(kind: str, folder: Path) -> None:
    for place in (folder / "good").glob(f"{kind} *"):
        name = place.name.removeprefix(f"{kind} ")
        good = next(p for p in sorted(place.iterdir()) if p.suffix not in (".cpg", ".dbf", ".prj"))
        verdict = judge(Case(kind, name, "none", good, good))
        assert verdict.outcome in ("as it was", "read"), verdict


@pytest.mark.parametrize("kind", KINDS)
def test_spoiled_files_are_read_or_refused_in_a_line(kind: str, folder: Path) -> None:
    outcomes = []
    for seed in range(CASES[kind]):
        case = make_case(kind, seed, folder)
        verdict = judge(case)
        shutil.rmtree(case.path.parent)
        assert not verdict.finding, (seed, verdict)
        outcomes.append(verdict.outcome)
    assert "refused" in outcomes


def test_a_case_is_its_seed(folder: Path) -> None:
    first = make_case("raster", 7, folder)
    content = first.path.read_bytes()
    shutil.rmtree(first.path.parent)
    assert make_case("raster", 7, folder).path.read_bytes() == content


def test_tags_are_found_where_they_are(folder: Path) -> None:
    for name, big in (("deflate tiled", False), ("zstd bigtiff", True)):
        fields = list(entries((folder / "good" / f"raster {name}" / "image.tif").read_bytes()))
        assert {entry.big for entry in fields} == {big}
        assert {256, 257, 258, 259, 324, 34735} <= {entry.tag for entry in fields}


def test_a_crash_a_hang_and_a_traceback_are_findings(folder: Path, monkeypatch) -> None:
    good = folder / "good" / "yaml settings" / "settings.yaml"
    case = Case("yaml", "settings", "none", good, good)
    for reader, outcome in (
        ("import os; os.abort()", "crash"),
        ("import time; time.sleep(99)", "hang"),
        ("1 / 0", "traceback"),
        ("bytearray(5 << 30)", "memory"),
    ):
        monkeypatch.setitem(judge.__globals__["READERS"], "yaml", lambda _, r=reader: exec(r))
        assert judge(case, seconds=2).outcome == outcome
