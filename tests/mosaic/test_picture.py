"""The small picture of a mosaic has the means of its blocks, and costs no more than it may."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from rasterio.enums import Resampling
from support.cities import blobs, write_tif

from capecam.grid import Window
from capecam.io.block_sums import BlockSums
from capecam.mosaic.city import open_city
from capecam.mosaic.mosaic import Mosaic
from capecam.mosaic.picture import OPENING_PX, draw_picture

SIZE = 512


def truth(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Return the means over whole blocks of (3, H, W), (h, w, 3)."""
    _, height, width = pixels.shape
    blocks = pixels.reshape(3, height // factor, factor, width // factor, factor)
    return blocks.mean(axis=(2, 4)).transpose(1, 2, 0)


def city(folder: Path, *, overviews: bool = False) -> tuple[Mosaic, np.ndarray]:
    """Return a mosaic of two images side by side and an empty corner, and its pixels."""
    whole = blobs(SIZE, 2 * SIZE, seed=2)
    whole[:, SIZE // 2 :, SIZE:] = 0
    paths = [
        write_tif(folder / "a.tif", whole[:, :, :SIZE]),
        write_tif(folder / "b.tif", whole[:, : SIZE // 2, SIZE:], SIZE),
    ]
    for path in paths if overviews else ():
        with rasterio.open(path, "r+") as dataset:
            dataset.build_overviews([2, 4, 8], Resampling.average)
    return open_city([str(folder)], None).mosaic, whole


@pytest.mark.parametrize("overviews", [False, True])
def test_a_picture_is_the_mean_of_its_blocks(tmp_path: Path, overviews: bool) -> None:
    mosaic, whole = city(tmp_path, overviews=overviews)
    drawn = draw_picture(mosaic, mosaic.grid.window, 2 * SIZE // 16)
    assert drawn is not None
    window, picture = drawn
    assert window == mosaic.grid.window
    assert picture.shape == (SIZE // 16, 2 * SIZE // 16, 4)
    there = picture[..., 3] == 255
    assert there[:, :32].all()
    assert there[:16, 32:].all()
    assert not there[16:, 32:].any()
    expected = np.where(there[..., None], truth(whole, 16), 0)
    assert np.abs(picture[..., :3] - expected).max() <= (1.5 if overviews else 0.51)


def test_more_than_the_budget_is_not_decoded(tmp_path: Path) -> None:
    mosaic, _ = city(tmp_path)
    pixels = SIZE * SIZE * 3 // 2 + 2 * OPENING_PX
    assert draw_picture(mosaic, mosaic.grid.window, 64, pixels) is not None
    assert draw_picture(mosaic, mosaic.grid.window, 64, pixels - 1) is None


def test_overviews_cost_less(tmp_path: Path) -> None:
    mosaic, _ = city(tmp_path, overviews=True)
    budget = SIZE * SIZE * 3 // 2 // 64 + 4 * OPENING_PX
    assert draw_picture(mosaic, mosaic.grid.window, 2 * SIZE // 16, budget) is not None
    assert draw_picture(mosaic, mosaic.grid.window, 2 * SIZE // 4, budget) is None, "too coarse"


def test_an_image_that_cannot_be_decoded_is_left_out(tmp_path: Path) -> None:
    mosaic, whole = city(tmp_path)
    content = (tmp_path / "b.tif").read_bytes()
    (tmp_path / "b.tif").write_bytes(content[:3000] + bytes(len(content) - 3000))
    drawn = draw_picture(mosaic, mosaic.grid.window, 64)
    assert drawn is not None
    assert np.abs(drawn[1][:, :32, :3] - truth(whole, 16)[:, :32]).max() <= 0.51


@given(
    st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.integers(-9, 9),
    st.integers(-9, 9), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_every_sample_counts_once(
    height: int, width: int, longest: int, row: int, col: int, seed: int
) -> None:
    """In the block of its centre, if that is inside; cut into parts in any way."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (1, height, width)).astype(np.uint8)
    valid = rng.random((height, width)) < 0.7
    window = Window(0, 0, 20, 30)
    whole, parts = BlockSums(window, longest, 1), BlockSums(window, longest, 1)
    whole.add(values, valid, (row, col))
    cut = int(rng.integers(0, height + 1))
    parts.add(values[:, :cut], valid[:cut], (row, col))
    parts.add(values[:, cut:], valid[cut:], (row + cut, col))
    expected, count = np.zeros(whole.count.shape), np.zeros(whole.count.shape)
    for r in range(height):
        for c in range(width):
            if valid[r, c] and 0 <= row + r < 20 and 0 <= col + c < 30:
                at = (row + r) // whole.factor, (col + c) // whole.factor
                expected[at] += values[0, r, c]
                count[at] += 1
    for sums in (whole, parts):
        assert np.array_equal(sums.sums[0], expected)
        assert np.array_equal(sums.count, count)
