"""Measure peak memory and time of whole runs: memory must not grow with the height of a cell.

Usage: memory.py [--size WIDTHxHEIGHT ...] [--sample-model] [--csv FILE] [--products FILE]

Each run has its own process. The default network is one small convolution, because the subject is
reading, stitching, writing and tracing; --sample-model uses the trained sample model.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.transform import from_origin
from torch import nn

from capecam.analysis.benchmark.measure import machine, peak_resident_mb
from capecam.analysis.benchmark.table import commit
from capecam.api import Model, load_model, load_settings, run
from capecam.attribution.device import pick_device
from capecam.demo.scene import draw_scene
from capecam.model.model import Normalisation
from capecam.runtime.heap import keep_heap
from capecam.settings import CAPE_TOWN_CLASSES

SIZES = ("12500x12500", "12500x25000")
STAGES = ("read", "engine", "stitch", "trace", "finish")
SCENE = 2560
"""Edge of the drawn scene in pixels; larger images repeat it."""


class CheapNetwork(nn.Module):
    """Network with the shapes of a segmentation network, at nearly no cost."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.AvgPool2d(32), nn.Conv2d(3, 16, 1), nn.ReLU())
        self.head = nn.Sequential(nn.Conv2d(16, 4, 1), nn.Upsample(scale_factor=32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x))


def cheap_model() -> Model:
    """Return a seeded model of :class:`CheapNetwork`."""
    torch.manual_seed(0)
    scaling = Normalisation(1.0, (0.0,) * 3, (1.0,) * 3)
    network = CheapNetwork().eval().requires_grad_(False)
    return Model(network, CAPE_TOWN_CLASSES, scaling, "encoder.1", "cheap", "0" * 64, ())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", action="append", help="WIDTHxHEIGHT; may be repeated")
    parser.add_argument("--sample-model", action="store_true")
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/memory.csv"))
    parser.add_argument("--products", type=Path, default=Path("benchmarks/results/products.csv"))
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(Path(arguments.measure), arguments.sample_model)))
        return
    rows = [run_in_child(size, arguments.sample_model) for size in arguments.size or SIZES]
    products = [
        {"size": row["size"], "network": row["network"], **product, "commit": row["commit"]}
        for row in rows
        for product in row.pop("products")
    ]
    append_rows(arguments.csv, rows)
    append_rows(arguments.products, products)


def append_rows(path: Path, rows: list[dict[str, object]]) -> None:
    """Append rows to a CSV file, which gets a header if it is new."""
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def run_in_child(size: str, sample_model: bool) -> dict[str, object]:
    """Draw an image of this size, run it in a child process, and print the result."""
    width, height = map(int, size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder) / "image.tif", width, height)
        command = [sys.executable, __file__, "--measure", folder]
        command += ["--sample-model"] if sample_model else []
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row = {"size": size, **json.loads(done.stdout.splitlines()[-1])}
    print(row, flush=True)
    return row


def draw(path: Path, width: int, height: int) -> None:
    """Write a drawn scene, repeated to the size, as a tiled JPEG."""
    scene = np.moveaxis(draw_scene(0, SCENE, SCENE).pixels, -1, 0)
    across = -(-width // SCENE)
    profile = {
        "driver": "GTiff", "width": width, "height": height, "count": 3, "dtype": "uint8",
        "crs": "ESRI:102562", "transform": from_origin(-51000, -3763000, 0.08, 0.08),
        "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "JPEG",
        "photometric": "YCBCR", "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as dataset:
        for row in range(0, height, 512):
            n = min(512, height - row)
            strip = scene[:, row % SCENE : row % SCENE + n]
            strip = np.tile(strip, (1, 1, across))[:, :, :width]
            dataset.write(strip, window=rasterio.windows.Window(0, row, width, n))


def measure(folder: Path, sample_model: bool) -> dict[str, object]:
    """Run in this process, as a worker does, and return the measurements."""
    keep_heap()
    options: dict[str, object] = {
        "sources": [str(folder / "image.tif")],
        "out": str(folder / "out"),
        "tiling.cell_size": 1_000_000,  # one cell, however large
        "objects.explain": "none",  # it is about the products of a cell
    }
    config = None
    model = cheap_model()
    if sample_model:
        data = files("capecam.demo") / "data"
        config = Path(str(data / "demo.yaml"))
        model = load_model(
            Path(str(data / "sample_model.safetensors")), load_settings(config).model
        )
    started = time.perf_counter()
    outcome = run(load_settings(config, options), model=model)
    seconds = time.perf_counter() - started
    products = [
        {
            "product": path.stem,
            "mb": round(path.stat().st_size / 1e6, 1),
            "write_s": round(outcome.work[f"write {path.stem}"], 1),
        }
        for path in sorted((folder / "out" / "cells").rglob("*.tif"))
    ]
    return {
        "network": model.architecture,
        "peak_mb": peak_resident_mb(),
        "seconds": round(seconds, 1),
        "tiles": outcome.tiles,
        "tiles_per_s": round(outcome.tiles / outcome.stages["cells"], 1),
        "engine_waited": round(outcome.engine_waited, 3),
        **{f"{name}_s": round(outcome.work[name], 1) for name in STAGES},
        "products": products,
        "exit_code": outcome.exit_code,
        **environment(),
    }


def environment(device: str = "auto") -> dict[str, object]:
    """Return the machine, the version of PyTorch and the commit of a measurement."""
    return {
        "machine": machine(pick_device(device)),
        "torch": torch.__version__,
        "commit": commit(),
    }


if __name__ == "__main__":
    main()
