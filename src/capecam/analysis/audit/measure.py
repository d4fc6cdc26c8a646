"""Measurements of the three tests at one detection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from capecam.analysis.audit.block_maps import (
    Explain,
    Heat,
    block_heat,
    correlation,
    is_constant,
    valid_blocks,
)
from capecam.analysis.audit.deletion_insertion import Target, blur, curves
from capecam.analysis.audit.randomization import spearman
from capecam.analysis.audit.sampling import DetectionTiles
from capecam.attribution.engine import Engine
from capecam.grid import Tiling, Window


@dataclass(frozen=True, slots=True)
class AuditEngines:
    """Engines and tiling shared by all detections."""

    engine: Engine
    randomized: dict[str, Engine]
    """Engines by stage, whose network is random from the top down to this stage."""
    tiling: Tiling
    batch_size: int
    """Number of tiles in a batch."""
    explain: Explain = block_heat


@dataclass(frozen=True, slots=True)
class AuditMeasurement:
    """Results of a detection with M methods; NaN is undefined."""

    id: str
    class_id: int
    shares: Heat
    """(T,) removed shares of the blocks."""
    curves: Heat
    """(M, 3, T, 2) by method, ``ORDERS``, share and ``MEASURES``."""
    empty: NDArray[np.bool_]
    """(M,) bool; True is a constant map, which is 0 everywhere."""
    randomized: Heat
    """(stages, M) rank correlation of the map with that of the randomized network."""
    shift_correlation: Heat
    """(M,) mean correlation with the maps of shifted tiles where both overlap."""
    shift_ratio: Heat
    """(M,) mean ratio of the two means inside the object, the smaller by the larger."""


def measure_detection(
    tiles: DetectionTiles, engines: AuditEngines, rng: np.random.Generator
) -> AuditMeasurement:
    """Explain a detection and apply the three tests to its maps.

    Raises:
        NotFiniteError: the network's gradients overflowed.
    """
    detection, tile, tiling = tiles.detection, tiles.tile, engines.tiling
    valid = valid_blocks(tile.valid, tiling.stride)
    heat, *shifted = engines.explain(
        engines.engine, tiling, [tile, *tiles.shifted], detection.class_id
    )
    inside = torch.from_numpy(tiles.inside).to(tile.pixels.device)
    target = Target(tile, blur(tile), inside, valid, detection.class_id)
    shares, values = curves(engines.engine, target, heat, rng, engines.batch_size)
    random = [
        engines.explain(engine, tiling, [tile], detection.class_id)[0]
        for engine in engines.randomized.values()
    ]
    shift_correlation, shift_ratio = _shift_agreement(tiles, heat, shifted, valid)
    return AuditMeasurement(
        detection.id,
        detection.class_id,
        shares,
        values,
        is_constant(heat, valid),
        np.array([spearman(heat, each, valid) for each in random]).reshape(len(random), len(heat)),
        shift_correlation,
        shift_ratio,
    )


def _shift_agreement(
    tiles: DetectionTiles, heat: Heat, shifted: list[Heat], valid: NDArray[np.bool_]
) -> tuple[Heat, Heat]:
    """Return mean correlation and ratio (M,) of a tile's maps with those of the shifted tiles."""
    n = len(valid)
    stride = len(tiles.inside) // n
    inside = tiles.inside.reshape(n, stride, n, stride).mean(axis=(1, 3))
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
