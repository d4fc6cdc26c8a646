"""Deletion and insertion: the probability of an object as blocks of its tile go, or come.

Petsiuk et al. 2018 (RISE) remove the most important pixels first and measure how soon the score
falls (deletion), or insert them first into an empty image and measure how soon it rises
(insertion). Here it is the mean probability of the class over the object's own pixels, as a share
of that in the whole tile; what is removed is blurred (``attribution.interventions``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from capecam.analysis.audit.block_maps import Heat
from capecam.analysis.audit.sampling import DetectionTiles
from capecam.attribution.engine import CPU_BATCH
from capecam.attribution.interventions import blurred, grey, replaced, to_pixels
from capecam.attribution.object_engine import ObjectEngine, Targets

SHARES = (0.005, 0.01, 0.02, 0.05, 0.1)
"""Shares of a tile's blocks that are removed or inserted. The median object is 0.8 % of a tile
(5.4 m² of 655), and a tenth of a tile holds it with 2.9 m around it. Within this range, an order
that knows nothing scores near -1: what it removes does little, and what it inserts restores
nothing. Over all shares it would score 0, since the two curves are one, read from both ends; and
most of the area would be of shares at which every good order has long removed the object."""

MARGINS_M = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Margins with which an object is kept, when everything else is blurred and grey."""

Ranks = NDArray[np.int64]
"""(n, n) rank of each block, from 0, the most important."""


class ObjectCurves(NamedTuple):
    """Probability of an object, as a share of that in the whole tile, by K orders."""

    shares: Heat
    """(T,) removed or inserted share of the blocks, from 0."""
    deletion: Heat
    """(K, T), 0..1."""
    insertion: Heat
    """(K, T), 0..1."""
    kept: Heat
    """(margins,) with the object and ``MARGINS_M`` around it alone; may exceed 1."""


def measure_curves(
    engine: ObjectEngine, tiles: DetectionTiles, ranks: Ranks, batch_size: int
) -> ObjectCurves:
    """Measure an object while blocks of its tile are removed, or inserted, in K orders.

    The whole tile, and the tile without any block, belong to all orders.

    Args:
        engine: engine of the network.
        tiles: tile and object.
        ranks: (K, n, n); blocks without imagery come last.
        batch_size: number of tiles in a batch.
    """
    tile = tiles.tile
    valid_count = int((ranks[0] < ranks[0].size).sum())
    counts = [max(1, round(share * valid_count)) for share in SHARES]
    stride = tile.valid.shape[-1] // ranks.shape[-1]
    rank = torch.from_numpy(ranks)
    first = torch.stack([rank < count for count in counts])  # (T - 1, K, n, n)
    nothing = torch.zeros(1, *tile.valid.shape, dtype=torch.bool)
    kept = torch.from_numpy(np.stack([tiles.own.within(margin) for margin in MARGINS_M]))
    inner = to_pixels(torch.stack([first, ~first]).flatten(0, 2), stride)
    blur = blurred(tile.pixels, tile.valid)
    left = np.concatenate(
        [
            probabilities(engine, tiles, torch.cat([nothing, ~nothing, inner]), blur, batch_size),
            probabilities(engine, tiles, ~kept, grey(blur), batch_size),
        ]
    )
    left /= left[0] if left[0] > 0 else np.nan
    ends, inner_left, kept_left = np.split(left, (2, 2 + len(inner)))
    curves = np.concatenate(
        [
            np.broadcast_to(ends[:, None, None], (2, 1, len(ranks))),
            inner_left.reshape(2, len(counts), len(ranks)),
        ],
        axis=1,
    )
    deletion, insertion = np.clip(curves, 0, 1).transpose(0, 2, 1)
    return ObjectCurves(np.array([0, *counts]) / valid_count, deletion, insertion, kept_left)


def probabilities(
    engine: ObjectEngine, tiles: DetectionTiles, removed: Tensor, baseline: Tensor, batch_size: int
) -> Heat:
    """Return the probability (N,) of an object with pixels replaced by a baseline.

    Args:
        engine: engine of the network.
        tiles: tile and object.
        removed: (N, S, S) bool; True is a pixel to replace.
        baseline: (3, S, S) uint8.
        batch_size: number of tiles in a batch on a GPU.
    """
    tile = tiles.tile
    parts = []
    for part in torch.split(removed, CPU_BATCH if engine.device.type == "cpu" else batch_size):
        pixels = replaced(tile.pixels, baseline, part.to(tile.valid.device) & tile.valid)
        class_ids = torch.full((len(part),), tiles.class_id)
        targets = Targets(class_ids, tile.part.expand(len(part), -1, -1))
        parts.append(engine.probability(pixels, targets))
    return np.asarray(torch.cat(parts).double().cpu().numpy())


def areas(shares: Heat, values: Heat) -> Heat:
    """Return the mean height (...) of curves (..., T) over (T,) shares."""
    return np.asarray(np.trapezoid(values, shares, axis=-1) / shares[-1])
