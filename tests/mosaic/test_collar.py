"""Unmarked collars are found completely, and nothing else. Truth: the pixels painted."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
from rasterio.transform import Affine
from scipy import ndimage
from support.cities import CORNER, GSD, blobs, write_tif

from capecam.errors import ImageError
from capecam.grid import Tiling, Window
from capecam.mosaic import collar_cache
from capecam.mosaic.city import open_city
from capecam.mosaic.collar_mask import GROWTH_PX, RIM_PX, find_collar
from capecam.mosaic.reader import Reader
from capecam.settings import ImagerySettings, MosaicSettings

AUTO = ImagerySettings(collar="auto")
JPEG = {"compress": "jpeg", "photometric": "ycbcr", "blockxsize": 256, "blockysize": 256}


def scene(height: int, width: int) -> np.ndarray:
    """Return (3, H, W) with texture and sharp edges, never as dark or bright as a collar."""
    return np.clip(blobs(height, width), 45, 215)


def rotated(height: int, width: int, degrees: float) -> np.ndarray:
    """Return (H, W) bool: True outside a rotated rectangle that touches all sides."""
    rows, cols = np.mgrid[:height, :width] + 0.5
    a = np.radians(degrees)
    x, y = cols - width / 2, rows - height / 2
    k = 1 / (np.cos(a) + np.sin(a))
    along, across = x * np.cos(a) + y * np.sin(a), y * np.cos(a) - x * np.sin(a)
    return (abs(along) > width / 2 * k) | (abs(across) > height / 2 * k)


def cut(height: int, width: int) -> np.ndarray:
    """Return (H, W) bool: True along two sides, as irregular as the edge of a flight."""
    wave = np.cumsum(np.random.default_rng(1).normal(0, 0.5, max(height, width)))
    rows, cols = np.mgrid[:height, :width]
    return (rows < 50 + wave[None, :width]) | (cols > width - 70 + wave[:height, None])


def band(height: int, width: int) -> np.ndarray:
    """Return (H, W) bool: True in 37 columns."""
    return np.broadcast_to(np.arange(width) < 37, (height, width))


SHAPES = {
    "by 2": lambda h, w: rotated(h, w, 2),
    "by 30": lambda h, w: rotated(h, w, 30),
    "cut": cut,
    "band": band,
}


def validity(path: Path) -> np.ndarray:
    mosaic = open_city([str(path)], None, imagery=AUTO).mosaic
    with Reader(mosaic) as reader:
        return reader.read(mosaic.grid.window)[1]


@pytest.mark.parametrize("fill", [0, 255])
@pytest.mark.parametrize("quality", [None, 75])
@pytest.mark.parametrize("shape", SHAPES)
def test_all_of_a_collar_is_found_and_little_else(tmp_path, shape, quality, fill) -> None:
    truth = SHAPES[shape](340, 500)
    pixels = np.where(truth, fill, scene(340, 500)).astype(np.uint8)
    options = {} if quality is None else {**JPEG, "jpeg_quality": quality}
    found = ~validity(write_tif(tmp_path / "a.tif", pixels, **options))
    rim = truth ^ ndimage.binary_erosion(truth, border_value=1)
    assert (truth & ~found).sum() <= 0.03 * rim.sum()
    assert (~truth & found).sum() <= 2 * rim.sum()
    far = ndimage.distance_transform_cdt(~truth, "chessboard") > RIM_PX + 1
    assert (found & far).sum() <= 0.01 * rim.sum()


@pytest.mark.parametrize("fill", [0, 255])
def test_roofs_and_shadows_stay(tmp_path: Path, fill: int) -> None:
    pixels = scene(600, 800)
    collar = rotated(600, 800, 10)
    pixels[:, 280:330, 380:440] = fill  # inside, as black as the collar
    pixels[:, 300:340, -40:] = fill  # at the image's edge
    pixels[:, 250:300, :60] = abs(fill - 30)  # a dark roof that touches edge and collar
    assert validity(write_tif(tmp_path / "none.tif", pixels)).all()
    pixels[:, collar] = fill
    valid = validity(write_tif(tmp_path / "some.tif", pixels))
    near = ndimage.binary_dilation(collar, np.ones((3, 3)), iterations=RIM_PX)
    assert np.array_equal(valid, ~near)


def test_a_shadow_that_touches_the_collar_loses_a_rim_at_most(tmp_path: Path) -> None:
    pixels = scene(400, 400)
    pixels[:, :, :60] = 0
    pixels[:, 100:200, 60:160] = 10  # nearly black: as JPEG's ringing may be
    valid = validity(write_tif(tmp_path / "a.tif", pixels))
    assert valid[100:200, 60 + GROWTH_PX + RIM_PX :].all()
    assert valid[210:, 61:].all()


def test_a_line_thinner_than_a_block_is_found(tmp_path: Path) -> None:
    pixels = scene(300, 400)
    pixels[:, :, -3:] = 0
    pixels[:, :2] = 0
    valid = validity(write_tif(tmp_path / "a.tif", pixels))
    expected = np.ones((300, 400), bool)
    expected[:, -4:] = expected[:3] = False
    assert np.array_equal(valid, expected)


def test_it_adds_to_what_a_file_marks(tmp_path: Path) -> None:
    pixels, mask = scene(300, 400), np.ones((300, 400), bool)
    pixels[:, :, :50] = 0
    mask[200:] = False
    valid = validity(write_tif(tmp_path / "a.tif", pixels, mask=mask))
    assert np.array_equal(valid, (np.arange(300) < 200)[:, None] & (np.arange(400) > 50))


def test_sixteen_bits_have_exact_collars(tmp_path: Path) -> None:
    pixels = scene(300, 400).astype(np.uint16) * 16
    pixels[:, :, :50] = 0
    pixels[:, :, 51:60] = 1
    write_tif(tmp_path / "a.tif", pixels)
    imagery = ImagerySettings(collar="auto", scale="0,4095")
    mosaic = open_city([str(tmp_path)], None, imagery=imagery).mosaic
    with Reader(mosaic) as reader:
        valid = reader.read(mosaic.grid.window)[1]
    assert np.array_equal(valid, np.broadcast_to(np.arange(400) > 50, (300, 400)))


@pytest.mark.parametrize("warped", [False, True])
def test_it_does_not_depend_on_what_is_read(tmp_path: Path, warped: bool) -> None:
    height, width = 1100, 1300  # over two strips and parts
    pixels = np.where(rotated(height, width, 5), 0, scene(height, width)).astype(np.uint8)
    a = np.radians(-5 if warped else 0)
    t = Affine(GSD * np.cos(a), GSD * np.sin(a), CORNER[0], GSD * np.sin(a), -GSD * np.cos(a), 0)
    write_tif(tmp_path / "a.tif", pixels, transform=t, **JPEG)
    mosaic = open_city([str(tmp_path)], None, MosaicSettings(align="warp"), AUTO).mosaic
    with Reader(mosaic) as reader:
        whole, valid = reader.read(mosaic.grid.window)
    assert 0.7 < valid.mean() < 0.9
    assert (whole.max(axis=0)[valid] < 20).mean() < 1e-4, "no black is mixed in"
    again = pickle.loads(pickle.dumps(mosaic))
    for _, _, part in Tiling(237, 0, 1).parts(mosaic.grid.window, 474):
        with Reader(again) as reader:
            found, part_valid = reader.read(part)
        slices = part.slices(mosaic.grid.window)
        assert np.array_equal(part_valid, valid[slices])
        assert np.array_equal(found, whole[:, *slices])


def test_it_is_looked_for_once_by_all_threads(tmp_path: Path, monkeypatch) -> None:
    pixels = scene(300, 400)
    pixels[:, :, :50] = 0
    write_tif(tmp_path / "a.tif", pixels)
    write_tif(tmp_path / "b.tif", pixels, 400)
    mosaic = open_city([str(tmp_path)], None, imagery=AUTO).mosaic
    calls = []
    monkeypatch.setattr(
        collar_cache, "find_collar", lambda *args: calls.append(1) or find_collar(*args)
    )

    def read() -> None:
        with Reader(mosaic) as reader:
            reader.read(mosaic.grid.window)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    read()
    assert len(calls) == 2


def test_a_damaged_image_fails_alone_and_once(tmp_path: Path, monkeypatch) -> None:
    noise = np.random.default_rng(0).integers(20, 255, (3, 600, 600)).astype(np.uint8)
    path = write_tif(tmp_path / "a.tif", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    write_tif(tmp_path / "b.tif", noise, 600)
    mosaic = open_city([str(tmp_path)], None, imagery=AUTO).mosaic
    calls = []
    monkeypatch.setattr(
        collar_cache, "find_collar", lambda *args: calls.append(1) or find_collar(*args)
    )
    unreadable: dict[str, str] = {}
    with Reader(mosaic, "b", unreadable) as reader:
        for _ in range(3):
            _, valid = reader.read(Window(0, 0, 600, 1200))
    assert valid[:, 600:].all()
    assert not valid[:, :600].any()
    assert "its collar cannot be found" in unreadable["a"]
    assert len(calls) == 2
    with pytest.raises(ImageError, match=r"a\.tif: cannot be decoded"), Reader(mosaic) as reader:
        reader.read(Window(0, 0, 600, 1200))


def test_the_lowest_of_signed_numbers_is_not_black() -> None:
    pixels = np.full((3, 128, 128), -32768, np.int16)
    image = Window(0, 0, 128, 128)
    assert find_collar(lambda w: pixels[:, *w.slices(image)], 128, 128) is None
    pixels[:] = 0
    assert find_collar(lambda w: pixels[:, *w.slices(image)], 128, 128) is not None
