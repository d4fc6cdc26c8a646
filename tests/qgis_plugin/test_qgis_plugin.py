"""The plugin of QGIS: its zip, its algorithms and its map tool."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import geopandas as gpd
import pandas as pd
import pytest
import shapely
from support.qgis_plugin import Qgis, qgis_with_plugin

import capecam

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def plugin_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    command = [sys.executable, ROOT / "scripts/plugin_zip.py", tmp_path_factory.mktemp("dist")]
    return Path(subprocess.check_output(command, text=True).strip())


@pytest.fixture(scope="module")
def qgis(plugin_zip: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Qgis]:
    with qgis_with_plugin(plugin_zip, tmp_path_factory.mktemp("qgis")) as process:
        yield process


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program capecam, as an environment has it, but with the code that is tested."""
    path, source = tmp_path_factory.mktemp("bin") / "capecam", Path(capecam.__file__).parents[1]
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{source}" exec "{sys.executable}" -m capecam "$@"\n')
    path.chmod(0o755)
    return path


def test_the_zip_is_what_qgis_installs(plugin_zip: Path) -> None:
    with zipfile.ZipFile(plugin_zip) as archive:
        names = archive.namelist()
        metadata = ConfigParser()
        metadata.read_string(archive.read("capecam_qgis/metadata.txt").decode())
    assert {Path(name).parent.name for name in names} == {"capecam_qgis"}
    general = metadata["general"]
    assert general["version"] == capecam.__version__
    for name in ("__init__.py", "LICENSE", general["icon"]):
        assert f"capecam_qgis/{name}" in names
    assert plugin_zip.name == f"capecam_qgis-{capecam.__version__}.zip"


@pytest.fixture
def processing(qgis: Qgis, program: Path) -> Iterator[Qgis]:
    qgis("command", path=program)
    yield qgis
    qgis("forget_layers")


@pytest.mark.qgis
@pytest.mark.thorough
def test_another_command_is_refused_with_the_remedy(qgis: Qgis, tmp_path: Path) -> None:
    other, older = tmp_path / "other", tmp_path / "older"
    other.write_text("#!/bin/sh\necho I am another program >&2\n")
    older.write_text("#!/bin/sh\necho capecam 0.1.0\n")
    said = {}
    for path in (other, older, tmp_path):
        path.chmod(0o755)
        qgis("command", path=path)
        said[path] = qgis("run", algorithm="capecam:plan", parameters={})["error"]
    folder = f"{tmp_path}/bin/capecam: there is no such program; name the program capecam"
    assert said[tmp_path].startswith(folder)
    assert "this is no capecam (I am another program); name the program" in said[other]
    assert "this is capecam 0.1.0, and the plugin is for" in said[older]


@pytest.mark.qgis
@pytest.mark.thorough
def test_a_run_is_cancelled_and_continued(processing: Qgis, city: Path, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for n in range(3):
        shutil.copy(city / f"images/{n}.tif", images)
    given = {
        "CONFIG": city / "city.yaml", "IMAGES": images, "OUT": out,
        "OPTIONS": "--in-process --objects none",
    }  # fmt: skip
    ended = processing("run", algorithm="capecam:run", parameters=given, cancel_at="[1/3]")
    assert ended["error"].startswith("interrupted; the same command continues where it stopped")
    assert ended["error"].endswith("(exit code 130)")
    assert any(line.startswith("processing cells: ") for line in ended["log"])
    kept = {path: path.stat().st_mtime_ns for path in out.glob("cells/[0-9]/cell.json")}
    assert kept
    assert processing("layers") == []

    (images / "broken.tif").write_bytes(b"II*\0" + bytes(40))
    ended = processing("run", algorithm="capecam:run", parameters=given)
    assert ended["results"]["EXIT_CODE"] == 3, ended
    assert any("broken failed: " in line for line in ended["log"])
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    layers = processing("layers")
    assert {"All detections", "Regions in each image"} < {
        layer["name"] for layer in layers if layer["is_visible"]
    }
    assert all(str(out) in layer["source"] for layer in layers)

    given.update(IMAGES=None, LAYERS=[images / "0.tif"], OPTIONS="--dry-run")
    assert "results" in processing("run", algorithm="capecam:run", parameters=given)
    assert processing("layers") == layers, "they are there already"


@pytest.mark.qgis
@pytest.mark.thorough
def test_what_cannot_be_run_is_said(processing: Qgis, city: Path, tmp_path: Path) -> None:
    given = {"CONFIG": city / "city.yaml", "OUT": tmp_path, "CHECKPOINT": city / "city.yaml"}
    ended = processing("run", algorithm="capecam:run", parameters=given)
    assert "city.yaml" in ended["error"]
    assert ended["error"].endswith("(exit code 2)")
    del given["OUT"]
    ended = processing("run", algorithm="capecam:run", parameters=given)
    assert "OUT" in ended["error"]


@pytest.fixture(scope="module")
def zones(city: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with two layers: the city in two halves, and its detections as the truth."""
    path = tmp_path_factory.mktemp("zones") / "vectors.gpkg"
    found = gpd.read_parquet(city / "out/detections.parquet")
    west, south, east, north = found.total_bounds
    middle = (west + east) / 2
    halves = [shapely.box(west, south, middle, north), shapely.box(middle, south, east, north)]
    table = gpd.GeoDataFrame({"suburb": ["West", "East"]}, geometry=halves, crs=found.crs)
    table.to_file(path, layer="suburbs")
    found[["class", "geometry"]].to_file(path, layer="truth")
    return path


@pytest.mark.qgis
@pytest.mark.thorough
def test_a_layer_is_passed_as_its_file_or_written(
    processing: Qgis, city: Path, zones: Path, tmp_path: Path
) -> None:
    """Of a file with two layers, of which only one has the names; and selected in memory, where no
    other program can read it."""
    suburbs = f"{zones}|layername=suburbs"
    tables = []
    for given in (suburbs, {"selected": suburbs}):
        to = tmp_path / str(len(tables))
        parameters = {"RUN": city / "out", "ZONES": given, "NAME": "suburb", "TO": to}
        ended = processing("run", algorithm="capecam:summarize", parameters=parameters)
        assert ended["results"]["COUNTS"] == f"{to}/zones.gpkg|layername=zones", ended
        tables.append(set(pd.read_csv(to / "zones.csv")["zone"]))
    assert tables == [{"West", "East", "(outside)"}, {"West", "(outside)"}]
    assert not (city / "out/zones.gpkg").exists()
    styles = {layer["source"]: layer["style"] for layer in processing("layers")}
    assert styles == {f"{tmp_path}/{n}/zones.gpkg|layername=zones": "RuleRenderer" for n in (0, 1)}


@pytest.mark.qgis
@pytest.mark.thorough
def test_a_run_and_a_layer_are_scored(
    processing: Qgis, city: Path, zones: Path, tmp_path: Path
) -> None:
    """Detections are found again in themselves."""
    given = {"TRUTH": f"{zones}|layername=truth", "TO": tmp_path}
    for found in ({"RUN": city / "out"}, {"LAYER": f"{zones}|layername=truth"}):
        ended = processing("run", algorithm="capecam:evaluate", parameters={**given, **found})
        scores = json.loads(Path(ended["results"]["SCORES"]).read_text())
        matched = [row["f1"] for row in scores["classes"] if row["true"]]
        assert matched
        assert matched == [1] * len(matched)
    ended = processing("run", algorithm="capecam:evaluate", parameters=given)
    assert "name either the folder of a run, or a layer" in ended["error"]


@pytest.fixture
def viewer(program: Path, city: Path) -> Iterator[str]:
    """Address of a viewer beyond 127.0.0.1, which therefore has a token."""
    command = [program, "view", city / "out", "--host", "127.0.0.2", "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process.stdout.readline().strip()
        process.terminate()


@pytest.mark.qgis
@pytest.mark.thorough
def test_a_click_is_answered_by_the_viewer(qgis: Qgis, viewer: str, city: Path) -> None:
    found = gpd.read_parquet(city / "out/detections.parquet").sort_values("review").iloc[0]
    wkt = json.loads((city / "out/run.json").read_text())["grid"]["crs"]
    x, y = found.geometry.representative_point().coords[0]
    place = {"x": x, "y": y, "wkt": wkt, "crs": "EPSG:3857"}
    told = qgis("click", address=viewer, **place)
    assert told["text"].startswith(f"{found['class']}, ")
    assert f"{found['evidence']} " in told["text"]
    assert found["id"] in told["text"]
    assert told["layers"].pop("outline") == pytest.approx(found.geometry.bounds, abs=0.01)
    assert set(told["layers"]) == {"its own map", "only the object", "without the object"}
    for extent in told["layers"].values():
        assert shapely.box(*extent).covers(found.geometry)
        assert extent[2] - extent[0] == pytest.approx(64 * 0.08, abs=0.05)

    again = qgis("click", address=viewer, **place)
    assert len(again["layers"]) == 4, "of one explanation at a time"
    outside = qgis("click", address=viewer, **{**place, "x": x - 500})
    assert "outside of the imagery" in outside["text"]
    assert outside["layers"] == {}
    stranger = qgis("click", address="http://127.0.0.3:1/", **place)
    assert "start capecam view" in stranger["text"]
    assert qgis("unload") == []
