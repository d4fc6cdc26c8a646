"""Simulate reviews of maps with known truth: do 95 % intervals hold, and what are looks worth?

Usage: totals.py FOLDER [--scenes N] [--looks N] [--zones N] [--block M] [--reviews N] [--tiny]
                 [--csv FILE]

FOLDER keeps the maps of drawn scenes (``reviews/scenes.py``); those that it has are not made again.
Each review draws a sample with capecam's strata, takes the truth of its blocks, and estimates
totals by zone and class with capecam's estimator.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from memory import append_rows, environment
from numpy.typing import NDArray
from reviews.population import CLASSES, Population, read_population
from reviews.scenes import FIRST_SEED, GSD_M, MAPS, SIDE_PX, write_maps

from capecam.analysis.review.design import draw, stratify
from capecam.analysis.review.estimation import (
    Frame,
    Sample,
    Values,
    estimate_shares,
    estimate_totals,
)

Floats = NDArray[np.float64]

LEANS = {"count, own variance": 0.0, "count, lean 12": 12.0}
"""Other intervals of counts: zones know their own variance alone, or lean more on the whole."""

EMPTY = {"dense": 0, "sparse": 4}
"""Blocks of open land for each drawn block, by name of the city."""

LOW, HIGH = 0.93, 0.97
"""Coverage of a 95 % interval that holds."""

TINY_PX = 800


@dataclass(slots=True, eq=False)
class Record:
    """What the reviews of a population said of one quantity."""

    truth: Floats
    """(D + 1, C) or (C,)"""
    unit: Floats
    """What widths are given as a share of, of the same shape."""
    inside: list[NDArray[np.bool_]] = field(default_factory=list)
    width: list[Floats] = field(default_factory=list)
    error: list[Floats] = field(default_factory=list)

    def add(self, value: Floats, low: Floats, high: Floats) -> None:
        """Compare an estimate with the truth."""
        slack = 1e-9 * (1 + np.abs(self.truth))
        self.inside.append((low <= self.truth + slack) & (self.truth - slack <= high))
        self.width.append((high - low) / self.unit)
        self.error.append(value - self.truth)

    @property
    def coverage(self) -> Floats:
        """Return the share of intervals that held the truth."""
        return np.asarray(np.mean(self.inside, axis=0))


def simulate(city: Population, looks: int, reviews: int, seed: int) -> dict[str, Record]:
    """Draw many samples of a city and estimate its totals and shares from each."""
    rng = np.random.default_rng(seed)
    strata = stratify(city.spread, city.zone, looks)
    zones = int(city.zone.max()) + 1
    member = np.zeros((len(city), zones))
    member[np.arange(len(city)), city.zone] = 1
    shape = len(strata.looks), zones, len(CLASSES)
    objects, empty = np.zeros(shape), np.zeros(shape)
    np.add.at(objects, (strata.stratum, city.zone), city.found)
    np.add.at(empty, (strata.stratum, city.zone), city.found == 0)
    chance = (np.bincount(strata.stratum, city.spread) / strata.sizes) ** 2
    frame = Frame(objects, empty, chance)
    pairs = {"count": (city.found, city.true), "m2": (city.found_m2, city.true_m2)}
    parts = {"precision": (city.right, city.found), "recall": (city.right, city.true)}
    records = {}
    for name, (_, y) in pairs.items():
        truth = np.concatenate([member.T @ y, y.sum(axis=0, keepdims=True)])
        records[name] = Record(truth, np.maximum(truth, 1))
    for name in LEANS:
        records[name] = Record(records["count"].truth, records["count"].unit)
    for name, (part, whole) in parts.items():
        share = part.sum(axis=0) / np.maximum(whole.sum(axis=0), 1)
        records[name] = Record(share, np.ones(share.shape))
    for _ in range(reviews):
        drawn = draw(strata, rng.permutation(len(city)))
        sample = Sample(strata.stratum[drawn], strata.sizes, strata.zone)
        here = member[drawn][:, :, None]
        for name, (x, y) in reversed(pairs.items()):  # count is the last one
            unit = city.typical_m2 if name == "m2" else np.ones(len(CLASSES))
            values = Values(
                member.T @ x, here * x[drawn][:, None], here * y[drawn][:, None],
                city.found[drawn], frame, unit,
            )  # fmt: skip
            totals = estimate_totals(sample, values)
            records[name].add(totals.total, totals.low, totals.high)
            for other, lean in LEANS.items() if name == "count" else ():
                totals = estimate_totals(sample, values, lean)
                records[other].add(totals.total, totals.low, totals.high)
        for name, (part, whole) in parts.items():
            shares = estimate_shares(sample, part[drawn], whole[drawn], values)
            records[name].add(shares.share, shares.low, shares.high)
    return records


def worth(city: Population, record: Record, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return (C,) looks of a simple random sample with the same variance of the whole's total.

    Returns:
        Without a map: total = N times the mean; and with one: N times the mean difference.
    """
    number, variance = len(city), np.var([error[-1] for error in record.error], axis=0)
    plain, corrected = (number**2 * np.var(v, axis=0, ddof=1) for v in (y, y - x))
    wholes = (np.maximum(variance + v / number, 1e-12) for v in (plain, corrected))
    return plain / next(wholes), corrected / next(wholes)


def rows_of(city: Population, roofs: str, looks: int, records: dict[str, Record]) -> Iterator[dict]:
    """Yield a row of the table for each quantity and class."""
    numbers, areas = (city.found, city.true), (city.found_m2, city.true_m2)
    for quantity, record in records.items():
        coverage, width, error = record.coverage, np.mean(record.width, axis=0), record.error
        has_zones = coverage.ndim > 1
        if has_zones:
            worths = worth(city, record, *(areas if quantity == "m2" else numbers))
        for c, name in enumerate(CLASSES):
            whole = (-1, c) if has_zones else c
            row = {
                "city": roofs,
                "map": city.name,
                "quantity": quantity,
                "class": name,
                "blocks": len(city),
                "looks": looks,
                "reviews": len(error),
                "truth": round(float(record.truth[whole]), 3),
                "bias": round(float(np.mean([e[whole] for e in error])), 4),
                "width": round(float(width[whole]), 4),
                "coverage": round(float(coverage[whole]), 4),
            }
            zones = coverage[:-1, c] if has_zones else np.empty(0)
            yield row | {
                "zones": len(zones) or "",
                "zone_coverage": round(float(zones.mean()), 4) if has_zones else "",
                "zone_lowest": round(float(zones.min()), 4) if has_zones else "",
                "zone_highest": round(float(zones.max()), 4) if has_zones else "",
                "zones_93_97": int(np.sum((zones >= LOW) & (zones <= HIGH))) if has_zones else "",
                "zone_width": round(float(width[:-1, c].mean()), 4) if has_zones else "",
                "worth_without_map": round(float(worths[0][c])) if has_zones else "",
                "worth_with_map": round(float(worths[1][c])) if has_zones else "",
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--looks", type=int, default=300)
    parser.add_argument("--zones", type=int, default=8)
    parser.add_argument("--block", type=float, default=32.0)
    parser.add_argument("--reviews", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="small scenes, few reviews")
    parser.add_argument("--csv", type=Path, default=Path(__file__).parent / "results/totals.csv")
    given = parser.parse_args()
    side_px = TINY_PX if given.tiny else SIDE_PX
    torch.set_num_threads(1)
    write_maps(given.folder, iter(range(FIRST_SEED, FIRST_SEED + given.scenes)), side_px)
    rows = []
    rows: list[dict] = []
    for roofs, empty in EMPTY.items():
        for name in MAPS:
            city = read_population(
                given.folder,
                name,
                given.block,
                side_px * GSD_M,
                zones=given.zones,
                empty=empty,
            )
            records = simulate(city, given.looks, given.reviews, given.seed)
            rows += list(rows_of(city, roofs, given.looks, records))
            print(roofs, name, len(city), flush=True)
    given.csv.unlink(missing_ok=True)
    append_rows(given.csv, [row | environment("cpu") for row in rows])


if __name__ == "__main__":
    main()
