"""The scripts in ``benchmarks/`` run, each on a tiny case."""

from __future__ import annotations

import csv
import itertools
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import geopandas as gpd
import pytest
import yaml
from shapely import box
from support.cities import blobs, colours_model, write_tif
from support.outputs import write_output

from capecam.api import load_settings, run
from capecam.grid import Window

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
DATA = Path(str(files("capecam.demo"))) / "data"
BOUNDS = """\
A: left=-51000.0, bottom=-3763076.8, right=-50923.2, top=-3763000.0
B: left=-50923.2, bottom=-3763076.8, right=-50846.4, top=-3763000.0
"""
"""Two images of 960 x 960 pixels of 8 cm."""

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(300)]


def benchmark(name: str, table: Path, *options: object) -> list[dict[str, str]]:
    """Run a script and return the rows of its table."""
    command = [sys.executable, BENCHMARKS / f"{name}.py", *map(str, options), "--csv", table]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=table.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert all(row["machine"] and row["torch"] for row in rows)
    return rows


@pytest.fixture
def bounds(tmp_path: Path) -> Path:
    path = tmp_path / "bounds.txt"
    path.write_text(BOUNDS)
    return path


def test_city(bounds: Path, tmp_path: Path) -> None:
    rows = benchmark("city", tmp_path / "city.csv", bounds, "--scale", 10)
    assert [row["step"] for row in rows] == ["plan", "run", "run again: nothing to do", "finish"]
    assert [row["cells"] for row in rows] == ["2", "2", "0", "2"]
    assert rows[1]["detections"] == rows[3]["detections"] == "2"


def test_cog(tmp_path: Path) -> None:
    rows = benchmark("cog", tmp_path / "cog.csv", "--size", 600, "--rounds", 1)
    assert [row["way"] for row in rows] == ["GDAL's COG driver", "capecam"] * 3
    assert all(float(row["cpu_s"]) > 0 for row in rows)


def test_graph_steps(tmp_path: Path) -> None:
    options = ("--device", "cpu", "--size", 96, "--batch", 2, "--rounds", 1, "--precision", "bf16")
    rows = benchmark("graph_steps", tmp_path / "steps.csv", *options, "--model", "sample")
    steps = ["folded", "constants", "channels_last"]
    assert [row["steps"] for row in rows] == ["autograd", "graph", *steps, " ".join(steps)]
    assert not any(row["problem"] for row in rows)
    assert all(float(row["r_gradcam"]) > 0.98 and float(row["tiles_per_s"]) > 0 for row in rows)
    assert [row["off_autograd"] == "0.0e+00" for row in rows] == [
        True,
        True,
        False,
        True,
        False,
        False,
    ]
    kernels = {row["steps"]: int(row["kernels"]) for row in rows}
    assert kernels["folded"] < kernels["graph"] > kernels["constants"]


def test_graph_cost(tmp_path: Path) -> None:
    options = ("--count", "--size", 96, "--batch", 2, "--precision", "bf16")
    rows = benchmark("graph_steps", tmp_path / "cost.csv", *options)
    kernels = [int(row["kernels"]) for row in rows]
    assert kernels == sorted(kernels, reverse=True)
    assert kernels[-1] < 0.7 * kernels[0]
    assert not rows[0]["tiles_per_s"]


def test_guided_scale(tmp_path: Path) -> None:
    write_tif(tmp_path / "in" / "a.tif", blobs(700, 700))
    settings = {
        "sources": [str(tmp_path / "in")], "out": str(tmp_path / "out"),
        "explain.methods": ["guided_gradcam"], "explain.heatmap_dtype": "float32",
        "explain.calibration_tiles": 2, "objects.explain": "none", "run.in_process": True,
    }  # fmt: skip
    run(load_settings(None, settings), model=colours_model())
    rows = benchmark("guided_scale", tmp_path / "guided.csv", f"drawn={tmp_path / 'out'}")
    assert [row["scale"] for row in rows] == ["0.1", "now"] * (len(rows) // 2)
    assert all(0 <= float(row["removed"]) < 1 and float(row["mb"]) > 0 for row in rows)


def test_node(tmp_path: Path) -> None:
    options = ("--images", 2, "--size", 600, "--period", 500, "--rates", "100,inf")
    rows = benchmark("node", tmp_path / "node.csv", *options, "--objects", "few", "--workers", 2)
    assert [row["rate"] for row in rows] == ["100.0", "inf"]
    assert all(float(row["cpu_s"]) > 0 and 0 <= float(row["gpu_waited"]) <= 1 for row in rows)
    assert float(rows[0]["tiles_per_s"]) <= 100
    assert (tmp_path / "node_model.csv").exists()


def test_finish(bounds: Path, tmp_path: Path) -> None:
    write_tif(tmp_path / "in" / "a.tif", blobs(96, 96))
    settings = {"sources": [str(tmp_path / "in")], "out": str(tmp_path / "out")}
    run(load_settings(None, settings), model=colours_model())
    rows = benchmark(
        "finish", tmp_path / "finish.csv", bounds, "--like", tmp_path / "out", "--detections", 2000
    )
    assert [row["cells"] for row in rows] == ["2"] * 4
    assert int(rows[0]["detections"]) > 0
    assert len({row["detections"] for row in rows}) == 1


def test_image(tmp_path: Path) -> None:
    options = ("--size", 320, "--rounds", 1, "--model", "sample")
    (row,) = benchmark("image", tmp_path / "image.csv", *options)
    assert float(row["share"]) > 0


def test_memory(tmp_path: Path) -> None:
    products = tmp_path / "products.csv"
    (row,) = benchmark(
        "memory", tmp_path / "memory.csv", "--size", "400x320", "--products", products
    )
    assert (row["size"], row["exit_code"]) == ("400x320", "0")
    assert int(row["peak_mb"]) > 0
    assert "classes" in products.read_text()


def test_outlines(tmp_path: Path) -> None:
    roofs = gpd.GeoSeries([box(0, 0, 4, 3), box(10, 0, 13, 9)], crs="ESRI:102562")
    roofs.to_file(tmp_path / "roofs.gpkg")
    options = ("--count", 2, "--polygons", tmp_path / "roofs.gpkg")
    rows = benchmark("outlines", tmp_path / "outlines.csv", *options)
    ways = ["pixels", "Douglas-Peucker, 1 px", "smallest rectangle", "regular"]
    assert [row["outline"] for row in rows] == ways * 18
    assert all(float(row["area_error_max"]) <= 0.02 for row in rows if row["outline"] == "regular")
    assert {row["shape"] for row in rows} >= {"L", "disc", "roofs"}


def test_planted(tmp_path: Path) -> None:
    """Networks that learnt nothing have no reason, but every map and word is measured."""
    table = tmp_path / "planted.csv"
    rows = benchmark(
        "planted", table, tmp_path, "--tiny", "--cities", "frame", "--objects", 1, "--maps", 1
    )
    assert {row["layer"] for row in rows} == {"conv", "32", "16", "8", "4", ""}
    for name, count in (
        ("words", 1),
        ("interventions", 16),
        ("networks", 2),
        ("layers", 12),
        ("drops", 9),
    ):
        lines = table.with_stem(f"planted-{name}").read_text().splitlines()
        assert len(lines) == 1 + count, name


def test_target_layer(tmp_path: Path) -> None:
    rows = benchmark("target_layer", tmp_path / "layer.csv", "--objects", 1)
    assert [row["method"] for row in rows[-2:]] == ["distance", "random"]
    assert float(rows[-2]["insertion_minus_deletion"]) > 0


def test_right_or_wrong(tmp_path: Path) -> None:
    """Cities that are in the folder already, in which chance decides what is right."""
    for seed, condition in itertools.product((1, 2), ("drawn", "shifted")):
        city = tmp_path / f"{seed}-{condition}"
        write_output(city / "out", 120, cells=[Window(0, 0, 6000, 6000)], seed=seed)
        table = gpd.read_parquet(city / "out" / "detections.parquet")
        table[::2][["class", "geometry"]].to_file(city / "truth.gpkg")
    rows = benchmark("right_or_wrong", tmp_path / "right.csv", tmp_path, "--seeds", "1,2")
    assert {row["order"] for row in rows} == {"random", "area", "confidence", "base", "p_right"}
    assert len(rows) == 6 * 5
    assert all((row["ece"] == "") == (row["order"] in ("random", "area")) for row in rows)
    assert {(row["objects"], row["wrong"]) for row in rows} == {("120", "60")}
    assert "rectangularity" in (tmp_path / "right-signals.csv").read_text()


def test_specks(tmp_path: Path) -> None:
    (row,) = benchmark("specks", tmp_path / "specks.csv", "--count", 50, "--size", 400)
    assert row["traced"] == row["kept"] == "50"


def test_techniques(tmp_path: Path) -> None:
    options = ("--rounds", 1, "--size", 64, "--detected", 8, "--model", "sample")
    rows = benchmark("techniques", tmp_path / "techniques.csv", *options)
    accurate = [row for row in rows if row["compared"] and not row["technique"].startswith("--")]
    assert len(accurate) == 12
    assert all(float(row["r_gradcam"]) > 0.999 for row in accurate)


def test_engines(tmp_path: Path) -> None:
    options = ("--rounds", 1, "--size", 64, "--batch", 2, "--model", "sample")
    rows = benchmark("engines", tmp_path / "engines.csv", *options)
    assert [row["engine"] for row in rows] == ["autograd", "captured graph", "onnxruntime"]
    assert float(rows[1]["from_autograd_guided_gradcam"]) == 0
    assert 0 < float(rows[2]["from_float64_gradcam"]) < 1e-3


def test_totals(tmp_path: Path) -> None:
    """Three small scenes: intervals are measured, whatever they are."""
    options = ("--tiny", "--scenes", 3, "--zones", 2, "--looks", 9, "--reviews", 4)
    rows = benchmark("totals", tmp_path / "totals.csv", tmp_path / "maps", *options)
    assert {row["map"] for row in rows} == {"sample", "noisy", "shifted"}
    assert {row["city"] for row in rows} == {"dense", "sparse"}
    assert {row["quantity"] for row in rows} > {"count", "m2", "precision", "recall"}
    assert all(0 <= float(row["coverage"]) <= 1 for row in rows)
    counts = [row for row in rows if (row["city"], row["quantity"]) == ("dense", "count")]
    assert all(int(row["blocks"]) == 12 for row in counts)


def test_workers(tmp_path: Path) -> None:
    write_tif(tmp_path / "in" / "a.tif", blobs(96, 96))
    config = yaml.safe_load((DATA / "demo.yaml").read_text())
    config |= {
        "sources": [str(tmp_path / "in")],
        "checkpoint": str(DATA / "sample_model.safetensors"),
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    rows = benchmark(
        "workers", tmp_path / "workers.csv", path, "--kind", "processes", "--rounds", 1
    )
    assert [row["workers"] for row in rows] == ["1", "2"]
