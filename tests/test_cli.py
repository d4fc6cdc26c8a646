"""The commands as typed: exit codes, one clear line, nothing half-written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
import typer
from support.cities import blobs, write_tif
from support.commands import capecam, typed
from support.networks import smp_network

from capecam import __version__, cli
from capecam.cli_options import GROUPS, PANELS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def city(tmp_path_factory) -> Path:
    """Two images, a checkpoint, a configuration."""
    folder = tmp_path_factory.mktemp("city")
    whole = blobs(200, 640)
    write_tif(folder / "images" / "a.tif", whole[:, :, :330])
    write_tif(folder / "images" / "b.tif", whole[:, :, 330:], 330)
    torch.save(smp_network("FPN", "resnet18").state_dict(), folder / "model.pt")
    (folder / "city.yaml").write_text(
        "sources: [images]\ncheckpoint: model.pt\nmodel: {architecture: FPN, encoder: resnet18}\n"
        "explain: {calibration_tiles: 2}\ntiling: {size: 160, overlap: 40}\n"
        "run: {in_process: true}\nobjects: {explain: 4}\n"
    )
    return folder


def test_help_answers_without_torch() -> None:
    code = (
        "import sys; import capecam.cli; "
        "assert not {'torch', 'rasterio', 'geopandas', 'numpy', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    text = capecam("run", "--help").stdout
    for option in ("--checkpoint", "--out", "--tile", "--methods", "--where", "--heatmap-dtype"):
        assert option in text
    for place in ([], ["run"], ["inspect"]):
        assert capecam(*place, "--version").stdout.startswith(f"capecam {__version__}")


@pytest.mark.thorough
def test_a_nightly_run_leaves_a_log_and_its_exit_code(city: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.tif"
    bad.write_text("not an image")
    config = tmp_path / "night.yaml"
    config.write_text(
        (city / "city.yaml").read_text().replace("[images]", f"[{city}/images, {bad}]")
        .replace("model.pt", f"{city}/model.pt") + "out: out\n"
    )  # fmt: skip
    script = ROOT / "scripts" / "nightly.py"
    done = subprocess.run(
        [sys.executable, script, config], capture_output=True, text=True, timeout=200, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
    (log,) = (tmp_path / "out" / "logs").iterdir()
    lines = log.read_text().splitlines()
    assert any("bad failed" in line and "not a readable GeoTIFF" in line for line in lines)
    assert any("products, 0 of them bad" in line for line in lines)
    assert lines[-2] == str(tmp_path / "out" / "report.html")
    assert "not a readable GeoTIFF" in (tmp_path / "out" / "report.html").read_text()
    assert "exit 3: done, but for" in lines[-1]


def test_a_plan_leaves_a_gpu_alone(
    city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capecam.run.plan.pick_device", lambda _: torch.device("cuda"))
    said = typed("plan", "--config", city / "city.yaml", "--out", tmp_path / "out").stdout
    assert "time      unknown: a GPU is left alone; give --measure" in said


@pytest.mark.thorough
def test_run_plan_finish(city: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = json.loads(typed("plan", "--config", city / "city.yaml", "--out", out, "--json").stdout)
    assert set(plan["cells"]) == {"a", "b"}
    assert plan["trial"]["tiles"] == 12
    assert plan["seconds"] * plan["tiles_per_second"] == pytest.approx(plan["tiles"] + 2)
    assert not out.exists()
    done = capecam("run", "--config", city / "city.yaml", "--out", out, "--min-area", "0")
    assert "2 cell(s) done" in done.stdout
    assert "solar panel" in done.stdout
    assert f"{out}/capecam.qgz" in done.stdout
    assert re.search(r"\[2/2\] [ab]: done", done.stderr), "two cells are in progress at once"
    run_json = json.loads((out / "run.json").read_text())
    assert run_json["tiles"] == plan["tiles"]
    assert run_json["settings"]["detections"]["min_area_m2"] == 0
    before = (out / "summary.csv").read_bytes()
    (out / "summary.csv").unlink()
    assert not typed("finish", out, "-q").stdout
    assert (out / "summary.csv").read_bytes() == before
    again = typed("plan", "--config", city / "city.yaml", "--out", out).stdout
    assert "as measured before" in again
    explained = json.loads(typed("explain", out, "--top", 2, "--json").stdout)
    assert len(explained["objects"]) == len(explained["files"]) == 2
    for file in explained["files"]:
        with rasterio.open(file) as dataset:
            assert dataset.tags()["CAPECAM_MODEL_SHA256"] == run_json["checkpoint"]["sha256"]
    row = gpd.read_parquet(out / "detections.parquet").iloc[0]
    point = row.geometry.representative_point()
    for place in (f"{row.lon},{row.lat}", f"{point.x},{point.y}"):
        (found,) = json.loads(typed("explain", out, "--at", place, "--json").stdout)["objects"]
        assert found["id"] == row.id
    assert "exactly one of --detections" in typed("explain", out, code=2).stderr
    pdf = tmp_path / "panel.pdf"
    assert typed("panel", out, "--top", 1, "--to", pdf).stdout == f"{pdf}\n"
    assert pdf.read_bytes().startswith(b"%PDF")
    assert (
        "with one of --detection ID, --at LON,LAT and --top N" in typed("panel", out, code=2).stderr
    )


def test_one_bad_image_is_exit_3(city: Path, tmp_path: Path) -> None:
    good = city / "images" / "a.tif"
    bad = tmp_path / "bad.tif"
    bad.write_text("<html>")
    out = tmp_path / "out"
    done = typed("run", good, bad, "--config", city / "city.yaml", "--out", out, code=3)
    assert done.stderr.splitlines()[-1].startswith("capecam: bad failed: ")
    assert (out / "cells" / "a" / "cell.json").exists()


def test_help_lists_every_command_once_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    commands = typer.main.get_command(cli.app).commands
    grouped = [name for names in GROUPS.values() for name in names]
    assert len(grouped) == len(set(grouped))
    assert set(commands) <= set(grouped)
    lines = typed("--help").stdout.splitlines()
    for name, command in commands.items():
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert line.endswith(command.get_short_help_str(200))
    assert max(map(len, lines)) <= 80


def test_help_of_run_is_in_panels_without_types_of_python() -> None:
    text = typed("run", "--help").stdout
    assert re.findall(r"^([A-Z]\w+):$", text, re.MULTILINE) == [*PANELS, "Options"]
    assert not re.search(r"<[a-z]+", text)


@pytest.mark.parametrize(
    ("words", "expected"),
    [("capecam export-", "export-model"), ("capecam run --align s", "snap"),
     ("capecam panel --at", "--at"), ("capecam run im", "")],
)  # fmt: skip
def test_bash_completes(words: str, expected: str) -> None:
    """Nothing for a file, whose name bash completes by itself."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv = ['capecam']\n"
         "from capecam.cli import main; main()"],
        capture_output=True, text=True, check=True,
        env={**os.environ, "_CAPECAM_COMPLETE": "complete_bash", "COMP_WORDS": words,
             "COMP_CWORD": str(words.count(" "))},
    )  # fmt: skip
    assert done.stdout.strip() == expected


QUICK = """
import sys, capecam.cli
for call in {calls}:
    sys.argv = ["capecam", *call.split()]
    try:
        capecam.cli.main()
    except SystemExit as end:
        assert end.code == 2, call
    assert not {{"torch", "rasterio", "geopandas", "pandas", "numpy"}} & set(sys.modules), call
"""


def test_a_wrong_call_is_refused_before_anything_slow_is_imported(tmp_path: Path) -> None:
    calls = [
        "run", "run --checkpoint x.pt --aoi y.gpkg --engine onnx --precision bf16 nowhere",
        "plan --overlap 45", "inspect x.pt", "finish nowhere", "view nowhere", "report nowhere",
        "panel nowhere --top 1", "calibrate nowhere", "evaluate nowhere",
        "export-model x.pt --out y.onnx", "estimate nowhere", "run --hurry",
        "evaluate made --truth none.gpkg", "summarize made --zones none.gpkg|layername=a",
    ]  # fmt: skip
    (tmp_path / "made").mkdir()
    (tmp_path / "made/run.json").touch()
    code = QUICK.format(calls=calls)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second, *_ = done.stderr.split("capecam: ")[1:]
    for missing in ("checkpoint is not set", "out is not set", "model.architecture and", "@list"):
        assert missing in first
    assert len(first.splitlines()) == 5
    for wrong in (
        "x.pt does not exist",
        "nowhere: there is no",
        "mosaic.aoi: y.gpkg",
        "on the CPU",
    ):
        assert wrong in second


def test_a_program_that_reads_the_progress_gets_errors_as_json(tmp_path: Path) -> None:
    done = capecam("finish", tmp_path, "--progress", "json", code=2)
    event = json.loads(done.stderr)
    assert event == {
        "event": "error",
        "text": f"{tmp_path}: holds no run.json; start with capecam run",
    }
    assert "must be auto or json, got 'xml'" in typed("plan", "--progress", "xml", code=2).stderr


def bad_calls(city: Path, tmp_path: Path) -> dict[str, tuple[list[object], str]]:
    """Return (arguments, part of the message) by name."""
    config = ["--config", city / "city.yaml"]
    (tmp_path / "text.tif").write_text("no raster")
    (tmp_path / "file").touch()
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes((city / "model.pt").read_bytes()[:50_000])
    three = tmp_path / "three.yaml"
    three.write_text(
        "model: {architecture: FPN, encoder: resnet18, classes: "
        "[{name: a, color: '#000000'}, {name: b, color: '#000000'}, {name: c, color: '#000000'}]}"
    )
    typo = tmp_path / "typo.yaml"
    typo.write_text("tiling: {overlapp: 3}")
    out = ["--out", tmp_path / "out"]
    model = ["--checkpoint", city / "model.pt"]
    return {
        "damaged": (
            [*config, *out, "--checkpoint", damaged],
            "damaged or not a whole zip archive",
        ),
        "absent": ([*config, *out, "--checkpoint", tmp_path / "x.pt"], "does not exist"),
        "classes": ([city / "images", "--config", three, *out, *model], "has 4 classes"),
        "no raster": ([tmp_path / "text.tif", *config, *out], "not a readable GeoTIFF"),
        "no source": ([tmp_path / "nowhere", *config, *out], "there is no such file"),
        "output": ([*config, "--out", tmp_path / "file"], "cannot write to the output folder"),
        "no output": (config, "give --out DIR"),
        "typo": (["--config", typo, *out], "did you mean 'tiling.overlap'?"),
        "overlap": ([*config, *out, "--overlap", "45"], "multiple of 10, got 115"),
        "method": ([*config, *out, "--methods", "gradcm"], "did you mean gradcam?"),
        "device": ([*config, *out, "--device", "cuda:77"], "device cuda:77 is not there"),
        "option": ([*config, *out, "--nonsense"], "No such option"),
        "batch": (
            [*config, *out, "--batch-size", "0"],
            "must be auto or a number of at least 1, got",
        ),
        "divisor": ([*config, *out, "--tile", "150", "--overlap", "50"], "nearest: 160"),
    }


@pytest.mark.parametrize(
    "name",
    ["damaged", "absent", "classes", "no raster", "no source", "output", "no output", "typo",
     "overlap", "method", "device", "option", "batch", "divisor"],
)  # fmt: skip
def test_bad_calls_are_one_line_and_exit_2(city: Path, tmp_path: Path, name: str) -> None:
    arguments, message = bad_calls(city, tmp_path)[name]
    done = typed("run", *arguments, code=2)
    assert message in done.stderr
    assert not list((tmp_path / "out").glob("**/*.tif"))


def test_inspect(city: Path) -> None:
    text = typed("inspect", city / "model.pt", "--config", city / "city.yaml").stdout
    assert "FPN (resnet18)" in text
    facts = json.loads(typed("inspect", city / "images" / "a.tif", "--json").stdout)
    assert facts["size"] == "330 x 200 px"


@pytest.mark.thorough
def test_cells_of_any_name(city: Path, tmp_path: Path) -> None:
    image = tmp_path / "it's ünïcode; 100 %.tif"
    write_tif(image, np.full((3, 160, 160), 200, np.uint8))
    typed("run", image, "--config", city / "city.yaml", "--out", tmp_path / "o p")
    assert (tmp_path / "o p" / "cells" / image.stem / "cell.json").exists()


@pytest.mark.parametrize("option", ["--out", "--aoi"])
def test_a_file_name_that_is_too_long_is_one_line(city: Path, option: str) -> None:
    done = typed("plan", "--config", city / "city.yaml", option, "a" * 400, code=2)
    assert len(done.stderr.strip().splitlines()) == 1
    assert len(done.stderr) < 600


@pytest.mark.parametrize("number", [28, 30])
def test_a_disk_that_cannot_be_written_is_one_line(monkeypatch, capsys, number) -> None:
    def fails() -> None:
        raise OSError(number, os.strerror(number), "out/.report.tmp.html")

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"capecam: out/.report.tmp.html: {os.strerror(number)}; make space")
