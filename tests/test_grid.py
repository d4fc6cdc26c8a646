"""Windows, grids and tiles: whole positions that do not depend on how the work is split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capecam.errors import SettingsError
from capecam.grid import Grid, Tiling, Window

ints = st.integers(-3000, 3000)
sizes = st.integers(1, 2000)
windows = st.builds(Window, ints, ints, sizes, sizes)
tilings = st.sampled_from([Tiling(), Tiling(320, 0), Tiling(64, 14, 10 // 5), Tiling(320, 160)])


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(ValueError, match="window width must be at least 1, got 0"):
        Window(0, 0, 5, 0)


def test_counts_of_tiles() -> None:
    assert Tiling().count(Window(0, 0, 12_500, 12_500)) == 51 * 51
    assert Tiling(320, 0).count(Window(0, 0, 320, 320)) == 1


@given(windows, tilings)
def test_tiles_of_a_core_are_all_that_touch_it(core: Window, tiling: Tiling) -> None:
    rows, cols = tiling.indices(core)
    for k, start, stop in ((rows, core.row, core.bottom), (cols, core.col, core.right)):
        touching = [
            n
            for n in range(k.start - 3, k.stop + 3)
            if n * tiling.step < stop and n * tiling.step + tiling.size > start
        ]
        assert touching == list(k)


@given(windows, st.integers(250, 1500))
def test_parts_cover_the_core_once_and_start_at_tiles(core: Window, cell_size: int) -> None:
    tiling = Tiling()
    count = np.zeros(core.shape, int)
    for _, _, part in tiling.parts(core, cell_size):
        count[part.slices(core)] += 1
        assert max(part.shape) <= cell_size
        assert part.row == core.row or part.row % tiling.step == 0
        assert part.col == core.col or part.col % tiling.step == 0
    assert (count == 1).all()


def test_an_image_of_the_cell_size_is_one_cell_at_any_position() -> None:
    assert len(list(Tiling().parts(Window(-7, 130, 12_500, 12_500), 12_500))) == 1


@given(windows, st.integers(1, 40))
def test_blocks_have_their_first_pixel_inside(window: Window, stride: int) -> None:
    inside = [r for r in range(window.row, window.bottom) if r % stride == 0]
    blocks = window.blocks(stride)
    if blocks is None:
        assert not inside or not any(c % stride == 0 for c in range(window.col, window.right))
    else:
        assert [b * stride for b in range(blocks.row, blocks.bottom)] == inside


def test_blending_weights() -> None:
    weights = Tiling(320, 70).weights()
    assert weights[0] == np.float32(0.5 / 70)
    assert weights[69] == np.float32(69.5 / 70)
    assert weights[70] == weights[249] == 1
    assert np.array_equal(weights, weights[::-1])
    assert len(Tiling(320, 70).weights(10)) == 32
    assert (Tiling(320, 0).weights() == 1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((320, 75), "multiple of 10, got 245; the nearest are 240 and 250"),
        ((325, 70), "multiple of 10, got 325"),
        ((320, 320), "overlap must be from 0 to 319"),
    ],
)
def test_bad_tilings_name_the_nearest_values(arguments: tuple[int, int], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Tiling(*arguments)


def test_map_coordinates_are_the_decimals_that_a_header_holds() -> None:
    grid = Grid("", (0.0, 0.0), (0.08, 0.08), Window(0, 0, 1, 1))
    for km in range(-60, 60):
        assert grid.xy(km * 12_500, -km * 12_500) == (km * 1000.0, km * 1000.0)


def test_coarsening_keeps_the_corner_of_the_first_block() -> None:
    grid = Grid("", (100.0, 200.0), (0.08, 0.08), Window(7, 13, 100, 100)).coarsen(10)
    assert grid is not None
    assert grid.window == Window(1, 2, 10, 10)
    assert (grid.transform.c, grid.transform.f) == (101.6, 199.2)
    assert grid.pixel == (0.8, 0.8)
