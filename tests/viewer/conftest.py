"""A small run, and a server of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient
from support.cities import blobs, colours_model, quick_settings, write_tif

from capecam.run.supervisor import run
from capecam.viewer.app import make_app
from capecam.viewer.security import Access
from capecam.viewer.served_runs import ServedRuns

ORIGIN = "http://127.0.0.1:8321"
WRITES = {"Origin": ORIGIN, "X-Capecam": "1"}
"""Headers of the page's own requests that write."""

SHAPE = 640, 960
HOLE = np.s_[100:200, 230:300]
"""Pixels without imagery, in the western image, which is 640 px wide."""


def make_city(folder: Path, **options: object) -> Path:
    """Two images side by side, one with a hole, and a third that cannot be decoded."""
    whole, valid = blobs(*SHAPE, seed=5), np.ones(SHAPE, bool)
    valid[HOLE] = False
    west = np.where(valid, whole, 0)[:, :, :640]
    write_tif(folder / "in/west.tif", west, mask=valid[:, :640])
    write_tif(folder / "in/east.tif", whole[:, :, 640:], 640)
    broken = write_tif(folder / "in/broken #1.tif", blobs(320, 320), 960)
    content = broken.read_bytes()
    half = len(content) // 2
    broken.write_bytes(content[:half] + b"\xff" * (len(content) - half))
    given = {"explain__methods": ["gradcam", "guided_gradcam"], **options}
    return run(quick_settings(folder, **given), model=colours_model()).out


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of a run; not to be written into."""
    return make_city(tmp_path_factory.mktemp("viewed"))


@pytest.fixture(scope="session")
def served(out: Path) -> Iterator[ServedRuns]:
    with ServedRuns.open([out]) as city:
        yield city


@pytest.fixture
def client(served: ServedRuns) -> TestClient:
    return client_of(served)


def client_of(city: ServedRuns, access: Access | None = None) -> TestClient:
    access = access or Access.of("127.0.0.1", 8321)
    return TestClient(make_app(city, access), base_url=ORIGIN)
