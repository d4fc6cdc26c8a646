"""Deletion and insertion: the score of a tile as its blocks are removed in the order of a map.

Petsiuk et al. 2018 (RISE) remove the most important pixels first and measure how soon the score
falls (deletion), or insert them first into an empty image and measure how soon it rises
(insertion). Inserting the best share t of the pixels equals removing all others, the worst first:
insertion is the lowest-first curve read from its end, and both areas are equal. Each method
therefore has two curves here; a third, in random order, shows the effect of removing *anything*.

Removed blocks are replaced by the heavily blurred tile. Black would be nodata to the network, and
the sharp edges of another replacement would be features themselves; a blur keeps the colours of the
neighbourhood and adds few edges.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from capecam.analysis.audit.block_maps import Heat, is_constant
from capecam.attribution.engine import Engine
from capecam.attribution.methods import class_scores
from capecam.pipeline.tiles import Tile

ORDERS = ("highest", "random", "lowest")
MEASURES = ("score", "confidence")

SHARES = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.99, 1)
"""Removed shares of the blocks. Denser at both ends: the median object is 0.8 % of a tile
(5.4 m² of 655), so the relevant changes occur in the first steps of deletion and of insertion."""

RANDOM_ORDERS = 3
"""Number of random orders, whose curves are averaged to reduce their variance."""

BLUR = 1 / 8
"""Standard deviation of the blur relative to the edge of the tile, 40 px of 320: it must remove
roofs, not only their texture. (RISE: 5 of 224 px, for photographs that an object fills.)"""

MIN_CHANGE = 1e-6
"""Relative change of a score below which it is rounding."""

Ranks = NDArray[np.int64]
"""(n, n) rank of each block in the order of removal, from 0."""


class Target(NamedTuple):
    """Object whose score is measured while blocks of its tile are removed."""

    tile: Tile
    baseline: Tensor
    """(3, S, S) uint8 replacement of removed blocks."""
    inside: Tensor
    """(S, S) bool; True is a pixel of the object."""
    valid_blocks: NDArray[np.bool_]
    """(n, n) bool; True is a block with imagery. The others are never removed."""
    class_id: int


def curves(
    engine: Engine,
    target: Target,
    heat: Heat,
    rng: np.random.Generator,
    batch_size: int,
) -> tuple[Heat, Heat]:
    """Measure score and confidence of an object while blocks are removed in the order of M maps.

    The score has no unit and need not fall. It is scaled to 0..1 by its range over all curves of
    the detection.

    Args:
        engine: engine whose score is explained.
        target: tile and object.
        heat: (M, n, n) maps of any scale.
        rng: generator of the random orders and of the order of equal blocks.
        batch_size: number of tiles in a batch.

    Returns:
        (T,) removed shares of the blocks, and (M, 3, T, 2) by ``ORDERS`` and ``MEASURES``. NaN for
        a constant map, and for a score that never changes.
    """
    valid = target.valid_blocks
    drawn = [removal_ranks(np.zeros(valid.shape), valid, rng) for _ in range(RANDOM_ORDERS)]
    ranked = [removal_ranks(sign * each, valid, rng) for each in heat for sign in (-1, 1)]
    counts = [round(share * int(valid.sum())) for share in SHARES]
    values = removal_curves(engine, target, np.stack(drawn + ranked), counts, batch_size)
    by_method = values[RANDOM_ORDERS:].reshape(len(heat), 2, *values.shape[1:])
    random = np.broadcast_to(values[:RANDOM_ORDERS].mean(axis=0), by_method[:, 0].shape)
    result = np.stack([by_method[:, 0], random, by_method[:, 1]], axis=1)
    result[..., 0] = scaled(result[..., 0])
    result[is_constant(heat, valid)] = np.nan
    return np.array(counts) / counts[-1], result


def removal_ranks(key: Heat, valid: NDArray[np.bool_], rng: np.random.Generator) -> Ranks:
    """Rank (n, n) blocks by rising key, equal ones at random; invalid ones are never removed."""
    ranks = np.full(valid.size, valid.size, np.int64)
    blocks = np.flatnonzero(valid)
    order = np.lexsort((rng.random(len(blocks)), key.ravel()[blocks]))
    ranks[blocks[order]] = np.arange(len(blocks))
    return ranks.reshape(valid.shape)


def removal_curves(
    engine: Engine, target: Target, ranks: Ranks, counts: list[int], batch_size: int
) -> Heat:
    """Return the measures (K, T, 2) after the first T ``counts`` of blocks of K orders are removed.

    The first and the last step, nothing and everything removed, are shared by all orders.
    """
    rank = torch.from_numpy(ranks).to(engine.device)
    inner = list(product(range(len(ranks)), counts[1:-1]))
    steps = torch.tensor([(0, counts[0]), (0, counts[-1]), *inner], device=engine.device)
    parts = []
    for which, count in (part.T for part in torch.split(steps, min(batch_size, engine.max_tiles))):
        removed = rank[which] < count[:, None, None]  # (B, n, n)
        parts.append(measure(engine, target, replace_blocks(target, removed)))
    values = torch.cat(parts).double().cpu().numpy()
    ends = np.broadcast_to(values[:2], (len(ranks), 2, 2))
    between = values[2:].reshape(len(ranks), len(counts) - 2, 2)
    return np.concatenate([ends[:, :1], between, ends[:, 1:]], axis=1)


def replace_blocks(target: Target, removed: Tensor) -> Tensor:
    """Return the tile (B, 3, S, S) with the baseline where (B, n, n) ``removed`` is True."""
    stride = target.inside.shape[-1] // removed.shape[-1]
    at_pixels = removed.repeat_interleave(stride, 1).repeat_interleave(stride, 2)
    return torch.where(at_pixels[:, None], target.baseline, target.tile.pixels)


def measure(engine: Engine, target: Target, pixels: Tensor) -> Tensor:
    """Return (B, 2) of (B, 3, S, S) uint8: the explained score and the object's confidence."""
    logits, c = engine.logits(pixels), target.class_id
    valid = target.tile.valid.expand(len(pixels), -1, -1)
    score = class_scores(logits, valid, engine.score, sigmoid=engine.model.sigmoid)[:, c]
    confidence = logits.softmax(dim=1)[:, c] * target.inside
    return torch.stack([score, confidence.sum(dim=(1, 2)) / target.inside.sum()], dim=1)


def blur(tile: Tile) -> Tensor:
    """Blur the valid pixels of a tile by a Gaussian; (3, S, S) uint8, 0 where invalid."""
    pixels, valid = tile.pixels, tile.valid
    size = pixels.shape[-1]
    place = torch.arange(size, device=pixels.device)
    gauss = torch.exp(-(((place - place[:, None]) / (BLUR * size)) ** 2) / 2)
    weight = gauss @ valid.float() @ gauss
    colour = gauss @ (pixels * valid).float() @ gauss / weight.clamp(min=1e-12)
    return (colour.round() * valid).to(torch.uint8)


def areas(shares: Heat, values: Heat) -> Heat:
    """Return the area (..., 2) under each curve (..., T, 2) over (T,) shares."""
    return np.asarray(np.trapezoid(values, shares, axis=-2))


def scaled(scores: Heat) -> Heat:
    """Scale scores to 0..1 by their common range; NaN if they do not change."""
    low, high = scores.min(), scores.max()
    changes = high - low > MIN_CHANGE * np.abs(scores).max()
    return np.asarray((scores - low) / (high - low if changes else np.nan))
