"""Measure what tells wrong detections from right ones, in drawn cities and on real roofs.

Usage: right_or_wrong.py FOLDER [--seeds A,B] [--size PX] [--objects all|none]
                         [--real CONFIG.yaml --label MASK.tif] [--csv FILE]

Two cities are drawn, each as it is and under another acquisition (``CONDITIONS``), and mapped with
the sample network. A calibration is fitted to one city and judged in the other. FOLDER keeps cities
and runs; what it has is not done again. ``--real`` is the configuration of a run on images of which
``--label`` marks the true objects of class 1 with values above 0; there, blocks are held out.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from memory import environment
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from rasterio.features import shapes

from capecam.analysis.review.calibration import CalibrationRequest, labelled, labelled_data
from capecam.analysis.review.fitting import (
    Labelled,
    ablate,
    choose,
    choose_strength,
    fit,
    folds,
)
from capecam.analysis.review.held_out import Estimate, scores
from capecam.analysis.scoring import Rules
from capecam.api import load_settings, run
from capecam.demo.writing import write_demo
from capecam.store.file_names import DETECTIONS
from capecam.store.run_folder import RunFolder

Row = dict[str, object]

CONDITIONS = {"drawn": (0.0, 0), "shifted": (1.8, 12)}
"""Standard deviation of a blur in pixels, and a shift of the hue of 256: an acquisition that the
network has not seen."""

PROBABILITIES = ("confidence", "base", "p_right")
"""Orders that are probabilities, too; others have no ECE, Brier score and log-loss."""

REAL_IOU = (0.1, 0.3)
REAL_AREA_M2 = 0.5
"""Smallest area on real roofs: with the default of 1.7 fewer than 100 detections are left."""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Labelled detections of a run."""

    data: Labelled
    confidence: NDArray[np.float64]
    area_m2: NDArray[np.float64]

    @classmethod
    def of(cls, out: Path, truth: Path, iou: float) -> Judged:
        """Match the detections of a run with the truth."""
        folder = RunFolder.open_finished(out)
        table, right = labelled(folder, CalibrationRequest(out, truth, rules=Rules(iou)))
        data, _ = labelled_data(folder, table, right)
        return cls(data, table["confidence"].to_numpy(float), table["area_m2"].to_numpy(float))

    def orders(self) -> dict[str, NDArray[np.float64]]:
        """Return the orders that need no truth."""
        rng = np.random.default_rng(0)
        return {
            "random": rng.random(len(self.data)),
            "area": self.area_m2,
            "confidence": self.confidence,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", default="21,22", help="of the two cities")
    parser.add_argument("--size", type=int, default=2000, help="approximate size of an image")
    parser.add_argument("--objects", default="none", help="detections that are explained")
    parser.add_argument("--real", type=Path, default=None, help="configuration of a run")
    parser.add_argument("--label", type=Path, default=None, help="mask of its true objects")
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/right-or-wrong.csv"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows, worth = [], []
    for name, judged_run, orders in experiments(arguments):
        data = judged_run.data
        rows += [score_row(name, order, p, data) for order, p in orders.items()]
        worth += [{"experiment": name, **row} for row in signal_rows(data)]
    here = environment("cpu")
    write(arguments.csv, [row | here for row in rows])
    write(arguments.csv.with_stem(f"{arguments.csv.stem}-signals"), [row | here for row in worth])


def experiments(
    arguments: argparse.Namespace,
) -> Iterator[tuple[str, Judged, dict[str, NDArray[np.float64]]]]:
    """Yield experiments: name, detections that are judged, and orders of them."""
    first, second = map(int, arguments.seeds.split(","))
    cities: dict[tuple[int, str], Judged] = {}
    for condition in CONDITIONS:
        for seed in (first, second):
            folder = draw_city(arguments, seed, condition)
            cities[seed, condition] = Judged.of(folder / "out", folder / "truth.gpkg", 0.5)
    for condition in CONDITIONS:
        for a, b in ((first, second), (second, first)):
            target = cities[b, condition]
            name = f"{condition}, fitted to city {a}, judged in {b}"
            yield name, target, target.orders() | applied(cities[a, condition].data, target.data)
    for a, b in ((first, second), (second, first)):
        target = cities[b, "shifted"]
        name = f"fitted to city {a} as drawn, judged in {b} shifted"
        yield name, target, target.orders() | applied(cities[a, "drawn"].data, target.data)
    if arguments.real is not None:
        out, truth = map_real(arguments)
        for iou in REAL_IOU:
            target = Judged.of(out, truth, iou)
            choice = choose(target.data)
            held = {"base": choice.base, "p_right": choice.p}
            yield f"real, IoU {iou:g}, held out", target, target.orders() | held


def applied(known: Labelled, other: Labelled) -> dict[str, NDArray[np.float64]]:
    """Return the probabilities in one city by the truth of another."""
    base = fit(known, (), choose_strength(known, folds(known), ()))
    choice = choose(known)
    best = fit(known, choice.signals, choice.strength)
    return {
        "base": base.predict(other.columns(())),
        "p_right": best.predict(other.columns(choice.signals)),
    }


def score_row(name: str, order: str, p: NDArray[np.float64], data: Labelled) -> Row:
    """Return the scores of an order, with their intervals."""
    found = scores(np.clip(p, 0, None), data.right, data.block)
    if order not in PROBABILITIES:
        found = {key: found[key] for key in ("auc", "errors_first_tenth")}
    row: Row = {
        "experiment": name, "order": order, "objects": len(data), "wrong": int((~data.right).sum()),
        "best_first_tenth": min(1.0, 0.1 * len(data) / max(1, int((~data.right).sum()))),
    }  # fmt: skip
    for key in ("auc", "ece", "brier", "log_loss", "errors_first_tenth"):
        row |= columns(key, found.get(key))
    return row


def columns(name: str, estimate: Estimate | None) -> Mapping[str, object]:
    """Return a number and its interval as columns; empty where it is not defined."""
    if estimate is None:
        return {name: "", f"{name}_low": "", f"{name}_high": ""}
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def signal_rows(data: Labelled) -> list[Row]:
    """Return what each signal is worth on held-out blocks of one run, and whether it is chosen."""
    choice = choose(data)
    return [
        {
            "signal": each.signal,
            **columns("added", each.added),
            **columns("removed", each.removed),
            "used": int(each.signal in choice.signals),
        }
        for each in ablate(data, folds(data))
    ]


def draw_city(arguments: argparse.Namespace, seed: int, condition: str) -> Path:
    """Draw and map a city, unless it lies in the folder already."""
    folder: Path = arguments.folder / f"{seed}-{condition}"
    if not (folder / "out" / DETECTIONS).exists():
        if not folder.exists():
            write_demo(folder, seed, arguments.size)
            for path in sorted((folder / "images").glob("*.tif")):
                weaken(path, *CONDITIONS[condition])
        options = {
            "explain.methods": ["gradcam"],
            "explain.where": "detected",
            "explain.calibration_tiles": 8,
            "objects.explain": arguments.objects,
        }
        run(load_settings(folder / "demo.yaml", options))
    return folder


def weaken(path: Path, blur_px: float, hue: int) -> None:
    """Blur an image and shift its hue, in place."""
    if not blur_px and not hue:
        return
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
        image = Image.fromarray(np.moveaxis(dataset.read(), 0, -1))
        image = image.filter(ImageFilter.GaussianBlur(blur_px))
        h, s, v = image.convert("HSV").split()
        h = h.point([(n + hue) % 256 for n in range(256)])
        image = Image.merge("HSV", (h, s, v)).convert("RGB")
        dataset.write(np.moveaxis(np.asarray(image), -1, 0))


def map_real(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """Run the configuration, and write the mask's regions; return the run's folder and the file."""
    out, truth = arguments.folder / "real", arguments.folder / "real-truth.gpkg"
    if not (out / DETECTIONS).exists():
        options = {
            "out": out,
            "explain.methods": ["gradcam"],
            "explain.calibration_tiles": 8,
            "objects.explain": arguments.objects,
            "detections.min_area_m2": REAL_AREA_M2,
        }
        run(load_settings(arguments.real, options))
    name = RunFolder.open_finished(out).names[1]
    with rasterio.open(arguments.label) as dataset:
        marked = dataset.read(1) > 0
        regions = shapes(marked.astype(np.uint8), mask=marked, transform=dataset.transform)
        outlines = [shapely.geometry.shape(outline) for outline, _ in regions]
        table = gpd.GeoDataFrame({"class": name}, geometry=outlines, crs=dataset.crs)
    table.to_file(truth)
    return out, truth


def write(path: Path, rows: list[Row]) -> None:
    """Write a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )


if __name__ == "__main__":
    main()
