"""Compare the last convolution and the stage's output as target layers of the tile's CAMs.

Usage: target_layer.py [--objects N] [--csv FILE]

The sample model on scenes of the sample city that it was not trained on; ``planted.py`` has the
same comparison for cities with planted reasons.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from reasons.maps import Combination, Explainer
from reasons.ranking import (
    BASELINES,
    baseline_maps,
    energy,
    insertion_minus_deletion,
    peak_near,
)
from reasons.subjects import DETECTED, STRIDE_PX, probability, tensor
from reasons.tables import interval, mean
from reasons.words import distance
from torch import Tensor

from capecam.analysis.benchmark.measure import machine
from capecam.analysis.benchmark.table import commit
from capecam.analysis.benchmark.workload import sample_model
from capecam.attribution.methods import GUIDED
from capecam.demo.canvas import covers_centres
from capecam.demo.scene import draw_scene
from capecam.grid import Window

TEST_SEEDS = range(900_000, 900_012)
"""Scenes that scripts/train_sample_model.py tests on."""

SCENE_PX, TILE_PX = 960, 320
WAYS = tuple(
    Combination(method, score, layer)
    for method, score, layer in product(
        ("gradcam", "gradcampp", GUIDED), ("tile mean", "predicted"), ("conv", "32")
    )
)


class Target(NamedTuple):
    """A collector in a tile that is centred on it."""

    pixels: Tensor
    """(3, S, S) uint8."""
    inside: NDArray[np.bool_]
    class_id: int


def targets() -> Iterator[Target]:
    """Yield the collectors whose tiles lie in their scenes."""
    for seed in TEST_SEEDS:
        scene = draw_scene(seed, SCENE_PX, SCENE_PX)
        for thing in scene.objects:
            x, y = thing.polygon.centroid.x, thing.polygon.centroid.y
            row, col = (round((v - TILE_PX / 2) / STRIDE_PX) * STRIDE_PX for v in (y, x))
            window = Window(row, col, TILE_PX, TILE_PX)
            inside = covers_centres(thing.polygon, window)
            if Window(0, 0, SCENE_PX, SCENE_PX).contains(window) and inside.any():
                cut = scene.pixels[row : row + TILE_PX, col : col + TILE_PX]
                yield Target(tensor(cut), inside, thing.class_id)


def measure(count: int) -> list[dict[str, object]]:
    """Return a row for each method, score and layer, and for the baselines."""
    model = sample_model()
    model.network.to(memory_format=torch.channels_last)
    explainer = Explainer(model)
    areas, inside, near = [], [], []
    for pixels, mask, class_id in targets():
        if probability(model, pixels[None], mask, class_id)[0] < DETECTED:
            continue
        maps = explainer.maps(pixels, mask, WAYS, class_id)
        every = [*maps, *baseline_maps(mask)]
        areas.append(insertion_minus_deletion(model, pixels, mask, every, class_id))
        inside.append(energy(np.stack(every), mask))
        near.append(peak_near(np.stack(every), distance(mask)))
        if len(areas) == count:
            break
    names = [way._asdict() for way in WAYS] + [
        {"method": name, "score": "", "layer": ""} for name in BASELINES
    ]
    rng = np.random.default_rng(0)
    return [
        {
            **name,
            **interval(np.array(areas)[:, n], rng),
            "inside": mean(np.array(inside)[:, n]),
            "peak_near": mean(np.array(near)[:, n]),
            "objects": len(areas),
        }
        for n, name in enumerate(names)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, default=24)
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/target-layer.csv"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    here = {
        "machine": machine(torch.device("cpu")),
        "torch": torch.__version__,
        "commit": commit(),
    }
    rows = [row | here for row in measure(arguments.objects)]
    with arguments.csv.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
