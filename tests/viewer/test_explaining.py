"""A click is answered by the run's own network, in a process that stays."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
from conftest import WRITES, client_of
from PIL import Image
from starlette.testclient import TestClient
from support.commands import workers_of

from capecam.detections.object_columns import OBJECT_COLUMNS
from capecam.errors import StoppedError
from capecam.viewer.explaining import MAX_WAITING
from capecam.viewer.served_runs import ServedRuns

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def network(city: Path) -> Iterator[ServedRuns]:
    """The run of the suite, whose checkpoint is a file."""
    with ServedRuns.open([city / "out"]) as opened:
        yield opened


def explain(client: TestClient, code: int = 200, **body: object) -> dict[str, Any]:
    answer = client.post("/run/0/explain", json=body, headers=WRITES)
    assert answer.status_code == code, answer.text
    return answer.json()


def picture(client: TestClient, url: str) -> np.ndarray:
    answer = client.get(f"/{url}")
    assert answer.headers["content-type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def test_an_explanation_is_that_of_the_run(network: ServedRuns, city: Path) -> None:
    client = client_of(network)
    assert client.get("/city.json").json()["runs"][0]["explain_problem"] == ""
    made = gpd.read_parquet(city / "out/detections.parquet")
    known = made[made["alone"].notna()].set_index("id")
    assert len(known) >= 3
    for id_, row in list(known.iterrows())[:3]:
        told = explain(client, id=id_)
        assert (told["id"], told["class"], told["evidence"]) == (id_, row["class"], row["evidence"])
        for name in OBJECT_COLUMNS:
            value = told["numbers"][name]
            assert (
                value is None
                if np.isnan(row[name])
                else value == pytest.approx(row[name], abs=2e-4)
            )
        assert shapely.from_geojson(str(told["outline"]).replace("'", '"')).equals(row.geometry)
        x, y = row.geometry.representative_point().coords[0]
        assert explain(client, x=x, y=y)["numbers"] == told["numbers"]


def test_overlays_lie_where_the_object_is(network: ServedRuns, city: Path) -> None:
    client = client_of(network)
    row = gpd.read_parquet(city / "out/detections.parquet").sort_values("review").iloc[0]
    own, alone, without = explain(client, id=row["id"])["overlays"]
    west, south, east, north = own["extent"]
    assert own["extent"] == alone["extent"] == without["extent"]
    assert shapely.box(*own["extent"]).covers(row.geometry)
    assert own["legend"]
    size = 64
    assert (east - west, north - south) == pytest.approx((size * 0.08, size * 0.08))
    x, y = (west + 0.08 * (np.arange(size) + 0.5)), (north - 0.08 * (np.arange(size) + 0.5))
    inside = shapely.contains_xy(row.geometry, *np.meshgrid(x, y))
    hidden = picture(client, without["url"])
    assert hidden.shape == (size, size, 4)
    assert (hidden[inside][:, 3] == 255).all()
    assert (hidden[~inside][:, 3] == 0).all()
    kept = picture(client, alone["url"])
    assert (kept[inside][:, 3] == 0).all()
    far = ~shapely.intersects_xy(row.geometry.buffer(1.2), *np.meshgrid(x, y))
    assert far.any()
    assert (np.ptp(kept[far][:, :3].astype(int), axis=1) == 0).all()  # grey
    assert picture(client, own["url"])[..., 3].max() > 0
    assert client.get("/run/0/overlay/0000.png").status_code == 404


def test_a_place_is_asked_about(network: ServedRuns, city: Path) -> None:
    client = client_of(network)
    made = gpd.read_parquet(city / "out/detections.parquet")
    left, bottom, right, top = network.runs[0].run.grid.bounds
    free = shapely.box(left, bottom, right, top).difference(made.union_all())
    x, y = free.representative_point().coords[0]
    told = explain(client, x=x, y=y, class_id=3)
    assert (told["id"], told["class_id"]) == ("place", 3)
    assert shapely.from_geojson(str(told["outline"]).replace("'", '"')).contains(
        shapely.Point(x, y)
    )
    assert explain(client, x=x, y=y)["class_id"] in (1, 2, 3)
    for wrong in ({"x": left - 50, "y": y}, {"id": "1_2_3"}, {"x": x, "y": y, "class_id": 4}, {}):
        assert explain(client, 409, **wrong)["error"]
    assert explain(client, 400, x="here", y=1)["error"]


def test_a_few_wait_and_more_are_refused(network: ServedRuns) -> None:
    client = client_of(network)
    id_ = client.get("/run/0/queue.json?limit=1").json()["rows"][0][0]
    codes: list[int] = []

    def ask() -> None:
        own = client_of(network)
        codes.append(own.post("/run/0/explain", json={"id": id_}, headers=WRITES).status_code)

    threads = [threading.Thread(target=ask) for _ in range(MAX_WAITING + 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(codes) == {200, 503}
    assert codes.count(200) >= 1 + MAX_WAITING
    assert explain(client, id=id_)


def test_a_process_that_dies_is_replaced(network: ServedRuns) -> None:
    client = client_of(network)
    id_ = client.get("/run/0/queue.json?limit=1").json()["rows"][0][0]
    first = explain(client, id=id_)["numbers"]
    pid = workers_of(os.getpid())[-1]
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert explain(client, id=id_)["numbers"] == first


def test_no_process_is_started_after_the_end(city: Path) -> None:
    with ServedRuns.open([city / "out"]) as opened:
        served = opened.runs[0]
        target = served.target(id_=served.queue.page(0, 1)["rows"][0][0])
    before = workers_of(os.getpid())
    with pytest.raises(StoppedError, match="has ended"):
        opened.explainer.explain(target)
    assert workers_of(os.getpid()) == before
