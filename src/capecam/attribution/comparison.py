"""Measure how far heatmaps are from those of a reference."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from capecam.attribution.methods import resample


@dataclass(frozen=True, slots=True)
class MapError:
    """Differences of range-scaled maps, over tiles and classes whose reference is not empty."""

    maps: int
    """Number of maps compared."""
    correlation: dict[str, float]
    """Mean correlation by method, over the tiles of the class where it is lowest."""
    max_difference: float | None
    mean_difference: float | None
    """None without maps to compare."""


def map_error(heat: dict[str, Tensor], reference: dict[str, Tensor]) -> MapError:
    """Compare heatmaps with those of a reference.

    Args:
        heat: by method, (B, C, h, w).
        reference: likewise, of at least as many tiles and at any resolution; it is resampled.
    """
    correlation, differences, count = {}, [], 0
    for method, maps in heat.items():
        expected = reference[method][: len(maps)].to(maps.device).float()
        filled = expected.flatten(2).amax(dim=2) > 0
        truth = by_range(resample(expected, maps.shape[-1]))
        scaled = by_range(maps.float())
        by_class = [
            pearson(scaled[:, c][filled[:, c]], truth[:, c][filled[:, c]]).mean().item()
            for c in range(filled.shape[1])
            if filled[:, c].any()
        ]
        if by_class:
            correlation[method] = min(by_class)
        differences.append((scaled - truth)[filled].abs().flatten(1))
        count += int(filled.sum())
    if not count:
        return MapError(0, {}, None, None)
    return MapError(
        count,
        correlation,
        max(d.max().item() for d in differences if d.numel()),
        fmean(d.mean().item() for d in differences if d.numel()),
    )


def by_range(maps: Tensor) -> Tensor:
    """Scale each map of (..., h, w) to ``(x - min) / (max - min)``; a constant one becomes 0."""
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    return (maps - low) / torch.where(high > low, high - low, 1.0)


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlate pairs of maps: (N, h, w), (N, h, w) -> (N,); 0 where one of them is constant."""
    a, b = (x.double().flatten(1) for x in (a, b))
    a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
    norms = a.norm(dim=1) * b.norm(dim=1)
    return (a * b).sum(dim=1) / torch.where(norms > 0, norms, 1.0)
