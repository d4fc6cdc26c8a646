"""What a reviewer says is in the review file when the answer comes, once, whatever happens."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import geopandas as gpd
import pyogrio
import pytest
import shapely
from conftest import WRITES, client_of
from starlette.testclient import TestClient
from support.cities import CORNER, CRS
from support.outputs import write_output
from support.qgis_editing import editing_in_qgis
from support.reviews import sql

from capecam.analysis.review.review_file import ReviewFile
from capecam.io.geopackage_rows import from_blob, to_blob
from capecam.store.file_names import MISSED, VERDICTS
from capecam.viewer.served_runs import ServedRuns

COUNT = 60


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A drawn output; the file of verdicts does not exist yet."""
    write_output(tmp_path, COUNT)
    return tmp_path


@contextmanager
def served(out: Path) -> Iterator[TestClient]:
    with ServedRuns.open([out]) as city:
        yield client_of(city)


def post(client: TestClient, what: str, code: int = 200, **body: object) -> dict[str, Any]:
    answer = client.post(f"/run/0/{what}", json=body, headers=WRITES)
    assert answer.status_code == code, answer.text
    return answer.json()


def ids(client: TestClient) -> list[tuple[str, int]]:
    return [(row[0], row[1]) for row in client.get("/run/0/queue.json").json()["rows"]]


def review_of(out: Path) -> Any:
    with ServedRuns.open([out]) as city:
        return ReviewFile.of(city.runs[0].run).read()


NAMES = ["background", "solar panel", "water heater", "pool heater"]


def test_verdicts_are_rows_that_the_strict_reader_takes(out: Path) -> None:
    made = gpd.read_parquet(out / "detections.parquet").set_index("id")
    with served(out) as client:
        assert client.get("/run/0/review").json() == {"verdicts": [], "missed": []}
        (a, of_a), (b, of_b), (c, _), *_ = ids(client)
        assert not (out / "review.gpkg").exists()
        other = NAMES[1 + of_b % 3]
        first = post(client, "verdicts", id=a, verdict="right", true_class=NAMES[of_a], note="")
        assert first["row"] == 1
        assert (first["id"], first["class"], first["true_class"]) == (a, NAMES[of_a], "")
        post(client, "verdicts", id=b, verdict="wrong", true_class=other, note="  it's a 'roof'  ")
        post(client, "verdicts", id=c, verdict="unsure", note="shade")
        told = client.get("/run/0/review").json()["verdicts"]
    assert told[0] == first
    assert [(row["id"], row["verdict"]) for row in told] == [
        (a, "right"),
        (b, "wrong"),
        (c, "unsure"),
    ]
    review = review_of(out)
    rows = review.verdicts
    assert rows["id"].tolist() == [a, b, c]
    assert rows["verdict"].tolist() == ["right", "wrong", ""]
    assert len(review.looked_at) == 2
    assert rows["true_class"].tolist() == ["", other, ""]
    assert rows["note"].tolist() == ["", "it's a 'roof'", "shade"]
    assert rows["model"].tolist() == ["FPN 000000000000"] * 3
    assert set(rows["run"]) == {f"{out.name} 2026-11-24T20:00:00+02:00"}
    assert all(rows["reviewer"])
    assert rows["checked_at"].is_monotonic_increasing
    for shape, id_ in zip(rows.geometry, rows["id"], strict=True):
        assert shape.equals(made.geometry[id_])
    near = gpd.read_file(out / "review.gpkg", layer=VERDICTS, bbox=made.geometry[b].bounds)
    assert b in near["id"].tolist()  # the spatial index has it
    bounds = pyogrio.read_info(out / "review.gpkg", layer=VERDICTS)["total_bounds"]
    assert bounds == pytest.approx(made.loc[[a, b, c]].total_bounds)


@pytest.mark.parametrize(
    "body",
    [
        {"id": "1_2_3", "verdict": "right"}, {"verdict": "right"}, {"verdict": "maybe"},
        {"verdict": "right", "true_class": "other"}, {"verdict": "unsure", "true_class": "other"},
        {"verdict": "wrong", "true_class": "same"}, {"verdict": "wrong", "true_class": "roof"},
        {"verdict": "right", "note": "x" * 3000}, {"verdict": 1}, {"id": ["a"]},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(out: Path, body: dict[str, Any]) -> None:
    with served(out) as client:
        id_, class_id = ids(client)[0]
        names = {"same": NAMES[class_id], "other": NAMES[1 + class_id % 3]}
        if body != {"verdict": "right"}:
            body = {"id": id_, **body}
        if "true_class" in body:
            body = {**body, "true_class": names.get(body["true_class"], "roof")}
        answer = client.post("/run/0/verdicts", json=body, headers=WRITES)
        assert answer.status_code in (400, 409)
        assert answer.json()["error"]
    assert not (out / "review.gpkg").exists()


def test_missed_objects_are_outlines_or_points(out: Path) -> None:
    x, y = CORNER[0] + 20, CORNER[1] - 20
    square = shapely.box(x, y, x + 2, y + 3)
    outline = json.loads(shapely.to_geojson(square))
    point = {"type": "Point", "coordinates": [x - 5, y]}
    with served(out) as client:
        first = post(client, "missed", geometry=outline, note="new", **{"class": "pool heater"})
        assert (first["row"], first["m2"], first["geometry"]["type"]) == (1, None, "Polygon")
        post(client, "missed", geometry=point, m2=4, **{"class": "solar panel"})
        told = client.get("/run/0/review").json()["missed"]
        assert [row["geometry"]["type"] for row in told] == ["MultiPolygon", "Point"]
        assert [row["m2"] for row in told] == [None, 4.0]
        for wrong in (
            {"geometry": point}, {"geometry": point, "m2": 0}, {"geometry": {"type": "Point"}},
            {"geometry": {"type": "LineString", "coordinates": [[x, y], [x, y + 1]]}},
            {"geometry": {"type": "Point", "coordinates": [0, 0]}, "m2": 1},
            {"geometry": {"type": "Polygon", "coordinates": [
                [[x, y], [x + 1, y + 1], [x + 1, y], [x, y + 1], [x, y]]]}},
        ):  # fmt: skip
            assert "error" in post(client, "missed", 409, **wrong, **{"class": "solar panel"})
        assert "error" in post(client, "missed", 409, geometry=outline, **{"class": "roof"})
        assert "error" in post(client, "missed", 400, geometry="here", **{"class": "pool heater"})
    review = review_of(out)
    assert review.missed["class"].tolist() == ["pool heater", "solar panel"]
    assert review.missed.geometry[0].equals(shapely.MultiPolygon([square]))
    assert review.missed.geometry[1].equals(shapely.Point(x - 5, y))


def test_undo_takes_back_what_this_server_has_added(out: Path) -> None:
    with served(out) as client:
        (a, _), (b, _), *_ = ids(client)
        post(client, "verdicts", id=a, verdict="right")
    with served(out) as client:
        for refused in ({"layer": VERDICTS, "row": 1}, {"layer": "x", "row": 2}, {}):
            assert "since the server started" in post(client, "undo", 409, **refused)["error"]
        for verdict in ("right", "wrong", "unsure"):
            post(client, "verdicts", id=b, verdict=verdict)
        wanted = {"layer": VERDICTS, "row": 3}
        assert post(client, "undo", **wanted) == wanted, "though somebody has added another since"
        assert "error" in post(client, "undo", 409, **wanted)
        told = client.get("/run/0/review").json()["verdicts"]
        assert [row["verdict"] for row in told] == ["right", "right", "unsure"]
        sql(out / "review.gpkg", "UPDATE verdicts SET checked_at = 'x' WHERE fid = 4")
        assert "it stays" in post(client, "undo", 409, layer=VERDICTS, row=4)["error"]
    assert review_of(out).verdicts["id"].tolist() == [a, b, b]


@pytest.mark.parametrize("user", ["ann", ""])
def test_a_repeated_request_is_one_verdict(
    out: Path, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capecam.viewer.verdicts._user", lambda: user)
    with served(out) as client:
        (a, _), *_ = ids(client)
        first = post(client, "verdicts", id=a, verdict="right", note="n")
        assert post(client, "verdicts", id=a, verdict="right", note="n") == first
    with served(out) as client:  # one that did not see the first
        assert post(client, "verdicts", id=a, verdict="right", note="n") == first
        changed = [post(client, "verdicts", id=a, verdict=v)["row"] for v in ("wrong", "right")]
        assert changed == [2, 3]
        sql(out / "review.gpkg", "UPDATE verdicts SET checked_at = '2026-01-01T10:00:00'")
        assert post(client, "verdicts", id=a, verdict="right")["row"] == 4
        assert post(client, "undo", layer=VERDICTS, row=4)["row"] == 4


def test_a_file_of_another_version_gets_the_columns_that_it_lacks(out: Path) -> None:
    """In degrees, without a layer, with columns and rules of somebody's own."""
    table = gpd.GeoDataFrame(
        {"id": ["1_2_3"], "class": ["solar panel"], "verdict": ["Right"], "mine": [7],
         "checked_at": ["2999-01-01"]},
        geometry=[shapely.box(*CORNER, CORNER[0] + 2, CORNER[1] + 2)], crs=CRS,
    ).to_crs("EPSG:4326")  # fmt: skip
    table.to_file(out / "review.gpkg", layer=VERDICTS, driver="GPKG")
    with served(out) as client:
        id_, _ = ids(client)[0]
        row = post(client, "verdicts", id=id_, verdict="wrong")
        told = client.get("/run/0/review").json()["verdicts"]
    assert told[0] == row
    assert (told[1]["verdict"], told[1]["note"]) == ("right", ""), "the latest is last"
    review = review_of(out)
    assert review.verdicts["verdict"].tolist() == ["right", "wrong"]
    made = gpd.read_parquet(out / "detections.parquet").set_index("id").geometry[id_]
    assert review.verdicts.geometry[1].hausdorff_distance(made) < 1e-3
    assert pyogrio.read_dataframe(out / "review.gpkg", layer=VERDICTS)["mine"].tolist()[0] == 7
    assert {MISSED, "sample"} <= {name for name, _ in pyogrio.list_layers(out / "review.gpkg")}


def test_a_file_that_is_something_else_is_left_alone(out: Path) -> None:
    (out / "review.gpkg").write_text("my notes")
    with served(out) as client:
        told = client.get("/city.json").json()["runs"][0]["verdicts_problem"]
        assert "review.gpkg" in told
        assert "error" in post(client, "verdicts", 409, id=ids(client)[0][0], verdict="right")
        assert client.get("/run/0/review").status_code == 409
    assert (out / "review.gpkg").read_text() == "my notes"


@pytest.mark.parametrize("shape", [shapely.Point(1, 2), shapely.box(0, 1, 2, 3), shapely.Polygon()])
def test_geometries_are_stored_as_gdal_reads_them(shape: shapely.Geometry, tmp_path: Path) -> None:
    gpd.GeoDataFrame(geometry=[shape], crs=CRS).to_file(tmp_path / "a.gpkg", layer="a")
    ((blob, srs),) = sql(tmp_path / "a.gpkg", "SELECT geom, srs_id FROM a, gpkg_geometry_columns")
    assert from_blob(blob).equals(shape)
    if not shape.is_empty:
        assert from_blob(to_blob(shape, srs)).equals(shape)
        if shape.geom_type != "Point":  # whose envelope GDAL leaves out
            assert to_blob(shape, srs) == blob


EDITOR = """
import sqlite3, sys, time
path, how = sys.argv[1:]
if how == "gdal":
    import geopandas as gpd, shapely
    rows = gpd.GeoDataFrame({"id": ["theirs"], "class": ["solar panel"], "verdict": ["right"]},
        geometry=[shapely.box(-51000, -3763002, -50998, -3763000)], crs="ESRI:102562")
    for n in range(10):
        rows.to_file(path, layer="verdicts", driver="GPKG", mode="a", engine="pyogrio")
    sys.exit()
sys.path.insert(0, "tests")
database = sqlite3.connect(path, isolation_level=None, timeout=20)
database.execute("PRAGMA journal_mode = WAL")  # as QGIS does while a layer is edited
database.create_function("ST_IsEmpty", 1, lambda blob: 1)
for name in ("ST_MinX", "ST_MaxX", "ST_MinY", "ST_MaxY"):
    database.create_function(name, 1, lambda blob: 0.0)
reader = sqlite3.connect(path, isolation_level=None)
reader.execute("BEGIN")
reader.execute("SELECT count(*) FROM verdicts").fetchall()
print("editing", flush=True)
for n in range(10):
    database.execute("BEGIN IMMEDIATE")
    database.execute(
        "INSERT INTO verdicts (id, class, verdict) VALUES ('theirs', 'solar panel', 'right')")
    time.sleep(0.05)
    database.execute("COMMIT")
    time.sleep(0.02)
"""


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["wal", "gdal"])
def test_another_program_edits_the_file_at_the_same_time(out: Path, how: str) -> None:
    with served(out) as client:
        wanted = [id_ for id_, _ in ids(client)][:25]
        post(client, "verdicts", id=wanted[0], verdict="right")
        editor = subprocess.Popen(
            [sys.executable, "-c", EDITOR, str(out / "review.gpkg"), how], stdout=subprocess.PIPE
        )
        with editor:
            if how == "wal":
                assert editor.stdout
                assert editor.stdout.readline() == b"editing\n"
            for id_ in wanted[1:]:
                post(client, "verdicts", id=id_, verdict="right")
                assert client.get("/run/0/review").status_code == 200
        assert editor.returncode == 0
        told = [row["id"] for row in client.get("/run/0/review").json()["verdicts"]]
    assert [id_ for id_ in told if id_ != "theirs"] == wanted
    assert told.count("theirs") == 10
    ((count,),) = sql(
        out / "review.gpkg",
        "SELECT feature_count FROM gpkg_ogr_contents WHERE table_name = 'verdicts'",
    )
    assert count in (None, len(told))  # with None, GDAL counts
    assert len(pyogrio.read_dataframe(out / "review.gpkg", layer=VERDICTS)) == len(told)
    assert sql(out / "review.gpkg", "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.thorough
def test_a_file_that_another_program_keeps_locked(out: Path) -> None:
    with served(out) as client:
        (a, _), (b, _), *_ = ids(client)
        post(client, "verdicts", id=a, verdict="right")
        lock = "import sqlite3, sys, time; d = sqlite3.connect(sys.argv[1], isolation_level=None); "
        lock += "d.execute('BEGIN EXCLUSIVE'); print(1, flush=True); time.sleep(9)"
        command = [sys.executable, "-c", lock, str(out / "review.gpkg")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
            assert holder.stdout
            holder.stdout.readline()
            assert (
                "another program" in post(client, "verdicts", 503, id=b, verdict="right")["error"]
            )
            holder.kill()
        post(client, "verdicts", id=b, verdict="right")
    assert review_of(out).verdicts["id"].tolist() == [a, b]


@pytest.mark.thorough
def test_no_verdict_is_lost_or_doubled_when_the_server_is_killed(out: Path) -> None:
    """100 verdicts by one who repeats what was not answered; SIGKILL ten times meanwhile."""
    with ServedRuns.open([out]) as opened:
        wanted = [row[0] for row in opened.runs[0].queue.page(0, COUNT)["rows"]]
    verdicts = [(id_, word) for word in ("right", "wrong") for id_ in wanted][:100]
    rng, kills = random.Random(1), 10
    command = [sys.executable, "-c", "from capecam.cli import main; main()", "view", str(out)]
    answered = 0
    while answered < len(verdicts):
        options = ["--no-browser", "--port", "0"]
        with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout
            origin = server.stdout.readline().strip().rstrip("/")
            if kills:
                kills -= 1
                upto = answered + len(verdicts) // 11
                timer = threading.Timer(0, server.kill)
            else:
                upto, timer = len(verdicts), None
            while answered < len(verdicts):
                if timer is not None and answered >= upto and not timer.is_alive():
                    timer = threading.Timer(rng.uniform(0, 0.03), server.kill)
                    timer.start()
                id_, word = verdicts[answered]
                request = urllib.request.Request(
                    f"{origin}/run/0/verdicts", json.dumps({"id": id_, "verdict": word}).encode(),
                    {"Origin": origin, "X-Capecam": "1", "Content-Type": "application/json"},
                )  # fmt: skip
                try:
                    with urllib.request.urlopen(request, timeout=30) as answer:
                        assert answer.status == 200
                except (urllib.error.URLError, ConnectionError):
                    break
                answered += 1
            server.kill()
    assert kills == 0
    rows = review_of(out).verdicts
    assert list(zip(rows["id"], rows["verdict"], strict=True)) == verdicts
    with closing(sqlite3.connect(out / "review.gpkg")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.qgis
@pytest.mark.thorough
def test_real_qgis_edits_the_same_file_meanwhile(out: Path) -> None:
    with served(out) as client:
        first, second, *more = [id_ for id_, class_id in ids(client) if class_id != 3][:6]
        for id_ in (first, second):
            post(client, "verdicts", id=id_, verdict="unsure")
        with editing_in_qgis(out / "review.gpkg") as qgis:
            post(client, "verdicts", id=more[0], verdict="right")
            qgis.save()
            post(client, "verdicts", id=more[1], verdict="wrong")
        post(client, "verdicts", id=more[2], verdict="right")
        shown = client.get("/run/0/review").json()["verdicts"]
    told = {row["id"]: (row["verdict"], row["true_class"]) for row in shown}
    assert len(shown) == len(told) == 5
    assert told == {
        first: ("wrong", "pool heater"), second: ("right", ""), more[0]: ("right", ""),
        more[1]: ("wrong", ""), more[2]: ("right", ""),
    }  # fmt: skip
    assert len(review_of(out).verdicts) == 5
