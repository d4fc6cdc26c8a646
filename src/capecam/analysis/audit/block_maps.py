"""Maps of one class at the resolution of blocks, and their correlation.

A CAM is written in blocks of ``tiling.stride`` pixels. Maps at full resolution are averaged to the
same blocks, so that no method benefits from a finer resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from capecam.attribution.engine import Engine
from capecam.attribution.maps import check_finite
from capecam.attribution.methods import resample
from capecam.grid import Tiling
from capecam.pipeline.stitching import block_validity
from capecam.pipeline.tiles import Tile
from capecam.settings import PIXEL_METHODS

Heat = NDArray[np.float64]
Explain = Callable[[Engine, Tiling, Sequence[Tile], int], Heat]
"""Function of engine, tiling, T tiles and class: maps (T, M, n, n), n blocks per edge of a tile."""


def block_heat(engine: Engine, tiling: Tiling, tiles: Sequence[Tile], class_id: int) -> Heat:
    """Return the raw maps (T, M, n, n) of the engine's M methods (an ``Explain``).

    Raises:
        NotFiniteError: the network's gradients overflowed.
    """
    pixels = torch.stack([tile.pixels for tile in tiles])
    valid = torch.stack([tile.valid for tile in tiles])
    maps = engine(pixels, valid)
    check_finite(maps.broken, engine.precision)
    of_class = {name: heat[:, class_id - 1, None] for name, heat in maps.heat.items()}
    parts = [
        _block_means(heat, valid[:, None].to(heat), tiling.stride)
        if name in PIXEL_METHODS
        else resample(heat, tiling.size // tiling.stride)
        for name, heat in of_class.items()
    ]
    return np.asarray(torch.cat(parts, dim=1).double().cpu().numpy())


def _block_means(heat: Tensor, valid: Tensor, stride: int) -> Tensor:
    """Average (T, 1, S, S) over the valid pixels of each block; 0 in a block without any."""
    share = F.avg_pool2d(valid, stride)
    return F.avg_pool2d(heat * valid, stride) / torch.where(share > 0, share, 1.0)


def valid_blocks(valid: Tensor, stride: int) -> NDArray[np.bool_]:
    """Return (n, n) of (S, S): True where a block has a valid pixel."""
    return np.asarray(block_validity(valid[None, None], stride)[0, 0].cpu().numpy())


def is_constant(heat: Heat, valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return (M,) of (M, n, n): True where a map, such as an empty one, ranks no block."""
    return np.asarray(np.ptp(heat[:, valid], axis=1) == 0)


def correlation(a: Heat, b: Heat) -> Heat:
    """Return Pearson's correlation (M,) of the rows of (M, N); NaN if a row is constant."""
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    norms = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.asarray((a * b).sum(axis=1) / np.where(norms > 0, norms, np.nan))
