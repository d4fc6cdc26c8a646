"""Pages of the review queue, and numbers of detections by place."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from conftest import client_of
from support.outputs import write_output
from support.tracing import LO19

from capecam.grid import Window
from capecam.viewer.outlines import MAX_SQUARES, MIN_SQUARE_PX, square_px
from capecam.viewer.served_runs import ServedRuns

COUNT = 2_500
CELLS = Window(-3000, 500, 2500, 2500), Window(-500, 3000, 2500, 2500)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("drawn")
    write_output(out, COUNT, cells=CELLS)
    return out


def test_pages_follow_each_other_in_the_order_of_the_queue(drawn: Path) -> None:
    made = gpd.read_parquet(drawn / "detections.parquet").sort_values("review")
    with ServedRuns.open([drawn]) as city:
        client = client_of(city)

        def page(query: str) -> dict:
            return client.get(f"/run/0/queue.json?{query}").json()

        pages = [page(f"offset={start}&limit=1000") for start in (0, 1000, 2000, 3000)]
        rows = [row for each in pages for row in each["rows"]]
        assert [len(each["rows"]) for each in pages] == [1000, 1000, 500, 0]
        assert {each["total"] for each in pages} == {COUNT}
        assert [row[0] for row in rows] == made["id"].tolist()
        assert len(page("")["rows"]) == 100
        assert len(page("limit=100000")["rows"]) == 1000

        columns = dict(zip(pages[0]["columns"], zip(*rows, strict=True), strict=True))
        for name in ("class_id", "confidence", "area_m2", "evidence"):
            assert list(columns[name]) == made[name].tolist()
        assert set(columns["p_right"]) == {None}
        bounds = np.stack([columns[name] for name in ("west", "south", "east", "north")], axis=1)
        assert (bounds == made.bounds.to_numpy()).all()
        centres = shapely.get_coordinates(made.centroid.to_numpy())
        assert (np.stack([columns["x"], columns["y"]], axis=1) == centres).all()

        second = page("class=2&offset=10&limit=5")
        of_class = made[made["class_id"] == 2]
        assert second["total"] == len(of_class)
        assert [row[0] for row in second["rows"]] == of_class["id"].tolist()[10:15]
        assert page("class=9") == {**page("class=9"), "total": 0, "rows": []}
        for wrong in ("offset=-1", "limit=x", "class=1e3", "offset=" + "9" * 40):
            assert client.get(f"/run/0/queue.json?{wrong}").status_code == 400

        row = rows[1234]
        assert client.get(f"/run/0/find?id={row[0]}").json() == dict(
            zip(pages[0]["columns"], row, strict=True)
        )
        missing = client.get("/run/0/find?id=nothing")
        assert (missing.status_code, set(missing.json())) == (404, {"error"})


def test_every_detection_is_counted_in_its_square(drawn: Path) -> None:
    made = gpd.read_parquet(drawn / "detections.parquet")
    with ServedRuns.open([drawn]) as city:
        city.runs[0].prepared.path("counts.json", 60)
        told = client_of(city).get("/run/0/counts.json").json()
    size = told["pixels"]
    assert size == MIN_SQUARE_PX
    expected: dict[str, dict[tuple[int, int], int]] = {}
    for class_id, point in zip(made["class_id"], made.centroid, strict=True):
        col = (point.x - LO19.anchor[0]) / 0.08 - 500
        row = (LO19.anchor[1] - point.y) / 0.08 + 3000
        # Objects at the edge of the city may have their centre beside it.
        square = min(max(int(row // size), 0), 9), min(max(int(col // size), 0), 9)
        of_class = expected.setdefault(str(class_id), {})
        of_class[square] = of_class.get(square, 0) + 1
    found = {
        class_id: {(row, col): n for row, col, n in rows}
        for class_id, rows in told["counts"].items()
    }
    assert found == expected


@pytest.mark.parametrize("length", [1, 512, 256 * 512, 256 * 512 + 1, 840_000])
def test_squares_are_few_and_not_small(length: int) -> None:
    size = square_px(LO19.crop(Window(0, 0, 10, length)))
    assert length <= size * MAX_SQUARES
    assert size == MIN_SQUARE_PX or length > size // 2 * MAX_SQUARES


def test_a_run_without_detections(tmp_path: Path) -> None:
    write_output(tmp_path, 0)
    with ServedRuns.open([tmp_path]) as city:
        client = client_of(city)
        assert client.get("/run/0/queue.json").json()["total"] == 0
        city.runs[0].prepared.path("detections.fgb", 60)
        assert client.get("/run/0/counts.json").json()["counts"] == {}
        assert client.get("/run/0/detections.fgb").content[:3] == b"fgb"
        assert client.get("/run/0/thumbnails/1_2_3.jpg").status_code == 404
