"""Pictures show the pixels that the network sees, where they are."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from conftest import HOLE, SHAPE
from PIL import Image
from starlette.testclient import TestClient
from support.cities import blobs

from capecam.viewer.imagery import TILE_PX, FileCache
from capecam.viewer.served_runs import ServedRuns

NEAR = 12
"""Mean difference of levels that WebP makes of noise."""


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"), float)


@pytest.mark.parametrize("z", [0, 1, 2, 3])
def test_tiles_are_means_of_the_pixels(client: TestClient, z: int) -> None:
    valid = np.ones(SHAPE, bool)
    valid[HOLE] = False
    size = TILE_PX << z
    rows, cols = (-(-length // size) for length in (640, 1280))
    whole = np.zeros((rows * size, cols * size, 4))
    whole[: SHAPE[0], : SHAPE[1], :3] = np.where(valid, blobs(*SHAPE, seed=5), 0).transpose(1, 2, 0)
    whole[: SHAPE[0], : SHAPE[1], 3] = valid
    parts = whole.reshape(rows * TILE_PX, 1 << z, cols * TILE_PX, 1 << z, 4).sum(axis=(1, 3))
    share = parts[..., 3:] / (1 << 2 * z)
    expected = np.dstack([parts[..., :3] / np.maximum(parts[..., 3:], 1), 255 * share])
    for row in range(rows):
        for col in range(cols):
            answer = client.get(f"/run/0/imagery/{z}/{col}/{row}.webp")
            assert answer.headers["content-type"] == "image/webp"
            assert answer.headers["cache-control"] == "no-cache", "another run has the same address"
            tile = decoded(answer.content)
            wanted = expected[row * TILE_PX :, col * TILE_PX :][:TILE_PX, :TILE_PX]
            if col * size < 960 - size:  # the third image cannot be decoded everywhere
                assert np.abs(tile[..., 3] - wanted[..., 3]).max() <= 1
            seen = (wanted[..., 3] == 255) & (tile[..., 3] == 255)
            if seen.any():
                assert np.abs(tile[seen][:, :3] - wanted[seen][:, :3]).mean() < NEAR


@pytest.mark.parametrize("place", ["4/0/0", "0/5/0", "0/0/3", "3/1/0", "99/0/0", "0/99999999/0"])
def test_beside_the_grid_there_is_no_tile(client: TestClient, place: str) -> None:
    assert client.get(f"/run/0/imagery/{place}.webp").status_code == 404


def test_a_thumbnail_has_its_object_in_the_middle(client: TestClient) -> None:
    rows = client.get("/run/0/queue.json").json()["rows"]
    for id_, class_id, *_ in rows[:5]:
        answer = client.get(f"/run/0/thumbnails/{id_}.jpg")
        assert answer.headers["content-type"] == "image/jpeg"
        picture = decoded(answer.content)
        assert picture.shape == (288, 288, 4)
        middle = picture[130:158, 130:158, :3].mean(axis=(0, 1))
        assert middle.argmax() == class_id - 1, id_


def test_old_tiles_make_room_for_new_ones(tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "tiles", max_bytes=2500)
    for name in "abc":
        cache.put(name, bytes(1000))
        assert cache.get("a") is not None
    assert [cache.get(name) is None for name in "abc"] == [False, True, False]
    assert sum(path.stat().st_size for path in (tmp_path / "tiles").iterdir()) == 2000


def test_a_server_leaves_nothing_behind(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was killed leaves its files until the next one starts."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / "capecam-view-killed"
    left.mkdir()
    (left / ".lock").touch()
    (tmp_path / "capecam-view-notes").mkdir()
    before = sorted(out.rglob("*"))
    with ServedRuns.open([out]) as city, ServedRuns.open([out]):
        assert city.runs[0].imagery.tile(0, 0, 0)
        assert len([*tmp_path.iterdir()]) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["capecam-view-notes"]
    assert sorted(out.rglob("*")) == before
