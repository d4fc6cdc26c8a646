"""What the page is told is what the files say."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyproj
import pytest
import rasterio
from conftest import client_of
from starlette.testclient import TestClient

from capecam.errors import OutputError, UsageError
from capecam.viewer.city import crs_json
from capecam.viewer.served_runs import ServedRuns
from capecam.views.styles.layers import heat_styles, object_styles, probability_style


@pytest.fixture
def city(client: TestClient) -> dict[str, Any]:
    return client.get("/city.json").json()


def test_positions_are_those_of_the_rasters(city: dict[str, Any], out: Path) -> None:
    (run,) = city["runs"]
    (x0, y0), (sx, sy) = run["grid"]["origin"], run["grid"]["pixel"]
    rows = [dict(zip(run["cells"]["columns"], row, strict=True)) for row in run["cells"]["rows"]]
    assert [(row["name"], row["status"]) for row in rows] == [
        ("broken #1", "failed"), ("east", "done"), ("west", "done"),
    ]  # fmt: skip
    assert "cannot be decoded" in rows[0]["reason"]
    for row in rows[1:]:
        with rasterio.open(out / "cells" / row["name"] / "classes.tif") as dataset:
            assert dataset.shape == (row["height"], row["width"])
            assert (dataset.transform.c, dataset.transform.f) == pytest.approx(
                (x0 + row["col"] * sx, y0 - row["row"] * sy), abs=1e-6
            )
    assert run["unplaced"] == []


def test_every_layer_has_its_files(city: dict[str, Any], client: TestClient, out: Path) -> None:
    (run,) = city["runs"]
    layers = {layer["id"]: layer for layer in run["layers"]}
    names = [entry["name"] for entry in city["classes"]]
    wanted = [f"{kind}/{name}" for kind in ("probability", "gradcam", "guided_gradcam", "objects")
              for name in names]  # fmt: skip
    assert list(layers) == ["imagery", "classes", *wanted]
    shown = [name for name, layer in layers.items() if layer["visible"]]
    assert (shown[0], shown[1].partition("/")[0], len(shown)) == ("imagery", "objects", 2)
    for layer in run["layers"][1:]:
        cells = layer["cells"] or ["west", "east"]
        for cell in cells:
            url = layer["cell_file"].replace("{cell}", quote(cell))
            assert client.get(f"/{url}", headers={"Range": "bytes=0-1"}).content == b"II"
            with rasterio.open(out / url.removeprefix("run/0/")) as dataset:
                assert dataset.nodata == layer["nodata"]
                assert dataset.transform.a == pytest.approx(0.08 * layer["block"])
                assert dataset.descriptions[layer["band"]] in (*names, "class")
        assert client.get("/" + layer["overview"]).status_code == 200
        with rasterio.open(out / layer["overview"].removeprefix("run/0/")) as dataset:
            step = 0.08 * layer["block"] * layer["overview_factor"]
            assert dataset.transform.a == pytest.approx(step)


def test_colours_are_those_of_the_rasters_and_of_the_qgis_styles(
    city: dict[str, Any], out: Path
) -> None:
    (run,) = city["runs"]
    palettes = {layer["id"]: layer["palette"] for layer in run["layers"][1:]}
    assert {len(palette) for palette in palettes.values()} == {256}
    assert all(re.fullmatch("#[0-9a-f]{8}", color) for p in palettes.values() for color in p)
    assert {palette[255] for palette in palettes.values()} == {"#00000000"}
    with rasterio.open(out / "cells/west/classes.tif") as dataset:
        for index, entry in enumerate(city["classes"], start=1):
            color = "#" + bytes(dataset.colormap(1)[index][:3]).hex()
            assert palettes["classes"][index][:7] == color == entry["color"].lower()
    assert palettes["classes"][0][7:] == "00"
    styles = {
        "gradcam": heat_styles(1)["inferno"],
        "objects": object_styles(1)["inferno"],
        "probability": probability_style(1, city["classes"][0]["color"]),
    }
    for name, style in styles.items():
        palette = palettes[f"{name}/solar panel"]
        items = style.to_element().findall(".//colorrampshader/item")
        top = float(items[-1].get("value", ""))
        for item in items:
            level = float(item.get("value", "")) / top * 254
            if level.is_integer():
                alpha = int(item.get("alpha", ""))
                assert palette[int(level)] == f"{item.get('color', '').lower()}{alpha:02x}"
        assert palette[254] == f"{items[-1].get('color', '').lower()}{alpha:02x}"


@pytest.mark.parametrize("code", ["ESRI:102562", "EPSG:2193", "EPSG:32734", "EPSG:4326"])
def test_the_proj_string_of_a_crs_leads_to_the_same_place(code: str) -> None:
    crs = pyproj.CRS(code)
    told = crs_json(crs)
    assert pyproj.CRS.from_wkt(told["wkt"]) == crs
    assert told["code"] == code
    lon, lat = crs.area_of_use.west + 0.3, crs.area_of_use.south + 0.2
    places = [
        pyproj.Transformer.from_crs(crs.geodetic_crs, way, always_xy=True).transform(lon, lat)
        for way in (crs, pyproj.CRS.from_proj4(told["proj4"]))
    ]
    assert np.allclose(*places, rtol=0, atol=1e-3)


def test_what_cannot_be_done_is_said(client: TestClient, city: dict[str, Any]) -> None:
    assert city["served"] is True
    (run,) = city["runs"]
    assert run["verdicts_problem"] == ""
    assert run["explain_problem"].startswith("the checkpoint is missing")


def test_a_run_without_its_images_and_with_raw_heatmaps(out: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(out, tmp_path / "out")
    record = json.loads((copy / "run.json").read_text())
    record["settings"]["sources"] = [str(tmp_path / "gone")]
    record["settings"]["explain"]["heatmap_dtype"] = "float32"
    (copy / "run.json").write_text(json.dumps(record))
    with ServedRuns.open([copy]) as served:
        client = client_of(served)
        city = client.get("/city.json").json()
        layers = {layer["id"]: layer for layer in city["runs"][0]["layers"]}
        assert "imagery" not in layers
        assert layers["guided_gradcam/solar panel"]["raw"]["by_root"]
        assert "raw" not in layers["probability/solar panel"]
        answer = client.get("/run/0/imagery/0/0/0.webp")
        assert answer.status_code == 404
        assert answer.json()["error"].startswith("the imagery is missing: ")
        (row, *_) = client.get("/run/0/queue.json").json()["rows"]
        assert client.get(f"/run/0/thumbnails/{row[0]}.jpg").status_code == 404


def test_what_is_missing_for_explanations_is_said(out: Path, tmp_path: Path) -> None:
    copy, model = shutil.copytree(out, tmp_path / "out"), tmp_path / "model.pt"
    record = json.loads((copy / "run.json").read_text())
    record["settings"]["checkpoint"] = str(model)

    def told() -> str:
        (copy / "run.json").write_text(json.dumps(record))
        (copy / "review.gpkg").write_text("my notes")
        with ServedRuns.open([out, copy]) as served:
            first, second = served.city()["runs"]
            assert re.search(
                r"missing: its network \(.*\) was given in memory; adapt it again, and give it as",
                first["explain_problem"],
            )
            assert first["verdicts_problem"] == ""
            assert "review.gpkg" in second["verdicts_problem"]
            return str(second["explain_problem"])

    assert told().startswith(f"the checkpoint is missing: {model}; ")
    model.touch()
    assert told() == ""
    record["settings"]["sources"] = [str(tmp_path / "gone")]
    assert told().startswith(f"the imagery is missing: {tmp_path / 'gone'}: ")


def test_two_runs_are_compared_if_they_are_on_the_same_crs(out: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(out)
    with (
        pytest.raises(UsageError, match="same run twice"),
        ServedRuns.open([out, tmp_path / "link"]),
    ):
        pass
    copy = shutil.copytree(out, tmp_path / "later" / out.name)
    with ServedRuns.open([out, copy]) as served:
        client = client_of(served)
        first, second = client.get("/city.json").json()["runs"]
        assert (first["path"], second["path"]) == ("run/0/", "run/1/")
        assert json.dumps(first).replace("run/0/", "run/1/") == json.dumps(second)
        assert client.get("/run/1/queue.json").json() == client.get("/run/0/queue.json").json()
    with pytest.raises(OutputError, match=r"holds no run\.json"), ServedRuns.open([tmp_path]):
        pass
    record = json.loads((out / "run.json").read_text())
    record["grid"]["crs"] = pyproj.CRS("EPSG:32734").to_wkt()
    (tmp_path / "cells").symlink_to(out / "cells")
    (tmp_path / "detections.parquet").symlink_to(out / "detections.parquet")
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match="one at a time"), ServedRuns.open([out, tmp_path]):
        pass
