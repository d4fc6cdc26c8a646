"""Maps as the audit compares them: of one class, in blocks, whatever the method.

A CAM is written in blocks of ``tiling.stride`` pixels; a map at full resolution is averaged to the
same blocks, so that no method gains by a finer grain.
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
"""Engine, lattice, T tiles, class -> (T, M, n, n) by method; n blocks along the edge of a tile."""


def block_heat(engine: Engine, tiling: Tiling, tiles: Sequence[Tile], class_id: int) -> Heat:
    """The raw maps of the engine's own methods (an ``Explain``).

    Raises:
        NotFiniteError: the network's gradients overflowed.
    """
    pixels = torch.stack([tile.pixels for tile in tiles])
    valid = torch.stack([tile.valid for tile in tiles])
    maps = engine(pixels, valid)
    check_finite(maps.broken, engine.precision)
    of_class = {name: heat[:, class_id - 1, None] for name, heat in maps.heat.items()}
    parts = [
        _averaged(heat, valid[:, None].to(heat), tiling.stride)
        if name in PIXEL_METHODS
        else resample(heat, tiling.size // tiling.stride)
        for name, heat in of_class.items()
    ]
    return np.asarray(torch.cat(parts, dim=1).double().cpu().numpy())


def _averaged(heat: Tensor, valid: Tensor, stride: int) -> Tensor:
    """(T, 1, S, S) to (T, 1, n, n): means over the valid pixels of each block, 0 without any."""
    seen = F.avg_pool2d(valid, stride)
    return F.avg_pool2d(heat * valid, stride) / torch.where(seen > 0, seen, 1.0)


def seen_blocks(valid: Tensor, stride: int) -> NDArray[np.bool_]:
    """(S, S) to (n, n): True where a block has a valid pixel."""
    return np.asarray(block_validity(valid[None, None], stride)[0, 0].cpu().numpy())


def even(heat: Heat, seen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(M, n, n) to (M,): True where a map is the same everywhere, as an empty one is: it says
    nothing about what is important."""
    return np.asarray(np.ptp(heat[:, seen], axis=1) == 0)


def correlation(a: Heat, b: Heat) -> Heat:
    """(M, N), (M, N) to (M,): the correlation of each row; NaN where one of the two is even."""
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    norms = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    found: Heat = (a * b).sum(axis=1) / np.where(norms > 0, norms, np.nan)
    return found
