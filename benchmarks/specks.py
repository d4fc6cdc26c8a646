"""Measure tracing, joining and evidence of 100,000 specks on one image; each must be found once.

Usage: specks.py [--count N] [--size PX] [--csv FILE]

The network recognises classes by their colours. The run has its own process.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from math import ceil, sqrt
from pathlib import Path

import numpy as np
import rasterio
import torch
from memory import append_rows, environment
from rasterio.transform import from_origin
from torch import nn

from capecam.analysis.benchmark.measure import peak_resident_mb
from capecam.api import Model, load_settings, run
from capecam.model.model import Normalisation
from capecam.settings import CAPE_TOWN_CLASSES

LARGEST = 9
"""Maximum edge of a speck in pixels; the median annotated object has 29 x 29."""
GAP = 4
"""Minimum distance of two specks in pixels, so that none are joined."""


class ColourNetwork(nn.Module):
    """Network that predicts class k where channel k - 1 is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.AvgPool2d(32), nn.Conv2d(3, 3, 1, bias=False), nn.ReLU())
        self.encoder[1].weight.data = torch.eye(3).view(3, 3, 1, 1)
        self.up = nn.Upsample(scale_factor=32)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = 8 * self.relu(x - 0.5) + 1e-3 * self.up(self.encoder(x))
        return torch.cat([torch.ones_like(found[:, :1]), found], dim=1)


def colour_model() -> Model:
    """Return a model that recognises classes by their colours."""
    scaling = Normalisation(1.0, (0.0,) * 3, (1.0,) * 3)
    network = ColourNetwork().eval().requires_grad_(False)
    return Model(network, CAPE_TOWN_CLASSES, scaling, "encoder.1", "colour", "0" * 64, ())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=12_500, help="edge of the image in pixels")
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/specks.csv"))
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(Path(arguments.measure))))
        return
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder) / "image.tif", arguments.count, arguments.size)
        command = [sys.executable, __file__, "--measure", folder]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row = {"specks": arguments.count, **json.loads(done.stdout.splitlines()[-1])}
    print(row)
    append_rows(arguments.csv, [row])


def draw(path: Path, count: int, size: int) -> None:
    """Draw each speck in its own square, with a random offset and size."""
    rng = np.random.default_rng(0)
    across = ceil(sqrt(count))
    pitch = size // across
    largest = min(LARGEST, pitch - GAP)
    pixels = np.full((3, size, size), 40, np.uint8)
    for n in range(count):
        height, width = rng.integers(1, largest + 1, 2)
        row, col = divmod(n, across)
        top = row * pitch + rng.integers(0, pitch - GAP - height + 1)
        left = col * pitch + rng.integers(0, pitch - GAP - width + 1)
        pixels[n % 3, top : top + height, left : left + width] = 240
    profile = {
        "driver": "GTiff", "width": size, "height": size, "count": 3, "dtype": "uint8",
        "crs": "ESRI:102562", "transform": from_origin(-51000, -3763000, 0.08, 0.08),
        "tiled": True, "compress": "ZSTD",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(pixels)


def measure(folder: Path) -> dict[str, object]:
    """Run in this process and return the measurements; child processes gather the evidence."""
    options = {
        "sources": [str(folder / "image.tif")],
        "out": str(folder / "out"),
        "detections.min_area_m2": 0.0,
    }
    outcome = run(load_settings(None, options), model=colour_model())
    own, children = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "traced": sum(outcome.city.detections["traced"].values()),
        "kept": sum(outcome.city.detections["kept"].values()),
        "seconds": round(outcome.seconds, 1),
        "cpu_s": round(own.ru_utime + own.ru_stime, 1),
        "evidence_cpu_s": round(children.ru_utime + children.ru_stime, 1),
        "peak_mb": peak_resident_mb(),
        **environment(),
    }


if __name__ == "__main__":
    main()
