"""Measure what tells wrong detections from right ones, in drawn cities and on real roofs.

Usage: right_or_wrong.py FOLDER [--seeds LIST] [--explained LIST] [--size PX]
                         [--real CONFIG.yaml --label MASK.tif] [--csv FILE]

Cities are drawn, each as it is and under another acquisition (``CONDITIONS``), and mapped with the
sample network. A calibration is fitted to the first half of them and judged in the other, and the
other way round. In the cities ``--explained``, under the other acquisition, every detection is
explained, and what explanations add is measured. ``--real`` is the configuration of a run on images
of which ``--label`` marks the true objects of class 1 with values above 0; there, blocks are held
out. FOLDER keeps cities and runs; what it has is not done again.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import shapely
from memory import environment
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from rasterio.features import shapes

from capecam.analysis.held_out import Estimate, chance_error, scores
from capecam.analysis.review.calibration import groups
from capecam.analysis.review.fitting import (
    Choice,
    Labelled,
    ablate,
    choose,
    choose_strength,
    fit,
    folds,
)
from capecam.analysis.review.labelled import labelled_by_truth, labelled_data
from capecam.analysis.scoring import Rules
from capecam.api import load_settings, run
from capecam.demo.writing import write_demo
from capecam.detections.confidence_calibration import CANDIDATES
from capecam.detections.signals import SIGNALS
from capecam.settings import Settings
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
class Subject:
    """Labelled detections of one or several runs."""

    data: Labelled
    confidence: NDArray[np.float64]
    area_m2: NDArray[np.float64]

    @classmethod
    def of(cls, out: Path, truth: Path, iou: float, candidates: Sequence[str]) -> Subject:
        """Match the detections of a run with the truth."""
        folder = RunFolder.open_finished(out)
        table, right = labelled_by_truth(folder, truth, None, Rules(iou), Settings())
        others = [name for name in CANDIDATES if name in table and name not in candidates]
        data, _ = labelled_data(folder, table.drop(columns=others), right)
        return cls(data, table["confidence"].to_numpy(float), table["area_m2"].to_numpy(float))

    @classmethod
    def together(cls, parts: Sequence[Subject]) -> Subject:
        """Return the detections of several runs, with the blocks of each."""
        counts = np.cumsum([0, *(part.data.block.max() + 1 for part in parts)])
        block = [part.data.block + n for part, n in zip(parts, counts, strict=False)]
        data = replace(
            parts[0].data,
            x=np.concatenate([part.data.x for part in parts]),
            right=np.concatenate([part.data.right for part in parts]),
            block=np.concatenate(block),
        )
        confidence, area_m2 = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("confidence", "area_m2")
        )
        return cls(data, confidence, area_m2)

    def orders(self) -> dict[str, NDArray[np.float64]]:
        """Return the orders that need no truth."""
        rng = np.random.default_rng(0)
        return {
            "random": rng.random(len(self.data)),
            "area": self.area_m2,
            "confidence": self.confidence,
        }


@dataclass(frozen=True, slots=True)
class Experiment:
    """Orders of detections that are judged."""

    name: str
    subject: Subject
    orders: dict[str, NDArray[np.float64]]
    choice: Choice
    """Of the signals."""
    known: Labelled
    """Detections that the calibration was fitted to."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", default="21,22,23,24", help="of the cities")
    parser.add_argument("--explained", default="", help="seeds of two of them")
    parser.add_argument("--size", type=int, default=2000, help="approximate size of an image")
    parser.add_argument("--real", type=Path, default=None, help="configuration of a run")
    parser.add_argument("--label", type=Path, default=None, help="mask of its true objects")
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/right-or-wrong.csv"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows, worth, here = [], [], environment("cpu")
    for each in experiments(arguments):
        data = each.subject.data
        rows += [score_row(each.name, order, p, data) for order, p in each.orders.items()]
        worth += [{"experiment": each.name, **row} for row in signal_rows(each)]
        print(each.name, len(data), *each.choice.trials, sep="\n  ", flush=True)
    write(arguments.csv, [row | here for row in rows])
    write(arguments.csv.with_stem(f"{arguments.csv.stem}-signals"), [row | here for row in worth])


def experiments(arguments: argparse.Namespace) -> Iterator[Experiment]:
    """Yield all experiments."""
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    halves = (seeds[: len(seeds) // 2], seeds[len(seeds) // 2 :])

    def cities(numbers: Sequence[int], condition: str) -> Subject:
        folders = [draw_city(arguments, seed, condition) for seed in numbers]
        parts = [Subject.of(f / "out", f / "truth.gpkg", 0.5, SIGNALS) for f in folders]
        return Subject.together(parts)

    def crossed(fitted: str, judged: str) -> Iterator[Experiment]:
        for a, b in (halves, halves[::-1]):
            name = f"fitted to {listed(a)} {fitted}, judged in {listed(b)} {judged}"
            yield transfer(name, cities(a, fitted), cities(b, judged))

    yield from crossed("drawn", "drawn")
    yield from crossed("shifted", "shifted")
    yield from crossed("drawn", "shifted")
    if arguments.explained:
        first, second = (
            Subject.of(folder / "out", folder / "truth.gpkg", 0.5, CANDIDATES)
            for seed in arguments.explained.split(",")
            for folder in [draw_city(arguments, int(seed), "shifted", "all")]
        )
        name = f"{listed([int(n) for n in arguments.explained.split(',')])} shifted, held out"
        yield held_out(name, Subject.together([first, second]))
    if arguments.real is not None:
        out, truth = map_real(arguments)
        for iou in REAL_IOU:
            subject = Subject.of(out, truth, iou, CANDIDATES)
            yield held_out(f"real roofs, IoU {iou:g}, held out", subject)


def listed(seeds: Sequence[int]) -> str:
    """Return seeds as text."""
    return " + ".join(map(str, seeds))


def transfer(name: str, known: Subject, other: Subject) -> Experiment:
    """Judge probabilities in some cities by the truth of others."""
    data, choice = known.data, choose(known.data, groups(known.data))
    base = fit(data, (), choose_strength(data, folds(data), ()))
    best = fit(data, choice.signals, choice.strength)
    orders = {
        "base": base.predict(other.data.columns(())),
        "p_right": best.predict(other.data.columns(choice.signals)),
    }
    return Experiment(name, other, other.orders() | orders, choice, data)


def held_out(name: str, subject: Subject) -> Experiment:
    """Judge probabilities by the truth of other blocks."""
    choice = choose(subject.data, groups(subject.data))
    orders = {"base": choice.base, "p_right": choice.p}
    return Experiment(name, subject, subject.orders() | orders, choice, subject.data)


def score_row(name: str, order: str, p: NDArray[np.float64], data: Labelled) -> Row:
    """Return the scores of an order, with their intervals."""
    found = scores(np.clip(p, 0, None), data.right, data.block)
    if order not in PROBABILITIES:
        found = {key: found[key] for key in ("auc", "errors_first_tenth")}
    row: Row = {
        "experiment": name, "order": order, "objects": len(data), "wrong": int((~data.right).sum()),
        "right": int(data.right.sum()),
        "expected": float(p.sum()) if order in PROBABILITIES else "",
        "best_first_tenth": min(1.0, 0.1 * len(data) / max(1, int((~data.right).sum()))),
        "ece_by_chance": chance_error(p) if order in PROBABILITIES else "",
    }  # fmt: skip
    for key in ("auc", "ece", "brier", "log_loss", "errors_first_tenth"):
        row |= columns(key, found.get(key))
    return row


def columns(name: str, estimate: Estimate | None) -> Mapping[str, object]:
    """Return a number and its interval as columns; empty where it is not defined."""
    if estimate is None:
        return {name: "", f"{name}_low": "", f"{name}_high": ""}
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def signal_rows(each: Experiment) -> list[Row]:
    """Return what each signal is worth on held-out blocks, and whether it is used."""
    rows: list[Row] = [
        {
            "signal": ablation.signal,
            **columns("added", ablation.added),
            **columns("removed", ablation.removed),
            "used": int(ablation.signal in each.choice.signals),
        }
        for ablation in ablate(each.known, folds(each.known))
    ]
    rows += [
        {
            "signal": " + ".join(trial.signals) or "none",
            **columns("added", trial.gain),
            **columns("removed", None),
            "used": int(trial.pays),
        }
        for trial in each.choice.trials
    ]
    return rows


def draw_city(
    arguments: argparse.Namespace, seed: int, condition: str, explained: str = "none"
) -> Path:
    """Draw and map a city, unless it lies in the folder already."""
    folder: Path = arguments.folder / f"{seed}-{condition}"
    if not is_mapped(folder / "out", explained):
        if not folder.exists():
            write_demo(folder, seed, arguments.size)
            for path in sorted((folder / "images").glob("*.tif")):
                weaken(path, *CONDITIONS[condition])
        options = {
            "explain.methods": ["gradcam"],
            "explain.where": "detected",
            "explain.calibration_tiles": 8,
            "objects.explain": explained,
        }
        run(load_settings(folder / "demo.yaml", options))
    return folder


def is_mapped(out: Path, explained: str) -> bool:
    """Return whether a run is there, with explanations if they are wanted."""
    if not (out / DETECTIONS).exists():
        return False
    return explained == "none" or bool(
        pd.read_parquet(out / DETECTIONS, columns=["alone"])["alone"].notna().any()
    )


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
    if not is_mapped(out, "all"):
        options = {
            "out": out,
            "explain.methods": ["gradcam"],
            "explain.calibration_tiles": 8,
            "objects.explain": "all",
            "detections.min_area_m2": REAL_AREA_M2,
        }
        run(load_settings(arguments.real, options))
    name = RunFolder.open_finished(out).names[1]
    with rasterio.open(arguments.label) as dataset:
        marked = dataset.read(1) > 0
        regions = shapes(marked.astype(np.uint8), mask=marked, transform=dataset.transform)
        outlines = [shapely.geometry.shape(outline) for outline, _ in regions]
        table = gpd.GeoDataFrame(
            {"class": [name] * len(outlines)}, geometry=outlines, crs=dataset.crs
        )
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
