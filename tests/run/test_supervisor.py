"""The whole path on real files, with a network whose answer is known."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from rio_cogeo import cog_validate
from support.cities import CORNER, CUSTOM_WKT, GSD, Colours, blobs, colours_model, write_tif
from torch import nn

from capecam.api import read_detections, read_heatmap
from capecam.attribution.autotune import CPU_BATCH
from capecam.attribution.engine import Engine
from capecam.attribution.graph.capture import capture
from capecam.attribution.graph.graph_engine import GraphEngine
from capecam.attribution.methods import resample
from capecam.errors import SettingsError, UsageError
from capecam.grid import Tiling, Window
from capecam.io.cog import CogSet
from capecam.pipeline.calibration import PERCENTILE, calibrate
from capecam.pipeline.tiles import Tile
from capecam.run.outcome import RunOutcome
from capecam.run.summary import summary
from capecam.run.supervisor import run
from capecam.runtime.progress import Progress
from capecam.settings import CAPE_TOWN_CLASSES
from capecam.settings.loading import load

HEIGHT, WIDTH = 303, 377
CUTS = (101, 192)
"""Row and column at which the four abutting images are cut; nothing divides them."""
SIZE, OVERLAP = 160, 40
"""Tiles of which that scene has 4 x 5; tests with a scene of their own may take others."""
PRODUCTS = ("classes", "probability", "gradcam", "gradcampp", "guided_gradcam")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    pixels = blobs(2 * HEIGHT, 2 * WIDTH, seed=5)[:, ::2, ::2].copy()  # many objects, small ones
    corner = slice(CUTS[0] - 20, CUTS[0] + 25), slice(CUTS[1] - 30, CUTS[1] + 20)
    pixels[:, *corner] = 30
    pixels[1, *corner] = 240  # one object on the corner of four images
    return pixels


@pytest.fixture(scope="module")
def one(pixels, tmp_path_factory) -> Path:
    return write_tif(tmp_path_factory.mktemp("one") / "whole.tif", pixels)


@pytest.fixture(scope="module")
def four(pixels, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("four")
    r, c = CUTS
    for name, rows, cols in (
        ("nw", slice(0, r), slice(0, c)),
        ("ne", slice(0, r), slice(c, None)),
        ("sw", slice(r, None), slice(0, c)),
        ("se", slice(r, None), slice(c, None)),
    ):
        write_tif(folder / f"{name}.tif", pixels[:, rows, cols], cols.start, rows.start)
    return folder


@pytest.fixture(scope="module")
def reference(one, tmp_path_factory) -> RunOutcome:
    return explain(one, tmp_path_factory.mktemp("reference"), objects__explain="all")


def explain(source: Path, out: Path, **options) -> RunOutcome:
    """Run with a network whose answer is known; options by key, with ``__`` for the dot.

    Objects are explained where a test asks for it; tests/run/test_object_stage.py is about that.
    """
    given = {key.replace("__", "."): value for key, value in options.items()}
    defaults = {
        "detections.min_area_m2": 0.0, "compute.readers": 0, "explain.calibration_tiles": 8,
        "objects.explain": "none", "tiling.size": SIZE, "tiling.overlap": OVERLAP,
    }  # fmt: skip
    settings = load(None, {"sources": [str(source)], "out": str(out), **defaults, **given})
    return run(settings, model=colours_model())


def layer(out: Path, product: str) -> np.ndarray:
    with rasterio.open(out / f"{product}.vrt") as dataset:
        return dataset.read()


def objects(out: Path) -> list[tuple]:
    table = read_detections(out)
    return [
        (row["id"], row["area_m2"], row["confidence"], row["geometry"].wkb)
        for row in table.to_dict("records")
    ]


@pytest.mark.parametrize("readers", [pytest.param(0, marks=pytest.mark.thorough), 3])
def test_four_abutting_images_are_one(reference, four, tmp_path, readers) -> None:
    found = explain(four, tmp_path, compute__readers=readers)
    assert (found.done, found.exit_code) == (4, 0)
    for product in PRODUCTS:
        expected = layer(reference.out, product)
        assert expected.any(), f"{product} is empty: nothing is compared"
        assert np.array_equal(layer(tmp_path, product), expected), product
    assert len(objects(reference.out)) > 5
    assert objects(tmp_path) == objects(reference.out)
    assert "ne,nw,se,sw" in set(read_detections(tmp_path)["images"])


@pytest.mark.thorough
def test_nine_images_in_a_shuffled_list_are_one(reference, pixels, tmp_path) -> None:
    rows, cols = (0, 51, 177, HEIGHT), (0, 131, 243, WIDTH)
    paths = []
    for i, j in itertools.product(range(3), range(3)):
        part = slice(rows[i], rows[i + 1]), slice(cols[j], cols[j + 1])
        name = tmp_path / "in" / f"{i}{j}.tif"
        paths.append(write_tif(name, pixels[:, *part], cols[j], rows[i]))
    np.random.default_rng(1).shuffle(paths)
    (tmp_path / "list.txt").write_text("\n".join(f"in/{path.name}" for path in paths))
    found = explain(f"@{tmp_path / 'list.txt'}", tmp_path / "out")
    assert (found.done, found.exit_code) == (9, 0)
    for name in PRODUCTS:
        assert np.array_equal(layer(found.out, name), layer(reference.out, name)), name
    assert objects(found.out) == objects(reference.out)


def test_parts_of_a_large_image_are_the_image(reference, one, tmp_path) -> None:
    found = explain(one, tmp_path, tiling__cell_size=200)
    assert sorted(p.name for p in (tmp_path / "cells").iterdir()) == sorted(
        f"whole_r{i}c{j}" for i in range(2) for j in range(3)
    )
    assert found.done == 6
    for product in PRODUCTS:
        assert np.array_equal(layer(tmp_path, product), layer(reference.out, product)), product
    assert objects(tmp_path) == objects(reference.out)


@pytest.mark.thorough
def test_cuts_do_not_show_in_rasters_of_several_blocks(tmp_path) -> None:
    """With overviews inside the files."""
    size = {"tiling__size": 320, "tiling__overlap": 70}
    source = write_tif(tmp_path / "whole.tif", blobs(613, 777, seed=5))
    whole, parts = (
        explain(source, tmp_path / str(cell), tiling__cell_size=cell, **size).out
        for cell in (12_500, 250)
    )
    for product in PRODUCTS:
        assert np.array_equal(layer(parts, product), layer(whole, product)), product
    with rasterio.open(whole / "cells" / "whole" / "classes.tif") as classes:
        assert classes.overviews(1)
    assert objects(parts) == objects(whole)


@pytest.mark.parametrize("batch_size", [1, pytest.param(3, marks=pytest.mark.thorough), 8])
def test_batch_size_is_within_the_identity_rule(reference, one, tmp_path, batch_size) -> None:
    explain(one, tmp_path, compute__batch_size=batch_size)
    expected, found = ({p: layer(out, p) for p in PRODUCTS} for out in (reference.out, tmp_path))
    assert (expected["classes"] != found["classes"]).mean() <= 1e-4
    for product in PRODUCTS[1:]:
        apart = np.abs(expected[product].astype(int) - found[product])
        assert apart.max() <= 1 or (product == "guided_gradcam" and (apart <= 1).mean() >= 0.999)


def test_a_resumed_run_keeps_its_batch_size(one, tmp_path) -> None:
    def recorded(out: Path) -> int:
        return json.loads((out / "run.json").read_text())["batch_size"]

    explain(one, tmp_path / "a", compute__batch_size=3)
    assert recorded(tmp_path / "a") == 3
    explain(one, tmp_path / "a", compute__batch_size="auto")
    assert recorded(tmp_path / "a") == 3
    explain(one, tmp_path / "b", compute__batch_size="auto")
    assert recorded(tmp_path / "b") == CPU_BATCH


@pytest.mark.parametrize("score", ["mean", pytest.param("predicted", marks=pytest.mark.thorough)])
def test_graphs_give_the_bytes_of_autograd(one, tmp_path, monkeypatch, score) -> None:
    monkeypatch.setattr(GraphEngine, "patience", 1)
    captured = Mock(side_effect=capture)
    monkeypatch.setattr("capecam.attribution.graph.graph_engine.capture", captured)
    for engine in ("autograd", "graph"):
        assert not captured.called
        explain(one, tmp_path / engine, compute__engine=engine, explain__score=score)
    assert captured.called
    for product in PRODUCTS:
        found, expected = (
            tmp_path / e / "cells/whole" / f"{product}.tif" for e in ("graph", "autograd")
        )
        assert found.read_bytes() == expected.read_bytes(), product


@pytest.mark.thorough
def test_onnxruntime_gives_the_products_of_autograd_but_for_rounding(one, tmp_path) -> None:
    """The identity rule of other devices; cells of another engine are processed again."""
    explain(one, tmp_path / "autograd", compute__engine="autograd")
    explain(one, tmp_path / "onnx", compute__engine="onnx")
    expected, found = ({p: layer(tmp_path / e, p) for p in PRODUCTS} for e in ("autograd", "onnx"))
    assert (expected["classes"] != found["classes"]).mean() <= 1e-4
    for product in PRODUCTS[1:]:
        apart = np.abs(expected[product].astype(int) - found[product])
        assert (apart <= 1).mean() >= (0.999 if product == "guided_gradcam" else 1), product
    assert explain(one, tmp_path / "onnx", compute__engine="onnx").done == 0
    assert explain(one, tmp_path / "onnx", compute__engine="graph").done == 1


@pytest.mark.thorough
def test_channels_last_is_another_rounding_whose_cells_are_its_own(
    one, tmp_path, monkeypatch
) -> None:
    laid_out: list[Engine] = []
    use = Engine.use_channels_last
    monkeypatch.setattr(Engine, "use_channels_last", lambda e: (use(e), laid_out.append(e)))
    plain = {"objects__explain": 0}  # whose engine is channels-last anyway
    last = {**plain, "compute__channels_last": True}
    explain(one, tmp_path, **plain)
    assert not laid_out
    expected = {p: layer(tmp_path, p) for p in PRODUCTS}
    assert explain(one, tmp_path, **last).done == 1
    assert laid_out
    assert explain(one, tmp_path, **last, compute__engine="autograd").done == 0
    assert (expected["classes"] != layer(tmp_path, "classes")).mean() <= 1e-4
    assert explain(one, tmp_path, **plain).done == 1
    with pytest.raises(SettingsError, match=r"compute\.channels_last"):
        explain(one, tmp_path, **last, compute__engine="onnx")


def test_two_runs_give_the_same_bytes(reference, one, tmp_path) -> None:
    explain(one, tmp_path, objects__explain="all")
    compared = 0
    for path in reference.out.rglob("*"):
        if path.suffix in (".tif", ".vrt", ".qml", ".parquet", ".csv"):
            assert (tmp_path / path.relative_to(reference.out)).read_bytes() == path.read_bytes()
            compared += 1
    # Rasters and pieces; layers and overviews; their styles; city tables.
    assert compared == 6 + 1 + 6 + 6 + 18 + 2


def test_rasters_line_up_with_the_image(reference, one) -> None:
    with rasterio.open(one) as source:
        for product in PRODUCTS:
            path = reference.out / "cells" / "whole" / f"{product}.tif"
            assert cog_validate(path, strict=True)[0]
            with rasterio.open(path) as dataset:
                coarse = product in ("gradcam", "gradcampp")
                assert dataset.crs.wkt == source.crs.wkt
                assert (dataset.transform.c, dataset.transform.f) == (
                    source.transform.c,
                    source.transform.f,
                )
                assert dataset.res == ((0.8, 0.8) if coarse else (GSD, GSD))
                shape = (-(-HEIGHT // 10), -(-WIDTH // 10)) if coarse else (HEIGHT, WIDTH)
                assert dataset.shape == shape
                assert dataset.dtypes[0] == "uint8"
                assert dataset.nodata == 255
                assert dataset.profile["compress"] == "zstd"
                if product == "classes":
                    assert dataset.colormap(1)[1][:3] == (0, 255, 0)
                else:
                    assert dataset.descriptions == ("solar panel", "water heater", "pool heater")
                    assert dataset.scales == (1 / 254,) * 3
                if product.endswith(("cam", "campp")):
                    tags = dataset.tags(1)
                    tops = json.loads((reference.out / "run.json").read_text())["calibration"][
                        "tops"
                    ]
                    assert float(tags["CAPECAM_CALIBRATION"]) == tops[product][0]
                    assert (tags["CAPECAM_METHOD"], tags["CAPECAM_SCORE"]) == (product, "mean")
                    transfer = "sqrt" if product == "guided_gradcam" else None
                    assert tags.get("CAPECAM_TRANSFER") == transfer
                    assert ("CAPECAM_FLOOR" in tags) == (transfer == "sqrt")


def test_classes_and_objects_are_those_of_the_scene(reference, pixels) -> None:
    bright = pixels > 128 + 3
    expected = np.where(bright.any(axis=0), bright.argmax(axis=0) + 1, 0)
    found = layer(reference.out, "classes")[0]
    assert np.array_equal(found[bright.sum(axis=0) <= 1], expected[bright.sum(axis=0) <= 1])
    table = read_detections(reference.out)
    for class_id, group in table.groupby("class_id"):
        assert group["area_m2"].sum() == pytest.approx((found == class_id).sum() * GSD**2)
    gpkg = gpd.read_file(reference.out / "detections.gpkg", layer="detections")
    assert gpkg["id"].tolist() == table["id"].tolist()
    assert gpkg.crs.to_authority() == ("ESRI", "102562")


def test_heat_is_on_the_object(tmp_path) -> None:
    pixels = np.full((3, 960, 960), 20, np.uint8)
    pixels[1, 600:664, 256:320] = 250
    source = write_tif(tmp_path / "a.tif", pixels)
    given = {"tiling__size": 320, "tiling__overlap": 0, "explain__heatmap_dtype": "float32"}
    out = explain(source, tmp_path / "out", **given).out
    for method, unit in (("gradcam", 10), ("guided_gradcam", 1)):
        heat = read_heatmap(out, "a", method, "water heater")
        hot = np.argwhere(heat > heat.max() / 2) * unit
        assert len(hot)
        low, high = hot.min(axis=0), hot.max(axis=0)
        reach = 32 if unit == 10 else 0  # half a sample of the CAM to each side, and a block
        assert (low >= np.array([600, 256]) - reach).all()
        assert (high < np.array([664, 320]) + reach).all()
        assert np.abs(hot.mean(axis=0) - [632, 288]).max() < 12


def test_nodata_stays_nodata(tmp_path) -> None:
    pixels = blobs(400, 500)
    mask = np.ones((400, 500), bool)
    mask[:150, 222:] = False
    write_tif(tmp_path / "a.tif", pixels, mask=mask)
    out = explain(tmp_path / "a.tif", tmp_path / "out").out
    for product in ("classes", "probability", "guided_gradcam"):
        assert np.array_equal((layer(out, product) != 255).all(axis=0), mask), product
    blocks = mask.reshape(40, 10, 50, 10).any(axis=(1, 3))
    assert np.array_equal((layer(out, "gradcam") != 255).all(axis=0), blocks)


def test_detected_explains_only_what_is_detected(tmp_path) -> None:
    pixels = np.full((3, 640, 960), 20, np.uint8)
    pixels[2, 40:80, 400:440] = 250
    source = write_tif(tmp_path / "a.tif", pixels)
    given = {"tiling__size": 320, "tiling__overlap": 0, "explain__where": "detected"}
    out = explain(source, tmp_path / "o", **given).out
    seen = layer(out, "gradcam") != 255
    expected = np.zeros((3, 64, 96), bool)
    expected[2, :32, 32:64] = True
    assert np.array_equal(seen, expected)
    assert (layer(out, "probability") != 255).all()


def test_float32_heatmaps_are_raw(reference, one, tmp_path) -> None:
    explain(one, tmp_path, explain__heatmap_dtype="float32")
    run_json = json.loads((tmp_path / "run.json").read_text())
    raw, levels = layer(tmp_path, "gradcampp"), layer(reference.out, "gradcampp")
    tops = np.array(run_json["calibration"]["tops"]["gradcampp"])[:, None, None]
    assert np.abs(np.round(254 * np.minimum(raw / tops, 1)) - levels).max() <= 1
    assert raw.dtype == np.float32
    assert raw.max() > tops.min()
    guided = read_heatmap(tmp_path, "whole", "guided_gradcam", "pool heater")
    top, floor = (run_json["calibration"][k]["guided_gradcam"][2] for k in ("tops", "floor"))
    shares = guided / top
    found = read_heatmap(reference.out, "whole", "guided_gradcam", "pool heater")
    kept = shares > floor / top * 1.001
    assert kept.mean() > 0.01
    assert np.abs(np.sqrt(found) - np.sqrt(shares.clip(max=1)))[kept].max() < 0.51 / 254
    assert not found[shares < floor / top * 0.999].any()
    with rasterio.open(tmp_path / "cells" / "whole" / "guided_gradcam.tif") as dataset:
        assert "CAPECAM_TRANSFER" not in dataset.tags(1)


def test_calibration_is_the_percentile_of_what_is_written(one, pixels, tmp_path) -> None:
    """Of maps at full resolution, that of the pixels of the class."""
    methods = ["gradcam", "guided_gradcam"]
    explain(one, tmp_path, explain__calibration_tiles=1000, explain__methods=methods)
    run_json = json.loads((tmp_path / "run.json").read_text())
    tiling, engine = Tiling(SIZE, OVERLAP, 10), Engine(colours_model(), methods)
    core = Window(0, 0, HEIGHT, WIDTH)
    values: list[np.ndarray] = []
    inside: list[np.ndarray] = []
    outside: list[np.ndarray] = []
    rows, cols = tiling.indices(core)
    for i in rows:
        for j in cols:
            window = tiling.window(i, j)
            part = window.intersection(core)
            tile, valid = np.zeros((3, SIZE, SIZE), np.uint8), np.zeros((SIZE, SIZE), bool)
            place = part.slices(window)
            tile[:, *place], valid[place] = pixels[:, *part.slices(core)], True
            maps = engine(torch.from_numpy(tile)[None], torch.from_numpy(valid)[None])
            blocks = resample(maps.heat["gradcam"], tiling.size // tiling.stride)[0, 0].numpy()
            seen = valid.reshape(16, 10, 16, 10).any(axis=(1, 3))
            values.append(blocks[seen & (blocks > 0)])
            guided = maps.heat["guided_gradcam"][0, 0].numpy()
            own = (maps.probability[0].argmax(dim=0) == 1).numpy()
            inside.append(guided[valid & own & (guided > 0)])
            outside.append(guided[valid & ~own])
    assert run_json["calibration"]["tiles"] == len(rows) * len(cols)
    expected = np.percentile(np.concatenate(values), PERCENTILE)
    assert run_json["calibration"]["tops"]["gradcam"][0] == pytest.approx(expected, rel=1e-5)
    top, floor = (run_json["calibration"][k]["guided_gradcam"][0] for k in ("tops", "floor"))
    around = np.concatenate(outside)
    tops = [np.percentile(part, 99.9) for part in (np.concatenate(inside), around[around > 0])]
    assert top == pytest.approx(max(tops), rel=1e-5)
    noise = np.percentile(around, 94.5) / top
    assert floor / top == pytest.approx(noise.clip(0.002, 0.25), rel=1e-5)


def test_a_class_that_the_sample_lacks_is_calibrated_everywhere() -> None:
    """Class 1 has no pixel: its percentile is of all positive values."""
    tiling, engine = Tiling(64, 0, 8), Engine(colours_model(), ["guided_gradcam"])
    pixels = blobs(64, 64, seed=3)
    pixels[0] = np.minimum(pixels[0], 120)
    valid = torch.ones(64, 64, dtype=torch.bool)
    tile = Tile(Window(0, 0, 64, 64), torch.from_numpy(pixels), valid)
    maps = engine(tile.pixels[None], valid[None])
    assert not (maps.probability.argmax(dim=1) == 1).any()
    guided = maps.heat["guided_gradcam"][0, 0]
    expected = np.percentile(guided[guided > 0].numpy(), PERCENTILE)
    found = calibrate([tile], tiling, engine, 1)
    assert found.scale_max["guided_gradcam"][0] == pytest.approx(expected, rel=1e-5)


def test_a_class_without_heat_is_recorded_as_empty(tmp_path) -> None:
    pixels = np.zeros((3, 320, 320), np.uint8)
    pixels[0] = 250
    out = explain(write_tif(tmp_path / "a.tif", pixels), tmp_path / "out").out
    run_json = json.loads((out / "run.json").read_text())
    assert run_json["calibration"]["tops"]["gradcam"][1] is None
    assert run_json["empty"]["gradcam"] == ["water heater", "pool heater"]
    assert (layer(out, "gradcam")[1] == 0).all()
    with rasterio.open(out / "cells" / "a" / "gradcam.tif") as dataset:
        assert dataset.tags(2)["CAPECAM_CALIBRATION"] == "none"


def test_calibration_of_another_run(reference, one, tmp_path) -> None:
    other = reference.out / "run.json"
    explain(one, tmp_path / "a", explain__calibration=str(other))
    with pytest.raises(SettingsError, match="score is mean, this run has predicted"):
        explain(one, tmp_path / "b", explain__calibration=str(other), explain__score="predicted")
    with pytest.raises(SettingsError, match="it has no gradcampp_notebook"):
        explain(
            one, tmp_path / "c", explain__calibration=str(other),
            explain__methods=["gradcampp_notebook"],
        )  # fmt: skip
    record = json.loads(other.read_text())
    del record["calibration"]["floor"]  # as version 0.1 wrote it
    old = tmp_path / "run.json"
    old.write_text(json.dumps(record))
    with pytest.raises(SettingsError, match=r"its scale of guided_gradcam is of version 0\.1"):
        explain(one, tmp_path / "d", explain__calibration=str(old))
    cams = {"explain__methods": ["gradcam"], "explain__calibration": str(old)}
    assert explain(one, tmp_path / "e", **cams).exit_code == 0


def test_finished_cells_are_kept(four, tmp_path) -> None:
    first = explain(four, tmp_path)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.glob("cells/*/*")}
    again = explain(four, tmp_path)
    assert (first.done, again.done, again.kept, again.exit_code) == (4, 0, 4, 0)
    assert stamps == {p: p.stat().st_mtime_ns for p in tmp_path.glob("cells/*/*")}
    assert explain(four, tmp_path, explain__score="predicted").done == 4


def test_a_run_records_the_time_of_its_stages(one, tmp_path) -> None:
    outcome = explain(one, tmp_path, objects__explain="all")
    run_json = json.loads((tmp_path / "run.json").read_text())
    assert list(run_json["stages"]) == ["prepare", "calibrate", "cells", "finish", "objects"]
    assert sum(run_json["stages"].values()) == pytest.approx(run_json["seconds"], abs=0.01)
    work, wall = run_json["work"], run_json["stages"]["cells"]
    writes = {f"write {product}" for product in PRODUCTS}
    main = {"read", "engine", "stitch", "wait", "finish"}
    assert set(work) == {*main, *writes, "trace"}
    ms = 1e-3  # all of them are rounded to it
    assert sum(work[stage] for stage in main) <= wall + 3 * ms
    assert run_json["engine_waited"] == pytest.approx(1 - work["engine"] / wall, abs=ms / wall)
    assert "the engine waited" in summary(outcome)
    again = explain(one, tmp_path, objects__explain="all")
    assert (again.engine_waited, again.tiles) == (None, 0)
    assert "waited" not in summary(again)


def test_heat_that_is_not_finite_fails_its_cell(pixels, tmp_path) -> None:
    source = write_tif(tmp_path / "in" / "a.tif", pixels)
    given = {"sources": [str(source)], "explain.calibration_tiles": 4}
    scale = load(None, {**given, "out": str(tmp_path / "good")})
    assert run(scale, model=colours_model()).exit_code == 0
    model = colours_model()
    model.network.encoder[1].weight.data *= 1e38
    given["explain.calibration"] = str(tmp_path / "good" / "run.json")
    outcome = run(load(None, {**given, "out": str(tmp_path / "bad")}), model=model)
    assert outcome.exit_code == 2
    assert "values of heatmaps are not finite in fp32" in outcome.failures["a"]
    assert not list((tmp_path / "bad").rglob("*.tif"))


class Interrupting(Progress):
    """Acts like Ctrl-C after the first tiles."""

    def advance(self, _count: int) -> None:
        if self.stage == "cells":
            raise KeyboardInterrupt

    def at(self, stage: str, *_: object) -> None:
        self.stage = stage


def test_readers_stop_after_an_interruption(one, tmp_path) -> None:
    """Also while the exception is held: a reader that was closed by the garbage collector has
    crashed runs."""
    given = {"sources": [str(one)], "out": str(tmp_path / "out"), "compute.readers": 2}
    settings = load(None, {**given, "explain.calibration_tiles": 4})
    with pytest.raises(KeyboardInterrupt) as kept:
        run(settings, model=colours_model(), progress=Interrupting())
    assert kept.tb
    assert not [t.name for t in threading.enumerate() if t.name.startswith("read")]


def test_a_damaged_image_fails_alone(pixels, tmp_path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (3, 350, 350)).astype(np.uint8)
    for n, content in enumerate((pixels[:, :160, :160], noise, pixels[:, 160:, :160])):
        write_tif(tmp_path / "in" / f"{n}.tif", content, 2000 * n)  # apart: no common windows
    damaged = tmp_path / "in" / "1.tif"
    damaged.write_bytes(damaged.read_bytes()[:200_000])
    (tmp_path / "in" / "3.tif").write_text("not an image")
    (tmp_path / "in" / "4.tif").touch()
    write_tif(tmp_path / "in" / "5.tif", noise, crs="EPSG:32734")
    outcome = explain(tmp_path / "in", tmp_path / "out", objects__explain="all")
    assert (outcome.done, outcome.exit_code) == (2, 3)
    reasons = {
        "1": "cannot be decoded", "3": "not a readable GeoTIFF", "4": "the file is empty",
        "5": "its CRS or resolution is not that of",
    }  # fmt: skip
    assert set(outcome.failures) == set(reasons)
    assert all(reason in outcome.failures[name] for name, reason in reasons.items())
    states = gpd.read_file(tmp_path / "out" / "cells.gpkg", layer="cells").set_index("cell")
    assert states["status"].to_dict() == dict.fromkeys(reasons, "failed") | {
        "0": "done",
        "2": "done",
    }
    assert all(reason in states.loc[name, "error"] for name, reason in reasons.items())
    cells = tmp_path / "out" / "cells"
    assert sorted(p.name for p in cells.glob("*/*.tif")) == sorted(
        2 * [f"{p}.tif" for p in (*PRODUCTS, "objects")]
    )
    assert [p.parent.name for p in cells.rglob("failed.json")] == ["1"]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["failures"] == outcome.failures


def test_overlapping_images_are_one(reference, pixels, tmp_path) -> None:
    for name, rows, cols in (
        ("a", slice(0, 172), slice(0, 222)), ("b", slice(0, 148), slice(188, WIDTH)),
        ("c", slice(143, HEIGHT), slice(0, 247)), ("d", slice(126, HEIGHT), slice(213, WIDTH)),
        ("under", slice(49, 99), slice(49, 199)),
    ):  # fmt: skip
        write_tif(tmp_path / "in" / f"{name}.tif", pixels[:, rows, cols], cols.start, rows.start)
    found = explain(tmp_path / "in", tmp_path / "out")
    assert (found.done, found.exit_code) == (4, 0)
    for product in PRODUCTS:
        assert np.array_equal(layer(found.out, product), layer(reference.out, product)), product
    assert objects(found.out) == objects(reference.out)


def test_a_damaged_neighbour_is_named_and_the_rest_of_it_used(pixels, tmp_path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (3, HEIGHT, 190)).astype(np.uint8)
    path = write_tif(tmp_path / "in" / "a.tif", noise, blockxsize=64, blockysize=64)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    write_tif(tmp_path / "in" / "b.tif", pixels[:, :, 190:], 190)
    outcome = explain(tmp_path / "in", tmp_path / "out")
    assert (set(outcome.failures), outcome.done, outcome.exit_code) == ({"a"}, 1, 3)
    record = json.loads((tmp_path / "out" / "cells" / "b" / "cell.json").read_text())
    assert list(record["unreadable"]) == ["a"]
    assert (layer(outcome.out, "classes") != 255).all()


def test_a_box_limits_the_work(reference, one, tmp_path) -> None:
    with rasterio.open(one) as image:
        left, top = image.transform @ (130, 130)
        box = f"{left},{top - 100 * GSD},{left + 100 * GSD},{top}"
    found = explain(
        one, tmp_path, mosaic__bbox=box, explain__calibration=reference.out / "run.json"
    )
    assert (found.tiles, found.exit_code) == (4, 0)
    classes, whole = (layer(out, "classes")[0] for out in (tmp_path, reference.out))
    assert np.array_equal(classes != 255, np.pad(np.ones((280, 280), bool), ((0, 23), (0, 97))))
    assert np.array_equal(classes[120:240, 120:240], whole[120:240, 120:240])


def test_no_usable_image_is_a_usage_error(tmp_path) -> None:
    (tmp_path / "a.tif").write_text("not an image")
    with pytest.raises(UsageError, match="no image can be used"):
        explain(tmp_path / "a.tif", tmp_path / "out")


@pytest.mark.parametrize("shape", [(1, 1), (9, 330), (319, 320), (321, 11)])
def test_images_smaller_than_a_tile(tmp_path, shape) -> None:
    source = write_tif(tmp_path / "a.tif", np.full((3, *shape), 30, np.uint8))
    outcome = explain(source, tmp_path / "out", tiling__size=320, tiling__overlap=70)
    assert outcome.exit_code == 0
    assert layer(outcome.out, "classes").shape == (1, *shape)
    assert (layer(outcome.out, "classes") == 0).all()


def test_a_custom_crs_is_carried_over_exactly(tmp_path) -> None:
    source = write_tif(tmp_path / "a.tif", blobs(60, 60), crs=CUSTOM_WKT)
    out = explain(source, tmp_path / "out").out
    with (
        rasterio.open(source) as image,
        rasterio.open(out / "cells" / "a" / "classes.tif") as dataset,
    ):
        assert image.crs.to_authority() is None
        # GeoTIFF keys respell the ellipsoid's name; the CRS's own name and parameters stay.
        assert dataset.crs == image.crs
        assert dataset.crs.to_authority() is None
        assert dataset.crs.wkt.startswith('PROJCS["City grid, do not use"')


@pytest.mark.parametrize("row", [7, 247])  # from 247 on, the first step of 250 has no block
def test_an_anchored_lattice_writes_the_blocks_that_start_inside(tmp_path, row) -> None:
    source = write_tif(tmp_path / "a.tif", blobs(333, 347), col=3, row=row)
    given = {"tiling__size": 320, "tiling__overlap": 70, "tiling__anchor": CORNER}
    out = explain(source, tmp_path / "out", **given).out
    with rasterio.open(out / "cells" / "a" / "gradcam.tif") as dataset:
        assert dataset.shape == (34 - 1, 35 - 1)
        top = -3_763_000 - GSD * (row + 3)
        assert (dataset.transform.c, dataset.transform.f) == pytest.approx(
            (-51_000 + 0.8, top), abs=1e-9
        )


class OneChannel(nn.Module):
    """The first colour's logit where it is bright, and exactly 0 where everything is undecided."""

    def __init__(self) -> None:
        super().__init__()
        self.colours = Colours()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.colours(x)[:, 1:2]
        return torch.where(x[:, 2:] > 0.5, 0.0, logits - 0.5)


def test_a_sigmoid_maps_class_1_from_one_half_on(tmp_path) -> None:
    scene = np.full((3, 400, 400), 30, np.uint8)
    scene[0, 40:200, 60:100] = 230  # bright in the first colour: positive logits
    scene[2, 250:300, 60:100] = 230  # bright in the third: undecided, so p = .5
    network = OneChannel().eval().requires_grad_(False)
    model = replace(
        colours_model(), network=network, classes=CAPE_TOWN_CLASSES[:2],
        target_layer="colours.encoder.1", sigmoid=True,
    )  # fmt: skip
    settings = load(
        None,
        {"sources": [str(write_tif(tmp_path / "a.tif", scene))], "out": str(tmp_path / "out"),
         "model.classes": CAPE_TOWN_CLASSES[:2], "explain.calibration_tiles": 2},
    )  # fmt: skip
    assert run(settings, model=model).exit_code == 0
    expected = (scene[0] > 127) | (scene[2] > 127)
    assert np.array_equal(layer(tmp_path / "out", "classes")[0], expected)
    probability = layer(tmp_path / "out", "probability")
    assert probability.shape[0] == 1
    assert set(probability[0][scene[2] > 127]) == {127}
    assert read_detections(tmp_path / "out")["class"].tolist() == ["solar panel"] * 2


def test_the_next_cell_runs_while_the_last_one_is_finished(four, tmp_path, monkeypatch) -> None:
    finish, calls, next_cell = CogSet.finish, Counter[int](), threading.Event()

    def count(engine: Engine, *batch: torch.Tensor) -> object:
        calls[threading.get_ident()] += 1
        if len(calls) == 3:  # two cells, and the calibration in the main thread
            next_cell.set()
        return explain_batch(engine, *batch)

    def wait(cogs: CogSet) -> None:
        assert next_cell.wait(60), "the next cell waits for the end of this one"
        finish(cogs)

    explain_batch = Engine.__call__
    monkeypatch.setattr(Engine, "__call__", count)
    monkeypatch.setattr(CogSet, "finish", wait)
    assert explain(four, tmp_path / "out").exit_code == 0
