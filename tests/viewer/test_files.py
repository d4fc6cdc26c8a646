"""Rasters and outlines are sent whole and in parts."""

from __future__ import annotations

import time
from pathlib import Path

import geopandas as gpd
import pytest
from starlette.testclient import TestClient

PATHS = {
    "/run/0/cells/west/gradcam.tif": "cells/west/gradcam.tif",
    "/run/0/classes.overview.tif": "classes.overview.tif",
}


@pytest.mark.parametrize("path", PATHS)
def test_parts_of_a_raster_are_those_of_the_file(client: TestClient, out: Path, path: str) -> None:
    content = (out / PATHS[path]).read_bytes()
    whole = client.get(path)
    assert (whole.content, whole.headers["content-type"]) == (content, "image/tiff")
    assert whole.headers["accept-ranges"] == "bytes"
    size = len(content)
    for asked, part in {
        "bytes=0-0": slice(0, 1), f"bytes={size - 1}-": slice(size - 1, None),
        "bytes=100-299": slice(100, 300), "bytes=-7": slice(-7, None),
        f"bytes=5-{size + 10}": slice(5, None),
    }.items():  # fmt: skip
        answer = client.get(path, headers={"Range": asked})
        assert (answer.status_code, answer.content) == (206, content[part])
        assert answer.headers["content-range"].endswith(f"/{size}")
        assert answer.headers["etag"] == whole.headers["etag"]
    beyond = client.get(path, headers={"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    changed = {"Range": "bytes=0-9", "If-Range": '"another"'}
    assert client.get(path, headers=changed).content == content


def test_outlines_are_those_of_the_run(client: TestClient, out: Path, tmp_path: Path) -> None:
    while (answer := client.get("/run/0/detections.fgb")).status_code == 503:
        assert answer.headers["retry-after"] == "1"
        time.sleep(0.05)
    (tmp_path / "found.fgb").write_bytes(answer.content)
    found = gpd.read_file(tmp_path / "found.fgb").set_index("id").sort_index()
    made = gpd.read_parquet(out / "detections.parquet").set_index("id").sort_index()
    assert list(found.index) == list(made.index)
    assert found.crs == made.crs
    assert (found.geometry.to_numpy() == made.geometry.to_numpy()).all()
    assert found["rank"].tolist() == made["review"].tolist()
    for name in ("class_id", "class", "confidence", "area_m2", "evidence", "own_drop"):
        assert found[name].tolist() == made[name].tolist(), name
    assert found["p_right"].isna().all()
    west, _, east, _ = made.total_bounds
    near = gpd.read_file(tmp_path / "found.fgb", bbox=(west, -1e9, (west + east) / 2, 1e9))
    assert 0 < len(near) < len(found)
    part = client.get("/run/0/detections.fgb", headers={"Range": "bytes=0-7"})
    assert (part.status_code, part.content[:3]) == (206, b"fgb")
