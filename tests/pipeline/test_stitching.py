"""Cut a truth raster to tiles, stitch them, and compare with the truth raster."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from capecam.attribution.maps import Maps
from capecam.grid import Cell, Tiling, Window
from capecam.io.cog import NODATA
from capecam.io.heat_layer import HeatLayer
from capecam.pipeline.stitching import Stitcher, StitchPlan, Strip, neighbours, to_levels
from capecam.pipeline.tiles import Batch

TILING = Tiling(64, 14, 2)
"""Step 50. Small, so that sizes around every boundary are quick."""
CPU = torch.device("cpu")
FLOOR = {"guided_gradcam": [0.01] * 3}
"""Of the square of a level of 25.4."""
SIZES = [1, 9, 49, 50, 51, 63, 64, 65, 113, 114, 115, 149, 150, 151]


def stitched(truth: np.ndarray, origin: tuple[int, int], tiling: Tiling):
    """Cut (3, H, W) levels to tiles as probabilities and maps; stitch; collect rows."""
    core = Window(*origin, *truth.shape[1:])
    reach = tiling.window_read(core)
    padded = np.zeros((3, *reach.shape), np.float32)
    valid = np.zeros(reach.shape, bool)
    slices = core.slices(reach)
    padded[:, *slices], valid[slices] = truth / 254, True
    tops = {"gradcam": [1.0] * 3, "guided_gradcam": [1.0] * 3}
    plan = StitchPlan(tiling, list(tops), 3, tops, False, floor=FLOOR)
    stitcher = Stitcher(plan, Cell("a", "a", core), CPU)
    collected: dict[str, list[np.ndarray]] = {}
    row_counts = []
    tile_rows, tile_cols = tiling.indices(core)

    def collect(rows) -> None:
        row_counts.append((rows.row, rows.products["classes"].shape[1]))
        for name, values in rows.arrays().items():
            collected.setdefault(name, []).append(values)

    for i in tile_rows:
        for j in tile_cols:
            window = tiling.window(i, j)
            tile = torch.from_numpy(padded[:, *window.slices(reach)])[None]
            seen = torch.from_numpy(valid[window.slices(reach)])[None]
            if not seen.any():
                continue
            background = 1 - tile.sum(dim=1, keepdim=True)
            blocks = tile[..., :: tiling.stride, :: tiling.stride]
            maps = Maps(
                torch.cat([background, tile], dim=1),
                {"gradcam": blocks, "guided_gradcam": tile**2},  # stored by its root
                torch.ones(1, 3, dtype=torch.bool),
                torch.tensor(0),
            )
            batch = Batch((window,), (tile * 255).to(torch.uint8), seen)
            for rows in stitcher.add(batch, maps):
                collect(rows)
    for rows in stitcher.finish():
        collect(rows)
    return {name: np.concatenate(parts, axis=1) for name, parts in collected.items()}, row_counts


@pytest.mark.parametrize("origin", [(0, 0), (-37, 1013)])
@pytest.mark.parametrize("height", SIZES)
@pytest.mark.parametrize("width", [1, 50, 64, 151])
def test_the_truth_comes_back(height: int, width: int, origin: tuple[int, int]) -> None:
    rng = np.random.default_rng(height * 1000 + width)
    truth = rng.integers(0, 84, (3, height, width))
    found, row_counts = stitched(truth, origin, TILING)
    assert np.array_equal(found["probability"], truth)
    assert np.array_equal(found["guided_gradcam"], np.where(truth > 25.4, truth, 0))
    background = 254 - truth.sum(axis=0)
    shares = np.concatenate([background[None], truth])
    second, first = np.sort(shares, axis=0)[-2:]
    clear = first > second  # a tie in whole levels is decided by rounding
    assert clear.mean() > 0.9 or clear.size < 100
    assert np.array_equal(found["classes"][0][clear], shares.argmax(axis=0)[clear])
    starts = [start for start, _ in row_counts]
    assert starts == [origin[0] + n for n in np.cumsum([0, *(n for _, n in row_counts[:-1])])]
    assert sum(n for _, n in row_counts) == height


def test_blocks_are_those_whose_corner_is_in_the_core() -> None:
    truth = np.tile(np.arange(100) // 2 % 80, (3, 33, 1))
    found, _ = stitched(truth, (11, 20), TILING)
    blocks = Window(11, 20, 33, 100).blocks(2)
    assert blocks is not None
    assert found["gradcam"].shape == (3, blocks.height, blocks.width)
    assert np.array_equal(found["gradcam"][0, 3], truth[0, 0, ::2])


def test_without_overlap_tiles_are_copied() -> None:
    truth = np.random.default_rng(1).integers(0, 84, (3, 130, 70))
    found, _ = stitched(truth, (0, 0), Tiling(64, 0, 2))
    assert np.array_equal(found["probability"], truth)


def test_float32_keeps_raw_values_and_nan() -> None:
    cell = Cell("a", "a", Window(0, 0, 64, 64))
    stitcher = Stitcher(StitchPlan(TILING, ["gradcam"], 1, None, True), cell, CPU)
    maps = Maps(
        torch.ones(1, 2, 64, 64) / 2,
        {"gradcam": torch.full((1, 1, 2, 2), 7e-9)},
        torch.ones(1, 1, dtype=torch.bool),
        torch.tensor(0),
    )
    valid = torch.zeros(1, 64, 64, dtype=torch.bool)
    valid[:, :, :31] = True
    batch = Batch((Window(0, 0, 64, 64),), torch.zeros(1, 3, 64, 64, dtype=torch.uint8), valid)
    rows = [*stitcher.add(batch, maps), *stitcher.finish()]
    heat = np.concatenate([r.products["gradcam"] for r in rows], axis=1)[0]
    assert np.allclose(heat[:, :16], 7e-9)
    assert np.isnan(heat[:, 16:]).all()
    assert (
        np.concatenate([r.products["classes"] for r in rows], axis=1)[0, :, 31:] == NODATA
    ).all()


def test_a_stride_of_one_pixel_has_cams_at_full_resolution() -> None:
    cell, tops = Cell("a", "a", Window(0, 0, 8, 8)), {"gradcam": [1.0]}
    stitcher = Stitcher(StitchPlan(Tiling(8, 0, 1), list(tops), 1, tops, False), cell, CPU)
    maps = Maps(
        torch.ones(1, 2, 8, 8) / 2,
        {"gradcam": torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])},
        torch.ones(1, 1, dtype=torch.bool),
        torch.tensor(0),
    )
    pixels, valid = (
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        torch.ones(1, 8, 8, dtype=torch.bool),
    )
    rows = [*stitcher.add(Batch((cell.core,), pixels, valid), maps), *stitcher.finish()]
    heat = rows[0].products["gradcam"][0]
    assert (heat == torch.tensor([0, 0, 32, 95, 159, 222, 254, 254])).all()


def test_windows_have_to_come_row_major() -> None:
    tiling, core = Tiling(4, 0, 2), Window(0, 0, 8, 4)
    strip = Strip(tiling, Cell("a", "a", core), 1, bands=1, weights=1, device=CPU)
    values = torch.ones(1, 1, 4, 4)
    with pytest.raises(ValueError, match="row-major"):
        strip.add(Window(4, 0, 4, 4), values, values)
    strip.add(Window(0, 0, 4, 4), values, values)
    means, valid = strip.pop_rows(4)
    assert means.shape == (1, 4, 4)
    assert valid.all()
    strip.add(Window(4, 0, 4, 4), values, values)


@pytest.mark.parametrize("overlap", [0, 6, 16, 22])
@pytest.mark.parametrize("batch", [1, 3, 7])
def test_sums_are_those_of_one_tile_after_the_other(overlap: int, batch: int) -> None:
    """Bit for bit, whichever of a row's tiles come together, and where one is missing."""
    tiling, rng = Tiling(32, overlap, 2), np.random.default_rng(overlap)
    core = Window(0, 0, 32, 9 * tiling.step)
    strip = Strip(tiling, Cell("a", "a", core), 1, bands=2, weights=1, device=CPU)
    rows, cols = tiling.indices(core)
    read = tiling.extent(rows[:1], cols)
    windows = [tiling.window(rows[0], j) for j in cols if j != 4]
    values = rng.random((len(windows), 2, 32, 32), np.float32)
    sums, counts = np.zeros((2, *read.shape), np.float32), np.zeros(read.shape, np.float32)
    for window, tile in zip(windows, values, strict=True):
        sums[:, *window.slices(read)] += tile
        counts[window.slices(read)] += 1
    for start in range(0, len(windows), batch):
        part = slice(start, start + batch)
        for run in neighbours(windows[part], tiling.step):
            tiles = torch.from_numpy(values[part][run])
            strip.add(windows[part][run][0], tiles, torch.ones_like(tiles[:, :1]))
    popped = strip.pop_rows(read.bottom)
    assert popped is not None
    inside = Window.between(0, 0, read.bottom, core.right).slices(read)
    exact = sums / np.maximum(counts, np.float32(1e-12))
    assert np.array_equal(popped[0].numpy(), exact[:, *inside])


def test_unexplained_tiles_carry_no_weight() -> None:
    tiling = Tiling(4, 2, 2)
    tops = {"guided_gradcam": [1.0]}
    cell = Cell("a", "a", Window(0, 2, 2, 2))
    stitcher = Stitcher(StitchPlan(tiling, list(tops), 1, tops, True), cell, CPU)
    out = []
    for value, explained, col in ((1.0, False, 0), (0.5, True, 2)):
        maps = Maps(
            torch.ones(1, 2, 4, 4) / 2, {"guided_gradcam": torch.full((1, 1, 4, 4), value)},
            torch.tensor([[explained]]), torch.tensor(0),
        )  # fmt: skip
        batch = Batch(
            (Window(-2, col, 4, 4),), torch.zeros(1, 3, 4, 4, dtype=torch.uint8),
            torch.ones(1, 4, 4, dtype=torch.bool),
        )  # fmt: skip
        out += stitcher.add(batch, maps)
    out += stitcher.finish()
    assert (out[0].products["guided_gradcam"] == 127).all()


def test_levels_are_those_of_the_contract() -> None:
    raw = torch.tensor([[[0.0, 1.0, 2.0, 5.0]], [[0.0, 1.0, 2.0, 5.0]]])
    levels = to_levels(raw, torch.tensor([2.0, torch.inf]))
    assert levels.tolist() == [[[0, 127, 254, 254]], [[0, 0, 0, 0]]]


def test_root_levels_give_raw_values_back() -> None:
    shares = torch.cat([torch.linspace(0, 1, 10_001), torch.tensor([1.5, 40.0])])
    raw, tops = torch.stack([3 * shares, shares])[:, None], torch.tensor([3.0, torch.inf])
    levels = to_levels(raw, tops, torch.tensor([0.03, torch.inf]))
    assert not levels[1].any()
    stored = HeatLayer("guided_gradcam", None, 1, None, by_root=True)
    values = levels[0, 0].numpy()
    kept = raw[0, 0].numpy() > 0.03
    assert (values[~kept] == 0).all()
    assert (np.diff(values.astype(int)) >= 0).all()
    found, expected = stored.scaled(values, 1)[kept], shares.numpy()[kept].clip(max=1)
    assert np.abs(np.sqrt(found) - np.sqrt(expected)).max() <= 0.5001 / 254
    assert found[-1] == 1
    assert np.array_equal(stored.brightness(values, 1), values / 254)
    assert np.isnan(stored.scaled(np.array([NODATA], np.uint8), 1)).all()
