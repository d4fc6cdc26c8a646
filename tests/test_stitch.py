"""A truth raster cut to tiles and stitched is the truth raster; expected answer first."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from capecam.batch import Batch
from capecam.grid import Tiling, Window
from capecam.maps import Maps
from capecam.stitch import NODATA, Stitcher, to_levels

TILING = Tiling(64, 14, 2)
"""Step 50. Small, so that sizes around every boundary are quick."""
SIZES = [1, 9, 49, 50, 51, 63, 64, 65, 113, 114, 115, 149, 150, 151]


def stitched(truth: np.ndarray, origin: tuple[int, int], tiling: Tiling, **options):
    """Cut (3, H, W) levels to tiles as probabilities and guided maps; blend; collect rows."""
    core = Window(*origin, *truth.shape[1:])
    reach = tiling.reach(core)
    padded = np.zeros((3, *reach.shape), np.float32)
    valid = np.zeros(reach.shape, bool)
    place = core.slices(reach)
    padded[:, *place], valid[place] = truth / 254, True
    stitcher = Stitcher(
        tiling, core, ["gradcam", "guided_gradcam"], 3,
        {"gradcam": [1.0] * 3, "guided_gradcam": [1.0] * 3},
        device=torch.device("cpu"), **{"detected": False, **options},
    )  # fmt: skip
    collected: dict[str, list[np.ndarray]] = {}
    rows_seen = []
    lattice_rows, lattice_cols = tiling.lattice(core)

    def collect(rows) -> None:
        rows_seen.append((rows.row, rows.products["classes"].shape[1]))
        for name, values in rows.arrays().items():
            collected.setdefault(name, []).append(values)

    for i in lattice_rows:
        for j in lattice_cols:
            window = tiling.window(i, j)
            tile = torch.from_numpy(padded[:, *window.slices(reach)])[None]
            seen = torch.from_numpy(valid[window.slices(reach)])[None]
            if not seen.any():
                continue
            background = 1 - tile.sum(dim=1, keepdim=True)
            blocks = tile[..., :: tiling.stride, :: tiling.stride]
            maps = Maps(
                torch.cat([background, tile], dim=1),
                {"gradcam": blocks, "guided_gradcam": tile},
                torch.ones(1, 3, dtype=torch.bool),
                *(torch.tensor(0), torch.tensor(0)),
            )
            batch = Batch((window,), (tile * 255).to(torch.uint8), seen)
            for rows in stitcher.add(batch, maps):
                collect(rows)
    for rows in stitcher.finish():
        collect(rows)
    return {name: np.concatenate(parts, axis=1) for name, parts in collected.items()}, rows_seen


@pytest.mark.parametrize("origin", [(0, 0), (-37, 1013)])
@pytest.mark.parametrize("height", SIZES)
@pytest.mark.parametrize("width", [1, 50, 64, 151])
def test_the_truth_comes_back(height: int, width: int, origin: tuple[int, int]) -> None:
    rng = np.random.default_rng(height * 1000 + width)
    truth = rng.integers(0, 84, (3, height, width))
    found, rows_seen = stitched(truth, origin, TILING)
    assert np.array_equal(found["probability"], truth)
    assert np.array_equal(found["guided_gradcam"], truth)
    background = 254 - truth.sum(axis=0)
    shares = np.concatenate([background[None], truth])
    second, first = np.sort(shares, axis=0)[-2:]
    clear = first > second  # a tie in whole levels is decided by rounding
    assert clear.mean() > 0.9 or clear.size < 100
    assert np.array_equal(found["classes"][0][clear], shares.argmax(axis=0)[clear])
    starts = [start for start, _ in rows_seen]
    assert starts == [origin[0] + n for n in np.cumsum([0, *(n for _, n in rows_seen[:-1])])]
    assert sum(n for _, n in rows_seen) == height


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
    stitcher = Stitcher(
        TILING,
        Window(0, 0, 64, 64),
        ["gradcam"],
        1,
        None,
        detected=True,
        device=torch.device("cpu"),
    )
    maps = Maps(
        torch.ones(1, 2, 64, 64) / 2,
        {"gradcam": torch.full((1, 1, 2, 2), 7e-9)},
        torch.ones(1, 1, dtype=torch.bool),
        *(torch.tensor(0), torch.tensor(0)),
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


def test_unexplained_tiles_carry_no_weight() -> None:
    tiling = Tiling(4, 2, 2)
    stitcher = Stitcher(
        tiling, Window(0, 2, 2, 2), ["guided_gradcam"], 1, {"guided_gradcam": [1.0]},
        detected=True, device=torch.device("cpu"),
    )  # fmt: skip
    out = []
    for value, explained, col in ((1.0, False, 0), (0.5, True, 2)):
        maps = Maps(
            torch.ones(1, 2, 4, 4) / 2, {"guided_gradcam": torch.full((1, 1, 4, 4), value)},
            torch.tensor([[explained]]), *(torch.tensor(0), torch.tensor(0)),
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
