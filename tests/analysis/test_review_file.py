"""The review file: what people write into it stays, and is read strictly."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pyproj
import pytest
import shapely
from support.qgis_editing import editing_in_qgis
from support.reviews import sql

from capecam.analysis.review.review_file import ReviewFile
from capecam.errors import OutputError, UsageError
from capecam.io.geopackage_editing import edited_geopackage
from capecam.settings import CAPE_TOWN_CLASSES

CRS = pyproj.CRS("ESRI:102562")
X, Y = -51_000.0, -3_763_000.0


def square(n: int, side: float = 4.0) -> shapely.Polygon:
    """The n-th of a row of squares, 10 m apart."""
    return shapely.box(X + 10 * n, Y, X + 10 * n + side, Y + side)


def rows(count: int, start: int = 0, **columns: object) -> gpd.GeoDataFrame:
    ids = [f"1_{n}_0" for n in range(start, start + count)]
    values = {"id": ids, "class": "solar panel", **columns}
    shapes = [square(n) for n in range(start, start + count)]
    return gpd.GeoDataFrame(values, geometry=shapes, crs=CRS)


@pytest.fixture
def file(tmp_path: Path) -> ReviewFile:
    review = ReviewFile(tmp_path / "review.gpkg", CRS, CAPE_TOWN_CLASSES)
    review.add({"verdicts": rows(3)})
    return review


def content(path: Path) -> dict[str, list[tuple]]:
    """All tables but those of the format, as they are stored."""
    names = [n for (n,) in sql(path, "SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {
        name: sql(path, f'SELECT * FROM "{name}"')
        for name in names if not name.startswith(("gpkg_", "rtree_", "sqlite_"))
    }  # fmt: skip


def test_a_new_file_has_all_layers_and_is_read_back(file) -> None:
    types = dict(pyogrio.list_layers(file.path).tolist())
    assert types == {
        "verdicts": "MultiPolygon", "missed": "MultiPolygon", "sample": "Polygon",
        "sample_design": None, "layer_styles": None,
    }  # fmt: skip
    assert sql(file.path, "PRAGMA user_version") == [(10200,)]  # GeoPackage 1.2
    review = file.read()
    assert review.verdicts["id"].tolist() == ["1_0_0", "1_1_0", "1_2_0"]
    assert review.verdicts["row"].tolist() == [1, 2, 3]
    assert review.verdicts["class_id"].tolist() == [1, 1, 1]
    assert [len(t) for t in (review.looked_at, review.missed, review.sample, review.design)] == [
        0, 0, 0, 0,
    ]  # fmt: skip
    assert review.verdicts.crs == CRS
    assert review.verdicts.geometry[1].equals(shapely.MultiPolygon([square(1)]))


def test_what_people_wrote_is_read(file) -> None:
    sql(
        file.path,
        "UPDATE verdicts SET verdict = ' Right ', true_m2 = 12.5 WHERE fid = 1",
        "UPDATE verdicts SET verdict = 'wrong', true_class = 'water heater' WHERE fid = 2",
    )
    review = file.read()
    assert review.looked_at["verdict"].tolist() == ["right", "wrong"]
    assert review.looked_at["true_class_id"].tolist() == [0, 2]
    assert review.verdicts["true_m2"].fillna(0).tolist() == [12.5, 0, 0]


@pytest.mark.parametrize("count", [0, 2])
def test_no_row_is_left_out_whatever_the_file_says_is_their_number(file, count: int) -> None:
    """QGIS writes the number that it knows of, also if another program has added rows meanwhile."""
    with closing(sqlite3.connect(file.path)) as database, database:
        database.execute("UPDATE gpkg_ogr_contents SET feature_count = ?", [count])
    assert len(file.read().verdicts) == 3


def test_who_is_unsure_has_not_decided(file) -> None:
    file.add({"sample": gpd.GeoDataFrame(
        {"block": ["b1", "b2"], "probability": 0.1, "checked": True},
        geometry=[square(0), square(1)], crs=CRS,
    )})  # fmt: skip
    sql(
        file.path,
        "UPDATE verdicts SET verdict = 'Unsure ', note = 'shade', block = 'b1' WHERE fid = 1",
        "UPDATE verdicts SET verdict = 'right', block = 'b2' WHERE fid = 2",
    )
    review = file.read()
    assert review.verdicts["verdict"].tolist() == ["", "right", ""]
    assert review.verdicts["note"][0] == "shade"
    assert review.looked_at["row"].tolist() == [2]
    assert review.done_blocks() == ["b2"]


def test_a_missed_object_may_be_a_point_with_its_area(tmp_path) -> None:
    """In a layer of any geometry, as geopandas and QGIS make them."""
    path = tmp_path / "mine.gpkg"
    missed = gpd.GeoDataFrame(
        {"class": ["pool heater", "solar panel"], "m2": [6.0, np.nan]},
        geometry=[shapely.Point(X, Y), square(9)], crs=CRS,
    )  # fmt: skip
    missed.to_crs("EPSG:4326").to_file(path, layer="missed")
    file = ReviewFile(path, CRS, CAPE_TOWN_CLASSES)
    found = file.read().missed
    assert found["class_id"].tolist() == [3, 1]
    assert found.geometry[0].distance(shapely.Point(X, Y)) < 1e-3
    assert found.geometry[1].symmetric_difference(square(9)).area < 1e-3
    sql(path, "UPDATE missed SET m2 = NULL")
    with pytest.raises(UsageError, match=r"missed, row 1 .*: a point needs its area in m2; fill"):
        file.read()


def test_a_block_is_done_when_all_in_it_is_looked_at(file) -> None:
    blocks = gpd.GeoDataFrame(
        {
            "block": ["a", "b", "c"], "probability": [0.5, 0.1, 1.0],
            "checked": [True, True, False], "frame": [7, 8, 9],
        },
        geometry=[square(n, 8) for n in range(3)], crs=CRS,
    )  # fmt: skip
    in_blocks = rows(2, 3, block=["a", "b"], verdict=["right", None])
    design = pd.DataFrame({"draw": ["x"], "population": [12], "share": [0.5]})
    file.add({"sample": blocks, "verdicts": in_blocks, "sample_design": design})
    review = file.read()
    assert review.done_blocks() == ["a"]
    assert review.sample["frame"].tolist() == [7, 8, 9]
    assert review.design.to_dict("list") == {"draw": ["x"], "population": [12], "share": [0.5]}
    sql(file.path, "UPDATE verdicts SET verdict = 'wrong'")
    assert file.read().done_blocks() == ["a", "b"]


def test_adding_changes_nothing_that_people_wrote(file) -> None:
    """Ten times over, on a file with columns, layers, styles and tables of their own."""
    sql(
        file.path,
        "UPDATE verdicts SET verdict = 'right', note = 'Ödland ☀' WHERE fid = 2",
        "ALTER TABLE verdicts ADD COLUMN inspector TEXT DEFAULT 'Nomsa'",
        "CREATE TABLE qgis_projects (name TEXT, content BLOB)",
        "INSERT INTO qgis_projects VALUES ('mine', x'00ff')",
        "CREATE VIEW only_right AS SELECT * FROM verdicts WHERE verdict = 'right'",
        "UPDATE layer_styles SET styleQML = 'mine' WHERE f_table_name = 'verdicts'",
        "DELETE FROM verdicts WHERE fid = 1",
    )
    streets = gpd.GeoDataFrame({"name": ["Long"]}, geometry=[square(5)], crs="EPSG:4326")
    streets.to_file(file.path, layer="streets")
    file.path.chmod(0o664)
    before = content(file.path)
    for n in range(10):
        file.add({"verdicts": rows(1, 10 + n)})
    after = content(file.path)
    assert after["verdicts"][:2] == before["verdicts"]
    assert [row[2] for row in after["verdicts"][2:]] == [f"1_{10 + n}_0" for n in range(10)]
    assert {**after, "verdicts": []} == {**before, "verdicts": []}
    assert sql(file.path, "SELECT count(*) FROM only_right") == [(1,)]
    assert file.path.stat().st_mode & 0o777 == 0o664
    assert len(file.read().verdicts) == 12
    assert [p.name for p in file.path.parent.iterdir()] == ["review.gpkg"]
    assert pyogrio.read_info(file.path, layer="verdicts")["features"] == 12


def test_rows_go_into_a_layer_of_another_crs_and_with_fewer_columns(tmp_path) -> None:
    """A layer that a person made in degrees, of single polygons, with a few columns."""
    path = tmp_path / "mine.gpkg"
    mine = rows(1, verdict=["wrong"]).to_crs("EPSG:4326")[["class", "verdict", "geometry"]]
    mine.to_file(path, layer="verdicts")
    file = ReviewFile(path, CRS, CAPE_TOWN_CLASSES)
    assert file.read().verdicts["id"].tolist() == [""]
    file.add({"verdicts": rows(2, 1, true_m2=[3.0, None])})
    assert pyogrio.read_info(path, layer="verdicts")["crs"] == "EPSG:4326"
    review = file.read()
    assert review.verdicts["id"].tolist() == ["", "1_1_0", "1_2_0"]
    assert review.verdicts["true_m2"].fillna(0).tolist() == [0, 3, 0]
    for n, shape in enumerate(review.verdicts.geometry):
        assert shape.symmetric_difference(square(n)).area < 1e-3


def test_a_file_is_added_to_wholly_or_not_at_all(file) -> None:
    before = file.path.read_bytes()
    with suppress(KeyboardInterrupt), edited_geopackage(file.path) as copy:
        sql(copy, "DELETE FROM verdicts")
        raise KeyboardInterrupt
    assert file.path.read_bytes() == before
    assert [p.name for p in file.path.parent.iterdir()] == ["review.gpkg"]
    with pytest.raises(OutputError, match="layer nothing cannot take rows"):
        file.add({"verdicts": rows(1, 7), "nothing": rows(1)})
    assert file.path.read_bytes() == before


KILL = """
import os, signal, sys
from pathlib import Path
from capecam.io import geopackage_editing
from capecam.io.geopackage_editing import edited_geopackage
with edited_geopackage(Path(sys.argv[1])) as copy:
    import sqlite3
    database = sqlite3.connect(copy)
    database.execute("PRAGMA journal_mode = " + sys.argv[2])
    database.execute("DELETE FROM verdicts")
    if sys.argv[3] == "commit":
        database.commit()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("when", ["commit", "write"])
def test_a_kill_between_writing_and_replacing_leaves_the_file(file, mode, when) -> None:
    before = file.path.read_bytes()
    command = [sys.executable, "-c", KILL, file.path, mode, when]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert file.path.read_bytes() == before
    file.add({"verdicts": rows(1, 5)})  # whatever the killed one has left beside it
    assert len(file.read().verdicts) == 4
    assert [p.name for p in file.path.parent.iterdir()] == ["review.gpkg"]


ADD_FOR_EVER = """
import sys
from pathlib import Path
from itertools import count
from analysis.test_review_file import CAPE_TOWN_CLASSES, CRS, ReviewFile, rows
file = ReviewFile(Path(sys.argv[1]), CRS, CAPE_TOWN_CLASSES)
for n in count(int(sys.argv[2])):
    file.add({"verdicts": rows(1, n)})
    print(n, flush=True)
"""


@pytest.mark.thorough
def test_ten_kills_at_any_moment_lose_nothing_that_was_added(file) -> None:
    sql(file.path, "UPDATE verdicts SET verdict = 'right'")
    rng, added = random.Random(0), {0, 1, 2}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for kill in range(10):
        command = [sys.executable, "-c", ADD_FOR_EVER, file.path, str(100 * (kill + 1))]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment
        ) as process:
            said = [int(process.stdout.readline())]
            time.sleep(rng.uniform(0, 0.3))
            process.kill()
            added |= {*said, *map(int, process.stdout.read().split())}
        found = file.read()
        numbers = {int(id_.split("_")[1]) for id_ in found.verdicts["id"]}
        assert numbers >= added  # one more if it was killed between replacing and saying so
        assert len(numbers - added) <= 1
        added = numbers
        assert len(found.looked_at) == 3
    assert sql(file.path, "PRAGMA integrity_check") == [("ok",)]
    file.add({"verdicts": rows(1, 9)})
    assert [p.name for p in file.path.parent.iterdir()] == ["review.gpkg"]


def test_a_file_that_is_open_elsewhere_is_not_replaced(file) -> None:
    """In the mode of QGIS, with an edit that is still in the log; then QGIS crashes."""
    script = (
        "import os, sqlite3, sys\n"
        "database = sqlite3.connect(sys.argv[1])\n"
        "for name in ('IsEmpty', 'MinX', 'MaxX', 'MinY', 'MaxY'):\n"
        "    database.create_function(f'ST_{name}', 1, lambda blob: 0)\n"
        "database.execute('PRAGMA journal_mode = WAL')\n"
        "database.execute(\"UPDATE verdicts SET verdict = 'right'\")\n"
        "database.commit()\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()\n"
        "os._exit(1)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, file.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as qgis:
        assert qgis.stdout.readline() == b"open\n"
        assert len(file.read().looked_at) == 3  # reading is always possible
        with pytest.raises(OutputError, match=r"is open in another program .*; save and end"):
            file.add({"verdicts": rows(1, 5)})
        assert not list(file.path.parent.glob(".*"))
        qgis.communicate()
    assert Path(f"{file.path}-wal").exists()
    file.add({"verdicts": rows(1, 5)})
    assert not Path(f"{file.path}-wal").exists()
    assert len(file.read().looked_at) == 3
    assert len(file.read().verdicts) == 4


def test_two_commands_at_once_lose_nothing(tmp_path) -> None:
    """Neither while the file is made, nor while it is replaced."""
    file = ReviewFile(tmp_path / "review.gpkg", CRS, CAPE_TOWN_CLASSES)

    def add(start: int) -> None:
        for n in range(3):
            file.add({"verdicts": rows(1, start + n)})

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(add, (10, 20)))
    assert sorted(file.read().verdicts["id"]) == [f"1_{n}_0" for n in (10, 11, 12, 20, 21, 22)]
    assert [p.name for p in tmp_path.iterdir()] == ["review.gpkg"]


def test_a_folder_that_is_read_only_is_named(tmp_path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = ReviewFile(folder / "review.gpkg", CRS, CAPE_TOWN_CLASSES)
        user = os.geteuid()
        folder.chmod(0o555)
        try:
            if user == 0:
                os.seteuid(65_534)
            with pytest.raises(PermissionError):
                file.add({"verdicts": rows(1)})
        finally:
            os.seteuid(user)


def test_a_link_keeps_leading_to_the_file(file, tmp_path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shutil.move(file.path, shared / "team.gpkg")
    file.path.symlink_to(shared / "team.gpkg")
    file.add({"verdicts": rows(1, 5)})
    assert file.path.is_symlink()
    assert len(pyogrio.read_dataframe(shared / "team.gpkg", layer="verdicts")) == 4


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE verdicts SET verdict = 'maybe' WHERE fid > 1",
         r"verdicts, row 2, 3 \('maybe'\): verdict must be right, wrong, unsure or empty"),
        ("UPDATE verdicts SET verdict = 'right', class = 'solar pannel'",
         "row 1, 2, 3 .*unknown class; there is solar panel"),
        ("UPDATE verdicts SET class = 'background'", "unknown class; there is solar panel, water"),
        ("UPDATE verdicts SET verdict = 'right', class = NULL", "fill in class"),
        ("UPDATE verdicts SET true_class = 'pool heater'", "has a true_class and no verdict"),
        ("UPDATE verdicts SET verdict = 'unsure', true_class = 'pool heater'",
         "has a true_class and no verdict"),
        ("UPDATE verdicts SET verdict = 'wrong', true_class = class", "is wrong, but true_class"),
        ("UPDATE verdicts SET verdict = 'right', true_class = 'pool heater'",
         "is right, but true_class is another class; write wrong"),
        ("UPDATE verdicts SET true_m2 = 'twelve'", "true_m2 must be a number above 0"),
        ("UPDATE verdicts SET true_m2 = -1", "true_m2 must be a number above 0"),
        ("UPDATE verdicts SET true_m2 = 9e999", "true_m2 must be a number above 0"),
        ("UPDATE verdicts SET block = 'b7'", r"\('b7'\): is no block of the layer sample"),
        ("ALTER TABLE verdicts RENAME COLUMN verdict TO opinion",
         "layer verdicts has no column verdict, only id, class, opinion"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_named(file, statement, message) -> None:
    sql(file.path, statement)
    with pytest.raises(UsageError, match=message):
        file.read()


def test_numbers_and_dates_where_texts_belong(file, tmp_path) -> None:
    """As other tools type the columns, with NULLs among them."""
    path = tmp_path / "typed.gpkg"
    typed = rows(
        3, verdict=["wrong", None, "right"], true_m2=["12.5", " ", None], block=[1.0, None, 2.0],
        checked_at=pd.to_datetime(["2026-03-01T10:00", None, None]), note=[1, 2, 3],
    )  # fmt: skip
    blocks = gpd.GeoDataFrame(
        {"block": [1, 2], "probability": ["0.5", "1"], "checked": [1, 0]},
        geometry=[square(0), square(1)], crs=CRS,
    )  # fmt: skip
    typed.to_file(path, layer="verdicts")
    blocks.to_file(path, layer="sample")
    review = ReviewFile(path, CRS, CAPE_TOWN_CLASSES).read()
    assert review.verdicts["block"].tolist() == ["1", "", "2"]
    assert review.verdicts["true_m2"].fillna(0).tolist() == [12.5, 0, 0]
    assert review.verdicts["checked_at"].tolist() == ["2026-03-01T10:00:00", "", ""]
    assert review.verdicts["note"].tolist() == ["1", "2", "3"]
    assert review.done_blocks() == ["1"]


def test_rows_without_an_outline_are_left_out_and_said(file, caplog) -> None:
    sql(file.path, "UPDATE verdicts SET geom = NULL WHERE fid = 2")
    assert file.read().verdicts["row"].tolist() == [1, 3]
    assert "1 feature(s) have no area, left out" in caplog.text


def test_a_sample_must_say_how_likely_each_block_was(file) -> None:
    blocks = gpd.GeoDataFrame(
        {"block": ["a", "a"], "probability": [0.5, 1.5], "checked": [True, False]},
        geometry=[square(0), square(1)], crs=CRS,
    )  # fmt: skip
    file.add({"sample": blocks})
    with pytest.raises(UsageError, match=r"sample, row 2 \('a'\): block must be there, and once"):
        file.read()
    sql(file.path, "UPDATE sample SET block = fid")
    with pytest.raises(UsageError, match=r"row 2 \(1.5\): probability must be in 0..1"):
        file.read()


def hostile(folder: Path) -> dict[str, tuple[Path, str]]:
    names = [
        "none", "text", "empty", "layer", "no crs", "table", "points", "vrt", "degrees", "other",
    ]  # fmt: skip
    paths = {name: folder / f"{name}.gpkg" for name in names}
    paths["text"].write_text("right, wrong")
    paths["empty"].touch()
    rows(2).to_file(paths["layer"], layer="buildings")
    rows(2, verdict="right").set_crs(None, allow_override=True).to_file(
        paths["no crs"], layer="verdicts"
    )
    pyogrio.write_dataframe(
        pd.DataFrame({"class": ["solar panel"], "verdict": ["right"]}), paths["table"],
        layer="verdicts",
    )  # fmt: skip
    points = rows(2, verdict="right")
    points.set_geometry(points.centroid).to_file(paths["points"], layer="verdicts")
    paths["vrt"].write_text('<OGRVRTDataSource><OGRVRTLayer name="verdicts"/></OGRVRTDataSource>')
    gpd.read_file(paths["layer"]).to_file(paths["degrees"].with_suffix(".geojson"))
    shutil.move(paths["degrees"].with_suffix(".geojson"), paths["degrees"])
    with closing(sqlite3.connect(paths["other"])) as database:
        database.execute("CREATE TABLE verdicts (a)")
    return {
        "none": (paths["none"], "there is no such file"),
        "text": (paths["text"], "cannot be read as a vector layer"),
        "empty": (paths["empty"], "is empty; copy it again"),
        "layer": (paths["layer"], "has none of the layers verdicts, missed and sample, only build"),
        "no crs": (paths["no crs"], "has no coordinate reference system"),
        "table": (paths["table"], "is a table without geometry; polygons are needed"),
        "points": (paths["points"], "holds points and no polygons"),
        "vrt": (paths["vrt"], "refused, because it is a VRT"),
        "degrees": (paths["degrees"], "is no GeoPackage; convert it with ogr2ogr"),
        "other": (paths["other"], "cannot be read as a GeoPackage"),
    }


@pytest.mark.filterwarnings("ignore:'crs' was not provided:UserWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    "name",
    ["none", "text", "empty", "layer", "no crs", "table", "points", "vrt", "degrees", "other"],
)
def test_other_files_are_refused(name, tmp_path) -> None:
    path, message = hostile(tmp_path)[name]
    with pytest.raises(UsageError, match=message):
        ReviewFile(path, CRS, CAPE_TOWN_CLASSES).read()


def test_another_tools_layer_is_not_written_into(tmp_path) -> None:
    path = tmp_path / "review.gpkg"
    rows(2).to_file(path, layer="missed")
    rows(2).to_file(path, layer="verdicts")
    before = path.read_bytes()
    with pytest.raises(UsageError, match="layer verdicts has no column verdict"):
        ReviewFile(path, CRS, CAPE_TOWN_CLASSES).add({"verdicts": rows(1)})
    assert path.read_bytes() == before


def test_a_damaged_file_is_not_replaced(file) -> None:
    with file.path.open("r+b") as stream:
        stream.seek(3 * 4096)
        stream.write(os.urandom(8192))
    before = file.path.read_bytes()
    with pytest.raises((OutputError, UsageError), match=r"copy"):
        file.add({"verdicts": rows(1, 5)})
    assert file.path.read_bytes() == before


@pytest.mark.thorough
@pytest.mark.qgis
def test_the_form_of_real_qgis_is_filled_in(file) -> None:
    """While somebody edits, nothing is added; what is added between two edits loses neither."""
    with editing_in_qgis(file.path) as qgis:
        with pytest.raises(OutputError, match="is open in another program"):
            file.add({"verdicts": rows(1, 5)})
        qgis.save()
        file.add({"verdicts": rows(1, 5)})
    file.add({"verdicts": rows(1, 6)})
    filled = file.read().looked_at
    assert filled["id"].tolist() == ["1_0_0", "1_1_0"]
    assert filled["verdict"].tolist() == ["wrong", "right"]
    assert filled["true_class_id"].tolist() == [3, 0]
    assert filled["checked_at"][0][:2] == "20"
    assert filled["reviewer"][0]
    assert file.read().verdicts["id"].tolist() == ["1_0_0", "1_1_0", "1_2_0", "1_5_0", "1_6_0"]
