"""Measures of every map of an object whose reason is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from capecam.api import Model
from capecam.pipeline.blocks import block_mean
from reasons.interventions import tile_blur
from reasons.maps import Combination, Explainer
from reasons.subjects import STRIDE_PX, Subject, probability
from reasons.words import Blocks, distance, remove_first, remove_top

NEAR_PX = 25
"""2 m."""
SHIFT_BLOCKS = 8
SHARES = (0.01, 0.03, 0.1, 0.5, 0.9, 0.97)
"""Shares of blocks at which the curves of deletion and insertion are measured, beside 0 and 1."""

DROPPED = tuple(
    Combination("hirescam", score, layer)
    for layer in ("32", "16", "8", "4")
    for score in ("object logit", "object log-odds")
)
"""Ways whose top blocks are blurred, as for the column ``own_drop``."""

MEASURES = ("inside", "peak near", "leak", "cue", "shift", "random head")


def measure_maps(
    explainer: Explainer, random_head: Explainer, subject: Subject
) -> NDArray[np.float64]:
    """Return the measures (N, 6) of the map of every combination; NaN is undefined."""
    maps = explainer.maps(subject.pixels, subject.inside)
    moved = subject.shifted(0, SHIFT_BLOCKS * STRIDE_PX)
    shifted = explainer.maps(moved.pixels, moved.inside)
    other = random_head.maps(subject.pixels, subject.inside)
    return np.stack([
        energy(maps, subject.inside),
        peak_near(maps, distance(subject.inside)),
        energy(maps, subject.others),
        density(maps, subject.cue),
        correlation(maps[:, :, SHIFT_BLOCKS:], shifted[:, :, :-SHIFT_BLOCKS]),
        correlation(ranks(maps), ranks(other)),
    ], axis=1)  # fmt: skip


def measure_drops(model: Model, explainer: Explainer, subject: Subject) -> list[float]:
    """Return 1 - p/p0 after the top blocks by each way of ``DROPPED``, and the nearest, go."""
    pixels, inside = subject.pixels, subject.inside
    baseline = tile_blur(pixels, inside)
    keys = [*-explainer.maps(pixels, inside, DROPPED), distance(inside)]
    removed = [remove_top(pixels, baseline, key, inside) for key in keys]
    p = probability(model, torch.stack([pixels, *removed]), inside)
    drops: list[float] = (1 - p[1:] / p[0]).tolist()
    return drops


def energy(maps: Blocks, mask: NDArray[np.bool_]) -> Blocks:
    """Return the share (N,) of the sum of each map that lies in a mask; NaN if there is none."""
    if not mask.any():
        return np.full(len(maps), np.nan)
    total = maps.sum(axis=(1, 2))
    return (maps * block_mean(mask, STRIDE_PX)).sum(axis=(1, 2)) / np.where(
        total > 0, total, np.nan
    )


def density(maps: Blocks, mask: NDArray[np.bool_]) -> Blocks:
    """Return the mean (N,) of each map in a mask relative to that of the tile."""
    return energy(maps, mask) / max(mask.mean(), 1e-12)


def peak_near(maps: Blocks, distance_px: Blocks) -> Blocks:
    """Return 1 where the highest block of a map is at most 2 m away from the object, else 0."""
    peaks = maps.reshape(len(maps), -1).argmax(axis=1)
    near = distance_px.ravel()[peaks] <= NEAR_PX
    return np.where(np.ptp(maps, axis=(1, 2)) > 0, near, np.nan)


def ranks(maps: Blocks) -> Blocks:
    """Replace the blocks of each map by their ranks."""
    return rankdata(maps.reshape(len(maps), -1), axis=1).reshape(maps.shape)


def correlation(a: Blocks, b: Blocks) -> Blocks:
    """Return Pearson's correlation (N,) of two stacks of maps; NaN where one is constant."""
    a, b = (x.reshape(len(x), -1) for x in (a, b))
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    norms = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return (a * b).sum(axis=1) / np.where(norms > 0, norms, np.nan)


def insertion_minus_deletion(
    model: Model,
    pixels: Tensor,
    inside: NDArray[np.bool_],
    maps: Sequence[Blocks],
    class_id: int = 1,
) -> NDArray[np.float64]:
    """Return by map the area under insertion minus that under deletion of the probability.

    The audit's curves: insertion of the best blocks is removal of the worst, read from its end.
    """
    baseline = tile_blur(pixels, inside)
    ends = probability(model, torch.stack([pixels, baseline]), inside, class_id)
    areas = []
    for heat in maps:
        both = []
        for key in (heat, -heat):
            counts = [round(share * key.size) for share in SHARES]
            removed = [remove_first(pixels, baseline, key, count) for count in counts]
            values = probability(model, torch.stack(removed), inside, class_id)
            both.append(np.trapezoid([ends[0], *values, ends[1]], [0, *SHARES, 1]))
        areas.append(both[0] - both[1])
    return np.array(areas)


def baseline_maps(inside: NDArray[np.bool_]) -> list[Blocks]:
    """Return maps that know nothing of the network: nearness to the object, and noise."""
    near = -distance(inside)
    return [near, np.random.default_rng(1).random(near.shape)]


BASELINES = ("distance", "random")
