"""Images that are turned, and validity under the warper. Oracle: numpy on the pixels drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from rasterio.enums import ColorInterp
from support.cities import CORNER, GSD, write_tif

from capecam.grid import Window
from capecam.mosaic.city import City, open_city
from capecam.mosaic.reader import Reader
from capecam.settings import ImagerySettings, MosaicSettings, ValueRange

RGBA = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
X, Y = CORNER[0] + 100 * GSD, CORNER[1] - 10 * GSD
H, W = 40, 60

TURNS = {
    "south-up": (Affine(GSD, 0, X, 0, GSD, Y - H * GSD), lambda a: a[..., ::-1, :]),
    "mirrored": (Affine(-GSD, 0, X + W * GSD, 0, -GSD, Y), lambda a: a[..., ::-1]),
    "by 180": (Affine(-GSD, 0, X + W * GSD, 0, GSD, Y - H * GSD), lambda a: a[..., ::-1, ::-1]),
    "by 90": (Affine(0, -GSD, X + H * GSD, -GSD, 0, Y), lambda a: np.rot90(a, -1, (-2, -1))),
    "by 270": (Affine(0, GSD, X, GSD, 0, Y - W * GSD), lambda a: np.rot90(a, 1, (-2, -1))),
    "swapped": (Affine(0, GSD, X, -GSD, 0, Y), lambda a: np.swapaxes(a, -1, -2)),
}
"""Transform of a file of 40 x 60 px, and what its pixels look like north-up."""


def warped(folder: Path, pixels: np.ndarray, transform: Affine, **profile) -> City:
    """A north-up image that makes the grid, and one that is not."""
    write_tif(folder / "grid.tif", np.full((3, 50, 50), 9, np.uint8))
    write_tif(folder / "a.tif", pixels, transform=transform, **profile)
    scale = ValueRange(low=0, high=255)
    return open_city(
        [str(folder)], None, MosaicSettings(align="warp"), ImagerySettings(scale=scale)
    )


def stored(city: City, part: Window | None = None) -> tuple[np.ndarray, np.ndarray]:
    (source,) = (s for s in city.mosaic.sources if s.name == "a")
    with Reader(city.mosaic) as reader:
        return reader.stored(source, part or source.window)


def drawn(dtype: str) -> np.ndarray:
    return np.random.default_rng(1).integers(1, 200, (3, H, W)).astype(dtype)


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf, "nodata", "mask", "alpha"])
def test_a_turned_image_is_exact(tmp_path: Path, turn: str, hole: float | str) -> None:
    transform, north_up = TURNS[turn]
    pixels, valid, profile = drawn("float32"), np.ones((H, W), bool), {}
    valid[7, 11], valid[20:25, 50:] = False, False
    if isinstance(hole, float):
        pixels[1, ~valid] = hole
    elif hole == "nodata":
        pixels[:, ~valid] = profile["nodata"] = -9999
    elif hole == "mask":
        profile["mask"] = valid
    else:
        pixels, profile["colorinterp"] = np.concatenate([pixels, valid[None]]), RGBA
    city = warped(tmp_path, pixels, transform, **profile)
    values, found = stored(city)
    assert np.array_equal(found, north_up(valid))
    expected = north_up(pixels[:3])
    assert np.array_equal(np.where(found, values, 0), np.where(found, expected, 0))
    window = next(s.window for s in city.mosaic.sources if s.name == "a")
    part = Window(window.row + 3, window.col + 5, 20, 30)
    assert np.array_equal(stored(city, part)[1], north_up(valid)[3:23, 5:35])


def test_a_damaged_turned_image_loses_only_its_blocks(tmp_path: Path) -> None:
    """The blocks that cannot be decoded are nodata for the neighbours, at the right place."""
    pixels = np.random.default_rng(2).integers(1, 255, (3, 64, 96)).astype(np.uint8)
    place = Affine(-GSD, 0, X + 96 * GSD, 0, GSD, Y - 64 * GSD)
    city = warped(tmp_path, pixels, place, blockxsize=32, blockysize=32)
    path = tmp_path / "a.tif"
    data = bytearray(path.read_bytes())
    data[-400:-200] = bytes(200)  # in the last of six tiles
    path.write_bytes(data)
    (source,) = (s for s in city.mosaic.sources if s.name == "a")
    with Reader(city.mosaic, "grid") as reader:
        values, valid = reader.read(source.window)
    expected = np.ones((64, 96), bool)
    expected[:32, :32] = False  # turned by 180 degrees
    assert "a" in reader.unreadable
    assert np.array_equal(valid, expected)
    assert np.array_equal(values[:, valid], pixels[:, ::-1, ::-1][:, valid])


ROTATED = Affine.translation(X, Y) @ Affine.rotation(20) @ Affine.scale(GSD, -GSD)
OPAQUE = [
    ("uint8", 1), ("uint8", 100), ("uint16", 1), ("uint16", 255), ("uint16", 65535), ("int16", 1),
    ("int16", 255), ("uint32", 1), ("float32", 0.25), ("float32", 1), ("float32", 255),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "opaque"), OPAQUE)
def test_any_alpha_above_zero_is_imagery_under_warp(
    tmp_path: Path, dtype: str, opaque: float
) -> None:
    pixels, valid = drawn(dtype), np.ones((H, W), bool)
    valid[10:20, 30:] = False
    alpha = np.where(valid, opaque, 0).astype(dtype)[None]
    city = warped(tmp_path / "a", np.concatenate([pixels, alpha]), ROTATED, colorinterp=RGBA)
    masked = warped(tmp_path / "m", pixels, ROTATED, mask=valid)
    (values, found), (expected, by_mask) = stored(city), stored(masked)
    assert np.count_nonzero(found) == pytest.approx(np.count_nonzero(valid), rel=0.01)
    assert np.array_equal(found, by_mask)
    assert np.array_equal(np.where(found, values, 0), np.where(found, expected, 0))


@pytest.mark.parametrize("hole", [np.nan, np.inf])
@pytest.mark.parametrize("nodata", [None, -9999])
def test_a_value_that_is_not_finite_stays_alone_under_warp(
    tmp_path: Path, hole: float, nodata: float | None
) -> None:
    pixels = drawn("float32")
    pixels[0, 15, 25] = hole  # in one band only
    valid = np.isfinite(pixels).all(axis=0)
    city = warped(tmp_path / "a", pixels, ROTATED, nodata=nodata)
    masked = warped(tmp_path / "m", np.nan_to_num(pixels, posinf=0), ROTATED, mask=valid)
    (values, found), (_, by_mask) = stored(city), stored(masked)
    assert np.array_equal(found, by_mask)
    assert np.isfinite(values[:, found]).all()
