"""A command that is given again keeps what was measured, made and edited until there is newer."""

from __future__ import annotations

import json
import shutil
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path

import geopandas as gpd
import pytest
from support.cities import blobs, colours_model, quick_settings, write_tif

from capecam.analysis.audit.audit import audit
from capecam.analysis.zonal_summary import summarize
from capecam.analysis.zones import ZoneRules
from capecam.errors import OutputError, StoppedError
from capecam.io.geopackage import holds
from capecam.run import city_products
from capecam.run.city_products import finish
from capecam.run.outcome import RunOutcome
from capecam.run.plan import make_plan
from capecam.run.supervisor import run
from capecam.runtime.progress import SILENT, Progress
from capecam.settings import AuditSettings
from capecam.store.file_names import DETECTIONS
from capecam.store.records import FileFacts, RunRecord
from capecam.store.run_folder import known_run
from capecam.store.verify import verify
from capecam.views.report.report import write_report
from capecam.views.report.with_panels import write_report_with_panels

TIMES = ("tiles", "seconds", "stages", "work", "engine_waited", "started")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    write_tif(folder / "in" / "a.tif", blobs(320, 320, seed=5))
    explain(folder)
    return folder


@pytest.fixture
def city(finished, tmp_path) -> Path:
    """A city with a finished run, of its own."""
    return Path(shutil.copytree(finished, tmp_path / "city"))


def explain(city: Path, progress: Progress = SILENT, **options: object) -> RunOutcome:
    return run(quick_settings(city, **options), model=colours_model(), progress=progress)


def edit(path: Path, *statements: str) -> None:
    with closing(connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)


def connect(path: Path) -> sqlite3.Connection:
    """Open a GeoPackage with the functions that the triggers of its spatial index call."""
    database = sqlite3.connect(path)
    for name in ("IsEmpty", "MinX", "MaxX", "MinY", "MaxY"):
        database.create_function(f"ST_{name}", 1, lambda _shape: 0)
    return database


def times(record: RunRecord) -> list[object]:
    return [getattr(record, name) for name in TIMES]


class Cut(Progress):
    """Interrupts a run before its first cell."""

    def at(self, stage: str, *_: object) -> None:
        if stage == "check":
            raise KeyboardInterrupt


def test_times_are_those_of_the_run_that_worked(city) -> None:
    first, rate = known_run(city / "out"), make_plan(quick_settings(city)).tiles_per_second
    outcome = explain(city, qgis__imagery=True)
    assert (outcome.done, outcome.kept, outcome.tiles) == (0, 1, 0)
    again = known_run(city / "out")
    assert times(again) == times(first)
    assert first.checked is None
    assert again.checked > again.started
    assert make_plan(quick_settings(city)).tiles_per_second == rate
    page = (city / "out" / "report.html").read_text("utf-8")
    assert f"processed {first.tiles} tiles" in page
    assert "had nothing to process" in page
    write_tif(city / "in" / "a.tif", blobs(320, 320, seed=6))
    assert explain(city).done == 1
    assert known_run(city / "out").started != first.started


@pytest.mark.thorough
def test_an_audit_outlives_an_interruption_but_not_its_detections(city) -> None:
    out = city / "out"
    audit(out, AuditSettings(sample=1), model=colours_model())
    result = known_run(out).audit
    assert result is not None
    with pytest.raises(KeyboardInterrupt):
        explain(city, Cut())
    assert known_run(out).products == {}, "its layers are not those of this run"
    explain(city)
    assert known_run(out).audit == result
    with pytest.raises(KeyboardInterrupt):
        explain(city, Cut(), detections__min_area_m2=9.0)
    finish(out)
    assert known_run(out).audit is None, "other objects"


def test_results_of_other_detections_do_not_hold_after_an_interruption(city, monkeypatch) -> None:
    """The file of other detections is there already, and the record of it is not."""
    out = city / "out"
    record = json.loads((out / "run.json").read_text())
    record["audit"] = {"of": "the first detections"}
    record["settings"]["detections"]["min_area_m2"] = 9.0
    (out / "run.json").write_text(json.dumps(record))
    before = known_run(out).products[DETECTIONS].version

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(city_products, "write_catalogue", interrupt)
        with pytest.raises(KeyboardInterrupt):
            finish(out)
    assert known_run(out).audit is not None
    finish(out)
    assert known_run(out).products[DETECTIONS].version != before
    assert known_run(out).audit is None


@pytest.mark.thorough
def test_panels_stay_in_the_report(city) -> None:
    out = city / "out"

    def panels() -> int:
        return page().count("data:image/webp;base64,UGFuZW")

    def page() -> str:
        return (out / "report.html").read_text("utf-8")

    write_report(out, queue=5, panels=3, draw_panel=lambda id_: f"Panel of {id_}".encode())
    assert panels() == 3
    for command in (lambda: explain(city), lambda: finish(out), lambda: write_report(out)):
        command()
        assert panels() == 3
        assert page().count('"review": ') == 5
    write_report_with_panels(out, panels=0)
    assert panels() == 0
    write_report(out, panels=3, draw_panel=lambda _id: b"Panel")
    explain(city, detections__min_area_m2=9.0)
    assert panels() == 0, "other objects"


EDITS = {
    "column": ["ALTER TABLE detections ADD COLUMN verdict TEXT",
               "UPDATE detections SET verdict = 'wrong' WHERE fid = 1"],
    "value": ["UPDATE detections SET class = 'skylight' WHERE fid = 1"],
    "row": ["DELETE FROM detections WHERE fid = 1"],
    "layer": ["CREATE TABLE notes (fid INTEGER PRIMARY KEY, note TEXT)",
              "INSERT INTO gpkg_contents (table_name, data_type) VALUES ('notes', 'attributes')"],
    "style": ["INSERT INTO layer_styles (f_table_name, styleName, useAsDefault, styleQML) "
              "VALUES ('detections', 'mine', 0, '<qgis/>')"],
    "own style": ["UPDATE layer_styles SET styleQML = '<qgis/>'"],
    "own style, saved by QGIS": ["UPDATE layer_styles SET styleSLD = '<sld/>', description = ''"],
    "view": ["CREATE VIEW large AS SELECT * FROM detections WHERE area_m2 > 5"],
    "project": ["CREATE TABLE qgis_projects (name TEXT PRIMARY KEY, metadata BLOB, content BLOB)",
                "INSERT INTO qgis_projects VALUES ('mine', '', '00')"],
    "description": ["UPDATE gpkg_contents SET description = 'checked' "
                    "WHERE table_name = 'detections'"],
}  # fmt: skip


@pytest.mark.parametrize("statements", EDITS.values(), ids=EDITS)
def test_every_edit_is_noticed(finished, tmp_path, statements) -> None:
    out, gpkg = finished / "out", tmp_path / "detections.gpkg"
    shutil.copy(out / gpkg.name, gpkg)
    tables = {"detections": out / "detections.parquet"}
    assert holds(gpkg, tables)
    edit(gpkg, *statements)
    assert not holds(gpkg, tables)


def test_an_edited_geopackage_is_never_lost(city, caplog) -> None:
    gpkg, copy = city / "out" / "detections.gpkg", city / "out" / "edited" / "detections-1.gpkg"
    edit(gpkg, *(statement for statements in EDITS.values() for statement in statements))
    dump = contents(gpkg)
    for command in (lambda: explain(city), lambda: finish(city / "out")):
        command()
        assert contents(gpkg) == dump, "there is nothing new to write into it"
        assert not copy.exists()
    explain(city, detections__min_area_m2=9.0)
    assert contents(copy) == dump
    assert f"kept as {copy}" in caplog.text
    assert list(gpd.read_file(gpkg, layer="detections")["id"]) == list(
        gpd.read_parquet(gpkg.with_suffix(".parquet")).id
    )
    explain(city, detections__min_area_m2=0.0)
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


@pytest.mark.parametrize("rest", [b"my notes", b"SQLite format 3\0" + b"x" * 5000, None])
def test_a_damaged_geopackage_is_kept_and_written_again(city, rest) -> None:
    gpkg, copy = city / "out" / "detections.gpkg", city / "out" / "edited" / "detections-1.gpkg"
    rest = gpkg.read_bytes()[:60_000] if rest is None else rest  # a copy that was cut off
    gpkg.write_bytes(rest)
    explain(city)
    assert copy.read_bytes() == rest
    assert len(gpd.read_file(gpkg, layer="detections"))


@pytest.mark.parametrize("name", ["detections.gpkg", "capecam.qgz", "summary.csv", "classes.qml"])
def test_a_folder_in_place_of_a_product_is_named(city, name) -> None:
    path = city / "out" / name
    path.unlink()
    path.mkdir()
    with pytest.raises(StoppedError, match=f"{name}: is a folder.*move it elsewhere"):
        explain(city)


def test_a_file_in_place_of_the_folder_of_edited_files_is_named(city) -> None:
    (city / "out" / "edited").touch()
    (city / "out" / "summary.csv").write_text("mine")
    with pytest.raises(OutputError, match=r"edited: is no folder, so that summary\.csv"):
        explain(city)
    assert (city / "out" / "summary.csv").read_text() == "mine"


def test_a_style_of_an_earlier_version_is_no_edit(city) -> None:
    explain(city, qgis__imagery=True)
    gpkg, qml = city / "out" / "detections.gpkg", city / "out" / "imagery.qml"
    edit(gpkg, "UPDATE layer_styles SET description = '', styleQML = '<qgis/>'")
    qml.write_text("<qgis/>")
    record = json.loads((city / "out" / "run.json").read_text())
    record["written"]["imagery.qml"] = FileFacts.of(qml).to_json()
    (city / "out" / "run.json").write_text(json.dumps(record))
    explain(city, qgis__imagery=True, detections__min_area_m2=9.0)
    assert not (city / "out" / "edited").exists()
    assert "multibandcolor" in qml.read_text()


def contents(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as database:
        return list(database.iterdump())


def test_edited_zones_are_never_lost(city) -> None:
    out, zones = city / "out", city / "zones.gpkg"
    gpd.read_parquet(out / "detections.parquet").to_file(zones, layer="zones")
    for _ in range(2):
        summarize(out, None, ZoneRules(zones))
    assert not (out / "edited").exists()
    edit(out / "zones.gpkg", "UPDATE zones SET count = 7")
    dump = contents(out / "zones.gpkg")
    summarize(out, None, ZoneRules(zones))
    assert contents(out / "edited" / "zones-1.gpkg") == dump
    assert set(gpd.read_file(out / "zones.gpkg", layer="zones")["count"]) != {7}


def test_an_edited_geopackage_gets_new_colours(city) -> None:
    gpkg = city / "out" / "detections.gpkg"
    edit(gpkg, *EDITS["column"], *EDITS["style"], "UPDATE layer_styles SET useAsDefault = 0",
         "UPDATE layer_styles SET useAsDefault = 1 WHERE styleName = 'mine'")  # fmt: skip
    tree = json.loads((city / "out" / "run.json").read_text())
    for entry in tree["settings"]["model"]["classes"]:
        entry["color"] = "#123456"
    (city / "out" / "run.json").write_text(json.dumps(tree))
    finish(city / "out")
    with closing(sqlite3.connect(gpkg)) as database:
        styles = database.execute("SELECT styleName, useAsDefault, styleQML FROM layer_styles")
        (mine, ours) = sorted(styles.fetchall(), reverse=True)
    assert (mine[0], mine[1], ours[0], ours[1]) == ("mine", 1, "capecam", 0)
    assert "18,52,86" in ours[2]
    assert "verdict" in gpd.read_file(gpkg, layer="detections")


def test_a_geopackage_that_was_only_opened_is_written_again(city) -> None:
    gpkg = city / "out" / "detections.gpkg"
    edit(gpkg, "PRAGMA journal_mode = wal", "PRAGMA journal_mode = delete", "VACUUM")
    explain(city, detections__min_area_m2=9.0)
    assert not (city / "out" / "edited").exists()


def test_edits_in_the_journal_of_an_open_program_are_kept(city) -> None:
    gpkg = city / "out" / "detections.gpkg"
    with closing(connect(gpkg)) as open_elsewhere:
        open_elsewhere.execute("PRAGMA journal_mode = wal")
        open_elsewhere.execute("UPDATE detections SET class = 'skylight'")
        open_elsewhere.commit()
        explain(city, detections__min_area_m2=9.0)
    kept = gpd.read_file(city / "out" / "edited" / "detections-1.gpkg", layer="detections")
    assert set(kept["class"]) == {"skylight"}
    assert "skylight" not in set(gpd.read_file(gpkg, layer="detections")["class"])


def test_an_edited_project_is_never_lost(city, caplog) -> None:
    project, copy = city / "out" / "capecam.qgz", city / "out" / "edited" / "capecam-1.qgz"
    with zipfile.ZipFile(project, "w") as archive:
        archive.writestr("mine.qgs", "<qgis/>")
    saved = project.read_bytes()
    explain(city)
    explain(city)
    assert project.read_bytes() == saved
    explain(city, qgis__imagery=True)
    assert copy.read_bytes() == saved
    assert f"kept as {copy}" in caplog.text
    assert b"mine.qgs" not in project.read_bytes()


@pytest.mark.parametrize("command", ["finish", pytest.param("run", marks=pytest.mark.thorough)])
def test_edited_styles_are_kept_and_the_products_mended(city, command) -> None:
    explain(city, qgis__imagery=True)
    out, names = city / "out", ("classes.qml", "imagery.qml", "summary.csv")
    for name in names:
        (out / name).write_text(f"my {name}")
    for _ in range(2):
        explain(city, qgis__imagery=True) if command == "run" else finish(out)
    assert sorted(copy.read_text() for copy in out.glob("edited/*")) == [f"my {n}" for n in names]
    assert not any(path.read_text().startswith("my") for path in map(out.joinpath, names))
    assert not verify(out).findings
