"""Measure plan, run, second run and finish of a city in its real layout, with small images.

Usage: city.py BOUNDS [--scale N] [--images N] [--csv FILE]

BOUNDS has one line per image, ``name: left=.., bottom=.., right=.., top=..`` in metres, as cities
list their deliveries. Each becomes an image with 1/N of its pixels on both axes at the same
relative location; odd sizes, gaps and offsets of a fraction of a pixel are kept. The network is one
convolution that recognises a class by its colour (``specks.py``): the subject is everything around
the network. One detection per image has evidence.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from memory import append_rows, environment
from rasterio.transform import from_origin
from specks import colour_model

from capecam.analysis.benchmark.measure import peak_resident_mb
from capecam.api import load_settings, run
from capecam.run.city_products import finish
from capecam.run.plan import make_plan
from capecam.store.records import TotalsRecord

GSD = 0.08
LINE = re.compile(r"(\S+): left=(\S+), bottom=(\S+), right=(\S+), top=(\S+)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bounds", type=Path)
    parser.add_argument("--scale", type=int, default=125)
    parser.add_argument("--images", type=int, default=None, help="only the first N")
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/city.csv"))
    arguments = parser.parse_args()
    lines = LINE.findall(arguments.bounds.read_text())[: arguments.images]
    with tempfile.TemporaryDirectory() as folder:
        for name, *bounds in lines:
            draw(Path(folder) / "in" / f"{name}.tif", [*map(float, bounds)], arguments.scale)
        rows = [row | environment() for row in measure(Path(folder), len(lines))]
    for row in rows:
        print(row, flush=True)
    append_rows(arguments.csv, rows)


def draw(path: Path, bounds: list[float], scale: int) -> None:
    """Write noise with a bright rectangle, compressed without loss."""
    left, bottom, right, top = bounds
    path.parent.mkdir(exist_ok=True)
    size = GSD * scale
    width, height = (max(1, round((b - a) / size)) for a, b in ((left, right), (bottom, top)))
    rng = np.random.default_rng(round(abs(left * 7 + top)))
    pixels = rng.integers(20, 60, (3, height, width)).astype(np.uint8)
    pixels[0, height // 3 : height // 2, width // 3 : width // 2] = 230
    profile = {
        "driver": "GTiff", "width": width, "height": height, "count": 3, "dtype": "uint8",
        "crs": "ESRI:102562", "compress": "deflate",
        "transform": from_origin(scaled(left, scale), scaled(top, scale), size, size),
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(pixels)


def scaled(coordinate: float, scale: int) -> float:
    """Return a coordinate of the smaller scale with the same offset from the grid in pixels."""
    pixels = coordinate / GSD
    return (round(pixels / scale) + pixels - round(pixels)) * GSD * scale


def measure(folder: Path, images: int) -> list[dict[str, object]]:
    """Return time, peak memory and counts of each step."""
    settings = load_settings(
        None,
        {
            "sources": [str(folder / "in")], "out": str(folder / "out"), "tiling.size": 32,
            "tiling.overlap": 12, "tiling.stride": 4, "tiling.anchor": (0.0, 0.0),
            "compute.readers": 0, "detections.min_area_m2": 0.0,
        },
    )  # fmt: skip
    rows = []

    def step(name: str, call) -> None:
        started = time.perf_counter()
        result = call()
        seconds = round(time.perf_counter() - started, 1)
        cost = {"seconds": seconds, "peak_mb": peak_resident_mb()}
        rows.append({"step": name, "images": images, **cost, **result})

    def plan() -> dict[str, int | None]:
        result = make_plan(settings)
        return _counts(len(result.todo), result.tiles, len(result.failures))

    def process() -> dict[str, int | None]:
        outcome = run(settings, model=colour_model())
        return _counts(outcome.done, outcome.tiles, len(outcome.failures), outcome.totals)

    def city() -> dict[str, int | None]:
        totals = finish(folder / "out").totals
        return _counts(totals.cells, totals.tiles, 0, totals)

    step("plan", plan)
    step("run", process)
    step("run again: nothing to do", process)
    step("finish", city)
    return rows


def _counts(
    cells: int, tiles: int, failures: int, totals: TotalsRecord | None = None
) -> dict[str, int | None]:
    detections = sum(count for count, _ in totals.by_class.values()) if totals else None
    return {"cells": cells, "tiles": tiles, "failures": failures, "detections": detections}


if __name__ == "__main__":
    main()
