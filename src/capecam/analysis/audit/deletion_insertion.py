"""Deletion and insertion: what becomes of the score when parts of a tile go, in the map's order.

Petsiuk et al. 2018 (RISE) remove the most important pixels first, and see how soon the score falls
(deletion); or give them back to an empty image first, and see how soon it rises (insertion). To
give back the best t of the pixels is to remove all but these, the worst first: insertion is the
lowest-first curve read from its end, and both areas are the same. So each method has two curves
here, and a third in random order shows what removing *something* does.

What is removed is replaced by the same tile heavily blurred. Black would be nodata to the network,
and the sharp edges of whatever is put in its place would be evidence of their own; a blur keeps the
colours of the neighbourhood and brings few edges.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from capecam.analysis.audit.block_maps import Heat, even
from capecam.attribution.engine import Engine
from capecam.attribution.methods import class_scores
from capecam.pipeline.tiles import Tile

ORDERS = ("highest", "random", "lowest")
MEASURES = ("score", "confidence")

SHARES = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.99, 1)
"""Of the blocks that are removed. Denser at both ends: the median object is 0.8 % of a tile
(5.4 m² of 655), so what it is about happens in the first steps of deletion and of insertion."""

RANDOM_ORDERS = 3
"""Of which the mean is taken: a single one is as lucky as it is."""

BLUR = 1 / 8
"""Standard deviation of the blur by the edge of the tile, 40 px of 320: roofs have to go, not only
their texture. (RISE: 5 of 224 px, on photographs that an object fills.)"""

STILL = 1e-6
"""A score that moves by less than this part of itself does not move: it is rounding."""

Turns = NDArray[np.int64]
"""(n, n): when a block goes, from 0 on."""


class Target(NamedTuple):
    """What is looked at while a tile loses its parts."""

    tile: Tile
    baseline: Tensor
    """(3, S, S) uint8: what takes the place of what is removed."""
    inside: Tensor
    """(S, S) bool: the object's pixels."""
    seen: NDArray[np.bool_]
    """(n, n): blocks with imagery; the others stay as they are."""
    class_id: int


def curves(
    engine: Engine,
    target: Target,
    heat: Heat,
    rng: np.random.Generator,
    batch_size: int,
) -> tuple[Heat, Heat]:
    """Score and confidence of an object while its tile is removed as M maps say.

    The score comes in parts of the range that it takes on any of the detection's curves, 0 to 1: it
    has no unit of its own, and need not be lower at the end than at the beginning.

    Args:
        engine: whose score is explained.
        target: tile and object.
        heat: (M, n, n), any order of magnitude.
        rng: of the random orders, and of blocks with equal heat.
        batch_size: tiles that go through the network together.

    Returns:
        (T,) shares of the blocks that are removed, and (M, 3, T, 2) by ``ORDERS`` and ``MEASURES``.
        NaN for a map that is even, and for a score that never moves.
    """
    seen = target.seen
    drawn = [turns(np.zeros(seen.shape), seen, rng) for _ in range(RANDOM_ORDERS)]
    ranked = [turns(sign * each, seen, rng) for each in heat for sign in (-1, 1)]
    counts = [round(share * int(seen.sum())) for share in SHARES]
    found = follow(engine, target, np.stack(drawn + ranked), counts, batch_size)
    by_method = found[RANDOM_ORDERS:].reshape(len(heat), 2, *found.shape[1:])
    random = np.broadcast_to(found[:RANDOM_ORDERS].mean(axis=0), by_method[:, 0].shape)
    together = np.stack([by_method[:, 0], random, by_method[:, 1]], axis=1)
    together[..., 0] = scaled(together[..., 0])
    together[even(heat, seen)] = np.nan
    return np.array(counts) / counts[-1], together


def turns(key: Heat, seen: NDArray[np.bool_], rng: np.random.Generator) -> Turns:
    """Blocks by rising key, equal ones in a random order; those without imagery never go."""
    turn = np.full(seen.size, seen.size, np.int64)
    blocks = np.flatnonzero(seen)
    order = np.lexsort((rng.random(len(blocks)), key.ravel()[blocks]))
    turn[blocks[order]] = np.arange(len(blocks))
    return turn.reshape(seen.shape)


def follow(
    engine: Engine, target: Target, orders: Turns, counts: list[int], batch_size: int
) -> Heat:
    """(K, n, n) orders to (K, T, 2): the measures when the first ``counts`` blocks are gone.

    Nothing and everything removed are the same in every order, and are looked at once.
    """
    turn = torch.from_numpy(orders).to(engine.device)
    inner = list(product(range(len(orders)), counts[1:-1]))
    steps = torch.tensor([(0, counts[0]), (0, counts[-1]), *inner], device=engine.device)
    parts = []
    for which, count in (part.T for part in torch.split(steps, min(batch_size, engine.max_tiles))):
        gone = turn[which] < count[:, None, None]  # (B, n, n)
        parts.append(measure(engine, target, without(target, gone)))
    found = torch.cat(parts).double().cpu().numpy()
    ends = np.broadcast_to(found[:2], (len(orders), 2, 2))
    between = found[2:].reshape(len(orders), len(counts) - 2, 2)
    return np.concatenate([ends[:, :1], between, ends[:, 1:]], axis=1)


def without(target: Target, gone: Tensor) -> Tensor:
    """(B, n, n) bool -> (B, 3, S, S): the tile, and its baseline where a block is gone."""
    stride = target.inside.shape[-1] // gone.shape[-1]
    at_pixels = gone.repeat_interleave(stride, 1).repeat_interleave(stride, 2)
    return torch.where(at_pixels[:, None], target.baseline, target.tile.pixels)


def measure(engine: Engine, target: Target, pixels: Tensor) -> Tensor:
    """(B, 3, S, S) uint8 -> (B, 2): the score that is explained, and the object's confidence."""
    logits, c = engine.logits(pixels), target.class_id
    valid = target.tile.valid.expand(len(pixels), -1, -1)
    score = class_scores(logits, valid, engine.score, sigmoid=engine.model.sigmoid)[:, c]
    certain = logits.softmax(dim=1)[:, c] * target.inside
    return torch.stack([score, certain.sum(dim=(1, 2)) / target.inside.sum()], dim=1)


def blur(tile: Tile) -> Tensor:
    """(3, S, S) uint8: a tile blurred by a Gaussian, over valid pixels alone; 0 where invalid."""
    pixels, valid = tile.pixels, tile.valid
    size = pixels.shape[-1]
    place = torch.arange(size, device=pixels.device)
    gauss = torch.exp(-(((place - place[:, None]) / (BLUR * size)) ** 2) / 2)
    weight = gauss @ valid.float() @ gauss
    colour = gauss @ (pixels * valid).float() @ gauss / weight.clamp(min=1e-12)
    return (colour.round() * valid).to(torch.uint8)


def areas(shares: Heat, found: Heat) -> Heat:
    """(T,), (..., T, 2) -> (..., 2): the area under each curve, that is, its mean height."""
    return np.asarray(np.trapezoid(found, shares, axis=-2))


def scaled(scores: Heat) -> Heat:
    """In parts of their common range, 0..1; NaN if they do not move."""
    low, high = scores.min(), scores.max()
    moves = high - low > STILL * np.abs(scores).max()
    return np.asarray((scores - low) / (high - low if moves else np.nan))
