"""Which cells a run processes again and why, failures, locks, and the status layer."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
from support.cities import blobs, colours_model, write_tif
from support.commands import same_products

from capecam.errors import OutputError, SettingsError, StoppedError
from capecam.grid import Cell, Window
from capecam.run.city_products import finish
from capecam.run.outcome import RunOutcome
from capecam.run.plan import make_plan
from capecam.run.supervisor import run
from capecam.runtime.lock import output_lock
from capecam.settings import Settings
from capecam.settings.loading import load
from capecam.store.ledger import Ledger
from capecam.store.run_folder import RunFolder
from capecam.store.verify import verify

SIZE = 120
"""Edge of an image: a small city is quick, and windows of 64 px see neighbours."""
NAMES = "abcdefghi"


def settings(folder: Path, **options) -> Settings:
    given = {key.replace("__", "."): value for key, value in options.items()}
    defaults = {
        "sources": [str(folder / "in")], "out": str(folder / "out"), "tiling.size": 64,
        "tiling.overlap": 24, "tiling.stride": 8, "tiling.anchor": (-51_000.0, -3_763_000.0),
        "explain.calibration_tiles": 4, "compute.readers": 0, "detections.min_area_m2": 0.0,
        "objects.explain": "none",  # tests/run/test_object_stage.py is about them
    }  # fmt: skip
    return load(None, defaults | given)


def explain(folder: Path, **options) -> RunOutcome:
    return run(settings(folder, **options), model=colours_model())


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """Nine images, 3 x 3, and a finished run."""
    folder = tmp_path_factory.mktemp("nine")
    whole = blobs(3 * SIZE, 3 * SIZE, seed=2)
    for n, name in enumerate(NAMES):
        r, c = n // 3 * SIZE, n % 3 * SIZE
        write_tif(folder / "in" / f"{name}.tif", whole[:, r : r + SIZE, c : c + SIZE], c, r)
    assert explain(folder).done == 9
    return folder


@pytest.fixture
def nine(template, tmp_path) -> Path:
    shutil.copytree(template, tmp_path / "nine")
    return tmp_path / "nine"


def processed(folder: Path, **options) -> set[str]:
    """Return the cells that a run processes; plan must have said the same."""
    before = {p: p.stat().st_mtime_ns for p in (folder / "out" / "cells").glob("*/classes.tif")}
    planned = set(make_plan(settings(folder, **options)).todo)
    outcome = explain(folder, **options)
    after = {p: p.stat().st_mtime_ns for p in (folder / "out" / "cells").glob("*/classes.tif")}
    changed = {p.parent.name for p in after if after[p] != before.get(p)}
    assert (outcome.done, planned) == (len(changed), changed)
    return changed


@pytest.mark.thorough
def test_only_cells_that_read_a_change_are_processed_again(nine) -> None:
    assert processed(nine) == set()
    image = nine / "in" / "a.tif"
    os.utime(image, (1, 1))
    assert processed(nine) == set()
    write_tif(image, blobs(SIZE, SIZE, seed=9))
    assert make_plan(settings(nine)).todo["b"] == "a changed"
    assert processed(nine) == {"a", "b", "d", "e"}
    assert processed(nine, explain__score="predicted", detections__min_area_m2=5.0) == set(NAMES)
    assert processed(nine, explain__score="predicted", detections__min_area_m2=1.0) == set()


def test_a_changed_setting_is_named(nine) -> None:
    plan = make_plan(settings(nine, explain__where="detected", tiling__overlap=32))
    assert plan.todo["e"] == "changed: tiling.overlap, explain.where"
    assert make_plan(settings(nine, model__weights="ema")).todo["e"] == "changed: model.weights"
    styled = [
        {"name": name, "color": "#010203"}
        for name in ("background", "solar panel", "water heater", "pool heater")
    ]
    assert not make_plan(settings(nine, model__classes=styled)).todo


def as_version_0_1(out: Path) -> None:
    """Change the records to those of a version that stored guided maps on a linear scale."""
    for path in [out / "run.json", *out.glob("cells/*/cell.json")]:
        record = json.loads(path.read_text())
        for part in ("calibration", "basis"):
            record.get(part, {}).pop("floor", None)
        path.write_text(json.dumps(record))


@pytest.mark.thorough
def test_levels_of_two_scales_are_never_mixed(nine) -> None:
    out = nine / "out"
    as_version_0_1(out)
    old = RunFolder.open(out)
    assert set(old.cells) == set(NAMES), "its results can be read as they are"
    assert not old.heat("guided_gradcam").by_root
    explain(nine, run__shard="1/3")  # a part of the cells is made again
    run = RunFolder.open(out)
    assert run.heat("guided_gradcam").by_root
    assert len(run.cells) == 3
    assert explain(nine).done == 6


def test_cells_without_guided_maps_are_kept(tmp_path) -> None:
    write_tif(tmp_path / "in" / "a.tif", blobs(SIZE, SIZE))
    cams = {"explain__methods": ("gradcam",)}
    assert processed(tmp_path, **cams) == {"a"}
    as_version_0_1(tmp_path / "out")
    assert processed(tmp_path, **cams) == set()


@pytest.mark.thorough
def test_another_datum_is_another_crs(tmp_path) -> None:
    write_tif(tmp_path / "in" / "a.tif", blobs(SIZE, SIZE), crs=None)
    options = {"imagery__crs": "EPSG:28355", "tiling__anchor": None}
    assert processed(tmp_path, **options) == {"a"}
    record = tmp_path / "out" / "cells" / "a" / "cell.json"
    assert '"datum": "EPSG:6283"' in record.read_text()
    assert processed(tmp_path, **options | {"imagery__crs": "EPSG:7855"}) == {"a"}
    cell = json.loads(record.read_text())
    del cell["basis"]["reading"]["a"]["datum"]  # as version 0.1 wrote it
    record.write_text(json.dumps(cell))
    assert processed(tmp_path, **options | {"imagery__crs": "EPSG:7855"}) == set()


def test_cells_of_versions_that_knew_fewer_settings_are_kept(nine) -> None:
    for path in (nine / "out" / "cells").glob("*/cell.json"):
        tree = json.loads(path.read_text())
        del tree["basis"]["model"]["weights"]
        path.write_text(json.dumps(tree))
    assert not make_plan(settings(nine)).todo


def test_a_city_grows_to_the_north_west(nine) -> None:
    write_tif(nine / "in" / "west.tif", blobs(SIZE, SIZE, seed=3), -SIZE, 0)
    assert processed(nine) == {"west", "a", "d"}


def test_an_image_that_disappears(nine) -> None:
    (nine / "in" / "i.tif").unlink()
    assert processed(nine) == {"e", "f", "h"}
    assert (nine / "out" / "cells" / "i").exists()
    assert processed(nine, run__prune=True) == set()
    assert not (nine / "out" / "cells" / "i").exists()


def test_a_failed_cell_is_skipped_until_it_changes(nine) -> None:
    image = nine / "in" / "a.tif"
    whole = image.read_bytes()
    noise = np.random.default_rng(0).integers(0, 255, (3, SIZE, SIZE)).astype(np.uint8)
    write_tif(image, noise)
    image.write_bytes(image.read_bytes()[: image.stat().st_size * 2 // 3])
    first = explain(nine)
    assert (set(first.failures), first.failed, first.exit_code) == ({"a"}, 1, 3)
    assert not (nine / "out" / "cells" / "a" / "classes.tif").exists()
    again = explain(nine)
    assert (again.done, again.failed, again.exit_code) == (0, 0, 3)
    assert "--retry-failed" in again.failures["a"]
    assert "cannot be decoded" in make_plan(settings(nine)).failures["a"]
    assert explain(nine, run__retry_failed=True).failed == 1
    states = gpd.read_file(nine / "out" / "cells.gpkg", layer="cells").set_index("cell")
    assert states.loc["a", "status"] == "failed"
    assert "cannot be decoded" in states.loc["a", "error"]
    assert (states.drop("a")["status"] == "done").all()
    image.write_bytes(whole)
    assert processed(nine) == {"a", "b", "d", "e"}
    assert explain(nine).exit_code == 0


def test_too_many_failures_stop_the_run(nine) -> None:
    for name in "abc":
        path = nine / "in" / f"{name}.tif"
        path.write_bytes(path.read_bytes()[:4000])
    outcome = explain(nine, run__max_failures=1)
    assert outcome.failed == 2
    assert outcome.stopped == "more than 1 cells failed"
    assert outcome.exit_code == 3


@pytest.mark.thorough
def test_shards_add_up_to_the_city(template, nine) -> None:
    shutil.rmtree(nine / "out")
    shares = [explain(nine, run__shard=f"{i}/2") for i in (2, 1)]
    assert [s.done for s in shares] == [5, 4]
    assert not (nine / "out" / "detections.gpkg").exists()
    finish(nine / "out", model=colours_model())
    same_products(nine / "out", template / "out")
    with pytest.raises(SettingsError, match="I from 1 to N"):
        settings(nine, run__shard="3/2")


def test_an_output_is_locked_by_one_run(nine) -> None:
    with output_lock(nine / "out"):
        with pytest.raises(OutputError, match=rf'in use by {{"host": .*"pid": {os.getpid()}'):
            explain(nine)
        with pytest.raises(OutputError, match="in use by"):
            finish(nine / "out")
    with output_lock(nine / "out", (1, 2)), output_lock(nine / "out", (2, 2)):
        with pytest.raises(OutputError, match="in use by"), output_lock(nine / "out", (2, 2)):
            pass
        with pytest.raises(OutputError, match="in use by"):
            explain(nine)
    assert explain(nine).exit_code == 0


def test_a_locked_status_layer_is_not_changed(nine) -> None:
    layer = nine / "out" / "cells.gpkg"
    write_tif(nine / "in" / "a.tif", blobs(SIZE, SIZE, seed=9))
    with closing(sqlite3.connect(layer)) as database:
        database.execute("BEGIN EXCLUSIVE")
        before = layer.read_bytes()
        assert explain(nine).exit_code == 0
        assert layer.read_bytes() == before
    assert explain(nine).exit_code == 0
    states = gpd.read_file(layer, layer="cells")
    assert sorted(states["cell"]) == list(NAMES)
    assert (states["tiles"] > 0).all()
    assert states.total_bounds.tolist() == pytest.approx(
        [-51_000, -3_763_000 - 3 * SIZE * 0.08, -51_000 + 3 * SIZE * 0.08, -3_763_000]
    )


def test_a_disk_that_cannot_be_written_stops_the_run(nine, monkeypatch) -> None:
    shutil.rmtree(nine / "out")
    full = OSError(28, "No space left on device")

    def fails(*_: object) -> None:
        monkeypatch.setattr(Ledger, "_probe", fails)
        raise full

    monkeypatch.setattr("capecam.pipeline.cell_runner.process", fails)
    with pytest.raises(StoppedError, match="No space left on device"):
        explain(nine)
    assert not list((nine / "out" / "cells").iterdir())


def test_a_disk_filled_by_the_work_folder_stops_the_run(tmp_path, monkeypatch) -> None:
    ledger, cell = Ledger.open(tmp_path), Cell("a", "a", Window(0, 0, 9, 9))
    monkeypatch.setattr(Ledger, "_probe", lambda it: _full_with(it.folder / ".work-a" / "raw.tif"))

    def fails(file: str) -> None:
        with ledger.work_folder(cell) as work:
            (work / file).touch()
            raise RuntimeError("TIFFAppendToStrip: write error")

    with pytest.raises(StoppedError, match="No space left"):
        fails("raw.tif")
    with pytest.raises(RuntimeError, match="write error"):
        fails("small.tif")
    assert not list(ledger.folder.iterdir())


def test_a_failure_that_says_that_the_disk_is_full_stops_the_run(tmp_path) -> None:
    """A writer's unnamed files have given back their space when a new file is tried."""
    ledger, cell = Ledger.open(tmp_path), Cell("a", "a", Window(0, 0, 9, 9))
    with pytest.raises(StoppedError, match="No space left"), ledger.work_folder(cell):
        raise OSError(28, "No space left on device")
    with pytest.raises(OSError, match="Input/output"), ledger.work_folder(cell):
        raise OSError(5, "Input/output error")
    assert not list(ledger.folder.iterdir())


def _full_with(path: Path) -> None:
    if path.exists():
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("file", ["detections.parquet", "classes.tif"])
def test_a_damaged_product_is_named_by_finish(nine, file) -> None:
    (nine / "out" / "cells" / "e" / file).write_bytes(b"II*")
    for overview in (nine / "out").glob("*.overview.tif"):
        overview.unlink()  # what has not changed is not read again
    with pytest.raises(StoppedError, match=rf"cannot be made \(.*{file}.*capecam verify"):
        finish(nine / "out")


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"II*")])
def test_a_cell_with_a_lost_product_is_processed_again(nine, spoil) -> None:
    path = nine / "out" / "cells" / "e" / "gradcam.tif"
    whole = path.read_bytes()
    spoil(path)
    plan = make_plan(settings(nine))
    assert plan.todo == {"e": "gone or cut off: gradcam.tif"}
    assert plan.by_cause == "1 whose products are gone or cut off"
    assert explain(nine).done == 1
    assert path.read_bytes() == whole


def test_verify_finds_changed_products(nine) -> None:
    good = verify(nine / "out")
    assert (good.exit_code, good.findings) == (0, ())
    assert good.files > 60
    assert good.to_text().endswith(" 0 of them bad")
    path = nine / "out" / "cells" / "e" / "probability.tif"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(bytes(data))
    (nine / "out" / "summary.csv").unlink()
    bad = verify(nine / "out")
    assert bad.exit_code == 3
    assert {(Path(f.path).name, f.problem) for f in bad.findings} == {
        ("probability.tif", "its content is not what was written"),
        ("summary.csv", "No such file or directory"),
    }
    shutil.rmtree(nine / "out" / "cells" / "e")
    explain(nine, run__shard="1/1")
    cells_alone = verify(nine / "out")
    assert (cells_alone.exit_code, cells_alone.layers) == (0, False)
    assert "the city's layers were not compared" in cells_alone.to_text()
    explain(nine)
    assert verify(nine / "out").exit_code == 0


@pytest.mark.thorough
def test_an_updated_overview_equals_a_new_one(nine, tmp_path) -> None:
    write_tif(nine / "in" / "a.tif", blobs(SIZE, SIZE, seed=9))
    explain(nine)
    shutil.copytree(nine / "in", tmp_path / "in")
    calibration = str(nine / "out" / "run.json")
    explain(tmp_path, explain__calibration=calibration)
    same_products(tmp_path / "out", nine / "out")
    record = json.loads((nine / "out" / "run.json").read_text())
    assert "classes.overview.tif" in record["products"]


@pytest.mark.thorough
def test_a_run_logs_what_earlier_runs_have_done(nine, caplog) -> None:
    caplog.set_level("INFO", "capecam")

    def logged() -> str:
        caplog.clear()
        explain(nine)
        return next(text for text in caplog.messages if text.startswith("cells: "))

    assert logged() == "cells: 9 done before"
    write_tif(nine / "in" / "west.tif", blobs(SIZE, SIZE, seed=3), -SIZE, 0)
    write_tif(nine / "in" / "c.tif", blobs(SIZE, SIZE, seed=4), 2 * SIZE, 0)
    (nine / "out" / "cells" / ".work-c").mkdir()  # as after a power cut
    causes = "(1 new, 1 with another image, 5 with other neighbours)"
    assert (
        f"cells     10, of which 7 are to be made {causes}\n" in make_plan(settings(nine)).to_text()
    )
    assert logged() == f"cells: 3 done before, 7 to be made {causes}; 1 interrupted"
    assert logged() == "cells: 10 done before"
    assert make_plan(settings(nine, explain__score="predicted")).by_cause == (
        "10 with other settings"
    )
