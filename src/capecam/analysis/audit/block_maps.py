"""Maps of one object at the resolution of blocks, and their correlation.

A CAM is written in blocks of ``tiling.stride`` pixels. Maps at full resolution are averaged to the
same blocks, so that no method benefits from a finer resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from capecam.analysis.audit.sampling import AuditTile
from capecam.attribution.engine import Engine
from capecam.attribution.interventions import blurred
from capecam.attribution.maps import check_finite
from capecam.attribution.methods import resample
from capecam.attribution.object_engine import ObjectEngine, Targets, at_pixels
from capecam.grid import Tiling
from capecam.settings import PIXEL_METHODS, TITLES

Heat = NDArray[np.float64]

OBJECT = "object"
INTEGRATED_GRADIENTS = "integrated_gradients"
MAP_TITLES = TITLES | {
    OBJECT: "the object's own map",
    INTEGRATED_GRADIENTS: "integrated gradients (reference)",
}
"""Titles of all maps of an audit."""


class Network(NamedTuple):
    """Engines of the run's network, or of one that was derived from it."""

    tiles: Engine
    """Computes the maps of tiles."""
    objects: ObjectEngine

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the maps: those of a tile, the object's own, and integrated gradients."""
        return (*self.tiles.methods, OBJECT, INTEGRATED_GRADIENTS)


class BlockMaps(NamedTuple):
    """Maps of an object in T tiles by M methods."""

    heat: Heat
    """(T, M, n, n), raw; n blocks per edge of a tile."""
    seconds: Heat
    """(M,) time of one map; maps that are computed together share their time."""


Explain = Callable[[Network, Tiling, Sequence[AuditTile], int], BlockMaps]
"""Function of network, tiling, T tiles and the class of the object in them."""


def block_maps(
    network: Network, tiling: Tiling, tiles: Sequence[AuditTile], class_id: int
) -> BlockMaps:
    """Return the maps of an object in T tiles (an ``Explain``).

    Raises:
        NotFiniteError: the network's gradients overflowed.
    """
    pixels, valid, part = (
        torch.stack(each)
        for each in zip(*((tile.pixels, tile.valid, tile.part) for tile in tiles), strict=True)
    )
    targets = Targets(torch.full((len(tiles),), class_id, device=part.device), part)
    weight = valid[:, None].float()

    def of_tiles() -> list[Tensor]:
        maps = network.tiles(pixels, valid)
        check_finite(maps.broken, network.tiles.precision)
        of_class = {name: heat[:, class_id - 1, None] for name, heat in maps.heat.items()}
        return [
            _block_means(heat, weight, tiling.stride)
            if name in PIXEL_METHODS
            else resample(heat, tiling.size // tiling.stride)
            for name, heat in of_class.items()
        ]

    def of_object() -> list[Tensor]:
        heat, _ = network.objects.maps(pixels, valid, targets)
        return [_block_means(at_pixels(heat, valid)[:, None], weight, tiling.stride)]

    def integrated() -> list[Tensor]:
        baseline = blurred(pixels, valid)
        heat = network.objects.integrated_gradients(pixels, baseline, targets)
        return [_block_means(heat.relu()[:, None], weight, tiling.stride)]

    timed = [_timed(compute) for compute in (of_tiles, of_object, integrated)]
    classes = len(network.tiles.model.classes) - 1
    maps_in_pass = (len(network.tiles.methods) * classes, 1, 1)
    seconds = [
        [passed / count / len(tiles)] * heat.shape[1]
        for (heat, passed), count in zip(timed, maps_in_pass, strict=True)
    ]
    return BlockMaps(np.concatenate([heat for heat, _ in timed], axis=1), np.concatenate(seconds))


def _timed(compute: Callable[[], list[Tensor]]) -> tuple[Heat, float]:
    """Return maps (T, 1, n, n) as one array (T, M, n, n), and the seconds that they took."""
    start = perf_counter()
    heat = torch.cat(compute(), dim=1).double().cpu().numpy()  # waits for a GPU
    return np.asarray(heat), perf_counter() - start


def _block_means(heat: Tensor, valid: Tensor, stride: int) -> Tensor:
    """Average (T, 1, S, S) over the valid pixels of each block; 0 in a block without any."""
    share = F.avg_pool2d(valid, stride)
    return F.avg_pool2d(heat * valid, stride) / torch.where(share > 0, share, 1.0)


def is_constant(heat: Heat, valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return (M,) of (M, n, n): True where a map, such as an empty one, ranks no block."""
    return np.asarray(np.ptp(heat[:, valid], axis=1) == 0)


def energy_share(heat: Heat, weight: Heat) -> Heat:
    """Return the share (M,) of the energy of maps (M, n, n) in weighted (n, n) blocks.

    NaN for an empty map, and where no block has weight.
    """
    total = heat.sum(axis=(1, 2)) * (1.0 if weight.any() else np.nan)
    return np.asarray((heat * weight).sum(axis=(1, 2)) / np.where(total > 0, total, np.nan))


def correlation(a: Heat, b: Heat) -> Heat:
    """Return Pearson's correlation (M,) of the rows of (M, N); NaN if a row is constant."""
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    norms = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.asarray((a * b).sum(axis=1) / np.where(norms > 0, norms, np.nan))
