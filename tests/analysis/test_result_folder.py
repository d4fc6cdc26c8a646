"""Results of a run in a folder that is read-only are printed, and written where the user says."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import geopandas as gpd
import pytest
from support.cities import blobs, colours_model, write_tif
from typer.testing import CliRunner

from capecam.cli import app
from capecam.errors import OutputError
from capecam.run.supervisor import run
from capecam.settings.loading import load

NOBODY = 65_534


@pytest.fixture(scope="module")
def city() -> Iterator[Path]:
    """A finished run, in a folder that everybody may enter: root, too, becomes somebody else."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        write_tif(folder / "in" / "a.tif", blobs(330, 400, seed=5))
        run(load(None, {
            "sources": [str(folder / "in")], "out": str(folder / "out"), "compute.readers": 0,
            "explain.calibration_tiles": 4,
        }), model=colours_model())  # fmt: skip
        gpd.read_parquet(folder / "out" / "detections.parquet").to_file(folder / "truth.gpkg")
        yield folder


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Take away the right to write into a folder, from root as well."""
    user, mode = os.geteuid(), folder.stat().st_mode
    folder.chmod(0o555)
    try:
        if user == 0:
            os.seteuid(NOBODY)
        yield
    finally:
        os.seteuid(user)
        folder.chmod(mode)


COMMANDS = {
    "evaluate": (["--truth", "truth.gpkg"], ["evaluation.json"]),
    "summarize": (["--zones", "truth.gpkg"], ["zones.csv", "zones.gpkg", "zones.parquet"]),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_read_only_run_is_counted_and_scored(city, command, monkeypatch, caplog) -> None:
    monkeypatch.chdir(city)
    options, files = COMMANDS[command]
    call = [command, "out", *options, "--json"]
    expected = CliRunner().invoke(app, call)
    assert expected.exit_code == 0
    for file in files:
        (city / "out" / file).unlink()
    with read_only(city / "out"):
        found = CliRunner().invoke(app, call)
    assert (found.exit_code, caplog.messages) == (
        0, ["out: Permission denied, so the result is not saved; --to FOLDER saves it elsewhere"],
    )  # fmt: skip
    answer, before = json.loads(found.stdout), json.loads(expected.stdout)
    assert answer.pop("files", []) == []
    before.pop("files", None)
    assert answer == before


def test_zones_without_objects_are_counted_in_the_text_of_a_read_only_run(
    city, monkeypatch, caplog
) -> None:
    monkeypatch.chdir(city)
    with read_only(city / "out"):
        found = CliRunner().invoke(app, ["summarize", "out", "--zones", "truth.gpkg"])
    assert found.exit_code == 0, found.exception
    assert "row(s) without objects are not shown\n" in found.stdout
    assert "written:" not in found.stdout


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("to", "reason"),
    [("a file", "File exists"), ("a file/a", "Not a directory"), ("link", "File exists")],
)
def test_a_result_needs_a_folder(city, command, to, reason, tmp_path) -> None:
    (tmp_path / "a file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    (option, file), _ = COMMANDS[command]
    call = [command, str(city / "out"), option, str(city / file), "--to", str(tmp_path / to)]
    error = CliRunner().invoke(app, call).exception
    assert isinstance(error, OutputError)
    assert f"{to} cannot be made or written: {reason}; name another" in str(error)


@pytest.mark.parametrize("command", COMMANDS)
def test_results_go_where_the_user_says(city, command, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(city)
    out = Path(shutil.copytree("out", tmp_path / "out"))
    options, files = COMMANDS[command]
    before = sorted(out.iterdir())
    found = CliRunner().invoke(
        app, [command, str(out), *options, "--to", str(tmp_path / "a" / "b")]
    )
    assert found.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == files
    assert sorted(out.iterdir()) == before


def test_scores_of_a_file_are_saved_on_request(city, tmp_path) -> None:
    truth = str(city / "truth.gpkg")
    call = ["evaluate", truth, "--truth", truth, "--to", str(tmp_path)]
    assert CliRunner().invoke(app, call).exit_code == 0
    assert json.loads((tmp_path / "evaluation.json").read_text())["found"] == truth
