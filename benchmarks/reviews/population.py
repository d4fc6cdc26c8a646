"""Blocks of mapped scenes as the populations from which reviews are simulated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capecam.analysis.review.blocks import BlockGrid, BlockList
from capecam.analysis.review.sampling import expected_spread

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

CLASSES = ("solar panel", "water heater", "pool heater")
APART = 100
"""Blocks between scenes, so that they are not beside each other."""


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """N blocks of a city whose truth is known. C: classes."""

    name: str
    zone: Integers
    """(N,) zone of each block."""
    spread: Floats
    """(N,) what the map is expected to have wrong."""
    found: Floats
    """(N, C) number of objects of the map."""
    right: Floats
    """(N, C) number of those that are there."""
    true: Floats
    """(N, C) number of objects that are there."""
    found_m2: Floats
    true_m2: Floats
    typical_m2: Floats
    """(C,) root mean square of the areas of objects of the map."""

    def __len__(self) -> int:
        return len(self.zone)


def read_population(
    folder: Path, name: str, block_m: float, side_m: float, *, zones: int, empty: int
) -> Population:
    """Read the scenes of a map.

    Args:
        folder: with the tables of ``scenes.write_maps``.
        name: of the map.
        block_m: edge of a block.
        side_m: edge of a scene.
        zones: number of zones: each is some scenes in the order of their seeds.
        empty: blocks without anything that are added for each block, as in a city with open land.
    """
    tables = [pd.read_csv(path) for path in sorted(folder.glob(f"{name}-*.csv"))]
    across = round(side_m / block_m)
    scenes = np.arange(len(tables))
    row, col = np.indices((across, across)).reshape(2, -1)
    here = np.stack([
        np.add.outer(scenes * APART, col).ravel(), np.tile(row, len(scenes))
    ], axis=1)  # fmt: skip
    zone = np.repeat(scenes * zones // len(scenes), across**2)
    added = len(here) * empty
    open_land = np.stack([np.arange(added) * 3, np.full(added, 10 * APART)], axis=1)
    places = np.concatenate([here, open_land])
    zone = np.concatenate([zone, np.resize(zone, added)])
    order = np.lexsort((places[:, 0], places[:, 1]))
    blocks, zone = BlockList(BlockGrid((block_m, block_m)), places[order]), zone[order]
    objects = pd.concat([table.assign(scene=n) for n, table in enumerate(tables)])
    within = np.minimum(objects[["x", "y"]].to_numpy() // block_m, across - 1).astype(np.int64)
    block = blocks.find(within + np.stack([objects["scene"] * APART, objects["scene"] * 0], axis=1))
    class_id, true_class = (objects[c].to_numpy(np.int64) for c in ("class_id", "true_class"))
    is_found, is_true = class_id > 0, true_class > 0

    def sums(chosen: NDArray[np.bool_], classes: Integers, values: Floats | None = None) -> Floats:
        result = np.zeros((len(blocks), len(CLASSES)))
        added = 1.0 if values is None else values[chosen]
        np.add.at(result, (block[chosen], classes[chosen] - 1), added)
        return result

    area_m2, true_m2 = (objects[c].to_numpy(np.float64) for c in ("area_m2", "true_m2"))
    confidence = objects["confidence"].to_numpy(np.float64)
    spread = expected_spread(blocks, block[is_found], confidence[is_found], area_m2[is_found])
    return Population(
        name,
        zone,
        spread,
        sums(is_found, class_id),
        sums(is_found & (class_id == true_class), class_id),
        sums(is_true, true_class),
        sums(is_found, class_id, area_m2),
        sums(is_true, true_class, true_m2),
        np.sqrt(
            [np.mean([*area_m2[class_id == k + 1] ** 2] or [1.0]) for k in range(len(CLASSES))]
        ),
    )


def typical(area_m2: Floats) -> float:
    """Return the root mean square of areas; 1 without any."""
    return float(np.sqrt(np.mean(area_m2**2))) if len(area_m2) else 1.0
