"""Measurements of the tests at one detection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from capecam.analysis.audit.block_maps import (
    Explain,
    Heat,
    Network,
    block_maps,
    correlation,
    energy_share,
    is_constant,
)
from capecam.analysis.audit.deletion_insertion import measure_curves
from capecam.analysis.audit.randomization import spearman
from capecam.analysis.audit.sampling import DetectionTiles
from capecam.grid import Tiling, Window
from capecam.pipeline.blocks import block_any, block_mean, block_ranks

BASELINES = ("distance", "random")
"""Orders that know nothing of the network: by distance to the object, and at random."""

RANDOM_ORDERS = 2
"""Number of random orders, whose curves are averaged to reduce their variance."""


@dataclass(frozen=True, slots=True)
class AuditEngines:
    """Networks and tiling shared by all detections."""

    network: Network
    randomized: dict[str, Network]
    """Networks by stage, random from the top down to this stage."""
    tiling: Tiling
    batch_size: int
    """Number of tiles in a batch."""
    explain: Explain = block_maps


@dataclass(frozen=True, slots=True, eq=False)
class AuditMeasurement:
    """Results of a detection with M methods and B ``BASELINES``; NaN is undefined."""

    id: str
    class_id: int
    shares: Heat
    """(T,) removed or inserted share of the blocks."""
    deletion: Heat
    """(M + B, T) probability of the object, 1 for that in the whole tile."""
    insertion: Heat
    """(M + B, T)."""
    kept: Heat
    """(margins,) with the object and a margin alone."""
    empty: NDArray[np.bool_]
    """(M,) bool; True is a constant map, which is 0 everywhere."""
    randomized: Heat
    """(stages, M) rank correlation of the map with that of the randomized network; 0 if that is
    constant."""
    shift_correlation: Heat
    """(M,) mean correlation with the maps of shifted tiles where both overlap."""
    shift_ratio: Heat
    """(M,) mean ratio of the two means inside the object, the smaller by the larger."""
    leak: Heat
    """(M,) share of the energy on other objects of the class; NaN without any in the tile."""
    seconds: Heat
    """(M,) time of one map."""


def measure_detection(
    tiles: DetectionTiles, engines: AuditEngines, rng: np.random.Generator
) -> AuditMeasurement:
    """Explain a detection and apply the tests to its maps.

    Raises:
        NotFiniteError: the network's gradients overflowed.
    """
    tile, tiling, class_id = tiles.tile, engines.tiling, tiles.class_id
    maps = engines.explain(engines.network, tiling, [tile, *tiles.shifted], class_id)
    heat, *shifted = maps.heat
    valid = block_any(tile.valid.cpu().numpy(), tiling.stride)
    empty = is_constant(heat, valid)
    distance = block_mean(tiles.own.outside_m - tiles.own.depth_m, tiling.stride)
    keys = [*-heat, distance, *np.zeros((RANDOM_ORDERS, *valid.shape))]
    ranks = np.stack([block_ranks(key, valid, rng) for key in keys])
    curves = measure_curves(engines.network.objects, tiles, ranks, engines.batch_size)
    randomized = [
        _similarity(heat, engines.explain(network, tiling, [tile], class_id).heat[0], valid)
        for network in engines.randomized.values()
    ]
    shift_correlation, shift_ratio = _shift_agreement(tiles, heat, shifted, valid)
    return AuditMeasurement(
        tiles.id,
        class_id,
        curves.shares,
        _by_method(curves.deletion, empty),
        _by_method(curves.insertion, empty),
        curves.kept,
        empty,
        np.array(randomized).reshape(len(randomized), len(heat)),
        shift_correlation,
        shift_ratio,
        energy_share(heat, block_mean(tiles.own.others, tiling.stride)),
        maps.seconds,
    )


def _by_method(curves: Heat, empty: NDArray[np.bool_]) -> Heat:
    """Return (M + B, T) of (M + 1 + ``RANDOM_ORDERS``, T); NaN for an empty map."""
    random = curves[-RANDOM_ORDERS:].mean(axis=0)
    result = np.concatenate([curves[:-RANDOM_ORDERS], random[None]])
    result[: len(empty)][empty] = np.nan
    return result


def _similarity(heat: Heat, random: Heat, valid: NDArray[np.bool_]) -> Heat:
    """Return the rank correlation (M,) of maps (M, n, n) with those of a randomized network.

    A map that has become constant has nothing in common with what it was.
    """
    lost = is_constant(random, valid) & ~is_constant(heat, valid)
    return np.where(lost, 0.0, spearman(heat, random, valid))


def _shift_agreement(
    tiles: DetectionTiles, heat: Heat, shifted: list[Heat], valid: NDArray[np.bool_]
) -> tuple[Heat, Heat]:
    """Return mean correlation and ratio (M,) of a tile's maps with those of the shifted tiles."""
    stride = len(tiles.own.inside) // len(valid)
    inside = block_mean(tiles.own.inside, stride)
    pairs = [
        agreement((tiles.tile.window, heat), (tile.window, other), inside, valid)
        for tile, other in zip(tiles.shifted, shifted, strict=True)
    ]
    correlations, ratios = np.array(pairs).reshape(len(pairs), 2, len(heat)).transpose(1, 0, 2)
    return defined_mean(correlations), defined_mean(ratios)


def agreement(
    first: tuple[Window, Heat],
    second: tuple[Window, Heat],
    inside: Heat,
    valid: NDArray[np.bool_],
) -> tuple[Heat, Heat]:
    """Compare the maps of two tiles where these overlap.

    Args:
        first: window and maps (M, n, n) of a tile.
        second: window and maps of another tile, whole blocks away.
        inside: (n, n) share of each block of the first tile in the object.
        valid: (n, n) bool; True is a block of the first tile with imagery.

    Returns:
        (M,) correlation over common blocks, NaN where a map is constant; and (M,) the smaller of
        the two means inside the object by the larger, NaN where both are 0.
    """
    common = first[0].intersection(second[0])
    if common is None:
        raise ValueError(f"{first[0]} and {second[0]} do not overlap")
    stride = first[0].width // first[1].shape[-1]
    here, there = (
        tuple(slice(s.start // stride, s.stop // stride) for s in common.slices(window))
        for window, _ in (first, second)
    )
    both, weight = valid[here], inside[here]
    a, b = first[1][:, *here], second[1][:, *there]
    mean_a, mean_b = ((x * weight).sum(axis=(1, 2)) for x in (a, b))
    larger = np.maximum(mean_a, mean_b)
    ratio = np.minimum(mean_a, mean_b) / np.where(larger > 0, larger, np.nan)
    return correlation(a[:, both], b[:, both]), np.asarray(ratio)


def defined_mean(values: Heat) -> Heat:
    """Average along the first axis without NaN; NaN where nothing is defined."""
    count = (~np.isnan(values)).sum(axis=0)
    return np.asarray(np.nansum(values, axis=0) / np.where(count > 0, count, np.nan))
