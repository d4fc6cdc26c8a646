"""Everything that is measured at one detection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from capecam.analysis.audit.block_maps import Explain, Heat, block_heat, even, seen_blocks
from capecam.analysis.audit.deletion_insertion import Target, blur, curves
from capecam.analysis.audit.randomization import spearman
from capecam.analysis.audit.sampling import DetectionTiles
from capecam.analysis.audit.shift import Sighting, agreement
from capecam.attribution.engine import Engine
from capecam.grid import Tiling


@dataclass(frozen=True, slots=True)
class AuditEngines:
    """What all detections are examined with."""

    engine: Engine
    randomised: dict[str, Engine]
    """By stage: the same network with random weights from the top down to there."""
    tiling: Tiling
    batch_size: int
    """Tiles that go through the network together."""
    explain: Explain = block_heat


@dataclass(frozen=True, slots=True)
class AuditMeasurement:
    """What was found at a detection with M methods. NaN: not defined."""

    id: str
    class_id: int
    shares: Heat
    """(T,) of the blocks that are removed."""
    curves: Heat
    """(M, 3, T, 2) by method, ``ORDERS``, share and ``MEASURES``."""
    empty: NDArray[np.bool_]
    """(M,) True where the map is the same everywhere, which is to say 0."""
    randomised: Heat
    """(stages, M) rank correlation of the map with that of the randomised network."""
    shift_correlation: Heat
    """(M,) of the maps of shifted tiles with this one, where both see the same."""
    shift_ratio: Heat
    """(M,) of their means inside the object, the smaller by the larger."""


def measure_detection(
    exhibit: DetectionTiles, bench: AuditEngines, rng: np.random.Generator
) -> AuditMeasurement:
    """Explain a detection, and put the explanation to the three tests.

    Raises:
        NotFiniteError: the network's gradients overflowed.
    """
    specimen, tile, stride = exhibit.specimen, exhibit.tile, bench.tiling.stride
    seen = seen_blocks(tile.valid, stride)
    here, *others = bench.explain(
        bench.engine, bench.tiling, [tile, *exhibit.shifted], specimen.class_id
    )
    inside = torch.from_numpy(exhibit.inside).to(tile.pixels.device)
    target = Target(tile, blur(tile), inside, seen, specimen.class_id)
    shares, followed = curves(bench.engine, target, here, rng, bench.batch_size)
    random = [
        bench.explain(engine, bench.tiling, [tile], specimen.class_id)[0]
        for engine in bench.randomised.values()
    ]
    correlation, ratio = _shifts(exhibit, here, others, seen)
    return AuditMeasurement(
        specimen.id,
        specimen.class_id,
        shares,
        followed,
        even(here, seen),
        np.array([spearman(here, each, seen) for each in random]).reshape(len(random), len(here)),
        correlation,
        ratio,
    )


def _shifts(
    exhibit: DetectionTiles, here: Heat, others: list[Heat], seen: NDArray[np.bool_]
) -> tuple[Heat, Heat]:
    """Correlation and ratio with the shifted tiles, each (M,): means over those that have one."""
    inside = _share(exhibit.inside, seen.shape[0])
    first = Sighting(exhibit.tile.window, here)
    found = [
        agreement(first, Sighting(tile.window, heat), inside, seen)
        for tile, heat in zip(exhibit.shifted, others, strict=True)
    ]
    correlation, ratio = np.array(found).reshape(len(found), 2, len(here)).transpose(1, 0, 2)
    return mean(correlation), mean(ratio)


def _share(inside: NDArray[np.bool_], n: int) -> Heat:
    """(S, S) to (n, n): the share of each block that belongs to the object."""
    stride = len(inside) // n
    return np.asarray(inside.reshape(n, stride, n, stride).mean(axis=(1, 3)))


def mean(values: Heat) -> Heat:
    """Along the first axis, of what is defined; NaN where nothing is."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=0)
    total = np.where(defined, values, 0).sum(axis=0)
    return np.asarray(total / np.where(count > 0, count, np.nan))
