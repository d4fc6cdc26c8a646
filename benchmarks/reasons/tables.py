"""Tables of the benchmark: networks, words, and maps in the order of their ranks."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from capecam.analysis.benchmark.measure import machine
from capecam.analysis.benchmark.table import commit
from capecam.attribution.methods import GUIDED
from capecam.detections.object_columns import EVIDENCE_WORDS
from reasons.interventions import WAYS
from reasons.maps import COMBINATIONS
from reasons.ranking import BASELINES as ORDERS
from reasons.ranking import DROPPED, MEASURES
from reasons.subjects import DETECTED
from reasons.words import USED, Cut, Row, balanced, column, fit, is_planted, words_of

SHORTCUTS = ("marker", "shadow", "roof", "frame")
NUMBERS = ("own_drop", "distance_drop", "random_drop")
DRAWS = 1000
Table = list[dict[str, Any]]
Numbers = NDArray[np.float64]


def write_tables(rows: list[Row], seeds: list[int], path: Path, rng: np.random.Generator) -> None:
    """Write the tables of maps, words and networks beside each other."""
    maps = maps_table(rows, seeds, rng)
    tables = {
        "": maps,
        "-layers": layers_table(maps),
        "-drops": drops_table(rows),
        "-words": words_table(rows, seeds),
        "-interventions": interventions_table(rows, seeds),
        "-networks": networks_table(rows),
    }
    here = {
        "machine": machine(torch.device("cpu")),
        "torch": torch.__version__,
        "commit": commit(),
    }
    for name, table in tables.items():
        with path.with_stem(path.stem + name).open("w", newline="") as stream:
            writer = csv.DictWriter(stream, [*table[0], *here], lineterminator="\n")
            writer.writeheader()
            writer.writerows(row | here for row in table)


# ------------------------------------------------------------------------------------- networks


def networks_table(rows: list[Row]) -> Table:
    """Describe each network: did it learn its city, and did it take the bait?"""
    table = []
    for city, seed in dict.fromkeys((row["city"], row["seed"]) for row in rows):
        own = [row for row in rows if (row["city"], row["seed"]) == (city, seed)]
        panels = [row for row in own if row["is_panel"]]
        found = [row for row in panels if row["p0"] >= DETECTED]
        alike = [row for row in own if row["looks_alike"]]
        table.append({
            "city": city,
            "seed": seed,
            "iou": f"{own[0]['iou']:.3f}",
            "panels": len(panels),
            "detected": len(found),
            "as_planted": sum(is_planted(row) for row in found),
            "unclear": sum(row["word"] is None for row in found),
            "cues_toggled": share(found, "other_cues"),
            "object_removed": share(found, "no_object"),
            "lookalike": mean(column(alike, "p0")),
            "lookalike_with_cue": mean(column(alike, "other_cues")),
        })  # fmt: skip
    return table


def share(rows: Sequence[Row], name: str) -> str:
    """Return the mean share of the probability that is left after a change to the drawing."""
    return mean(column(rows, name) / column(rows, "p0"))


def mean(values: Numbers) -> str:
    """Return a mean as text; empty if there is none."""
    values = values[~np.isnan(values)] if len(values) else values
    return f"{values.mean():.3f}" if len(values) else ""


def median(values: Numbers) -> str:
    """Return a median as text; empty if there is none."""
    return f"{np.median(values):.3f}" if len(values) else ""


# ------------------------------------------------------------------------------------- words


def with_word(rows: Sequence[Row], seeds: Sequence[int]) -> list[Row]:
    """Return the detected objects of some networks whose true word is that of their city."""
    return [row for row in rows if "own_drop" in row and row["seed"] in seeds and is_planted(row)]


def needs(rows: Sequence[Row], what: str) -> NDArray[np.bool_]:
    """Return by object whether it needs its cue (``alone``), or itself (``without``)."""
    words = ("context", "both") if what == "alone" else ("itself", "both")
    return np.array([row["word"] in words for row in rows], np.bool_)


def interventions_table(rows: list[Row], seeds: list[int]) -> Table:
    """Compare replacements and margins: thresholds of the first seeds, accuracy on the others."""
    half = len(seeds) // 2
    fitted, judged = with_word(rows, seeds[:half]), with_word(rows, seeds[half:])
    table = []
    for what, replacement, margin in WAYS:
        name = f"{what} {replacement} {margin}"
        cut = fit_column(fitted, what, name)
        table.append({
            "number": what,
            "replacement": replacement,
            "margin_px": margin,
            "threshold": f"{cut.threshold:.3f}",
            "fitted": f"{cut.balanced:.3f}",
            "judged": f"{judge(judged, what, name, cut):.3f}",
        })  # fmt: skip
    return table


def fit_column(rows: Sequence[Row], what: str, name: str) -> Cut:
    """Fit the threshold of a column."""
    needed = needs(rows, what)
    return fit(column(rows, name), needed) if 0 < needed.sum() < len(rows) else Cut(0.5, np.nan)


def judge(rows: Sequence[Row], what: str, name: str, cut: Cut) -> float:
    """Return the balanced accuracy of a threshold."""
    needed = needs(rows, what)
    if not 0 < needed.sum() < len(rows):
        return float("nan")
    return balanced(column(rows, name) < cut.threshold, needed)


def words_table(rows: list[Row], seeds: list[int]) -> Table:
    """Count capecam's words by city on the seeds that judge."""
    judges = seeds[len(seeds) // 2 :]
    table = []
    for city in dict.fromkeys(row["city"] for row in rows):
        judged = [row for row in with_word(rows, judges) if row["city"] == city]
        said = words_of(judged)
        table.append({
            "city": city,
            "objects": len(judged),
            **{word: int((said == word).sum()) for word in EVIDENCE_WORDS},
            "right": mean(said == np.array([row["word"] for row in judged])),
            "shortcut_said": mean(np.isin(said, ("context", "both"))),
            **{name: median(column(judged, name)) for name in NUMBERS},
            **{name: median(column(judged, key)) for name, key in USED.items()},
        })  # fmt: skip
    return table


# ------------------------------------------------------------------------------------- maps


def maps_table(rows: list[Row], seeds: list[int], rng: np.random.Generator) -> Table:
    """Rank the ways to make a map."""
    half = len(seeds) // 2
    planted = [row for row in rows if "maps" in row and is_planted(row)]
    measured = np.array([row["maps"] for row in planted], dtype=np.float64)
    measured = measured.reshape(len(planted), len(COMBINATIONS), len(MEASURES))
    curved = [row["curves"] for row in rows if "curves" in row and is_planted(row)]
    curves = np.array(curved, dtype=np.float64).reshape(
        len(curved), len(COMBINATIONS) + len(ORDERS)
    )
    table: Table = []
    for n, way in enumerate(COMBINATIONS):
        values = {name: measured[:, n, m] for m, name in enumerate(MEASURES)}
        table.append({
            **way._asdict(),
            **shortcuts(planted, values["cue"], seeds[:half], seeds[half:]),
            **interval(curves[:, n], rng),
            **{name.replace(" ", "_"): mean(values[name]) for name in MEASURES if name != "cue"},
            "objects": len(planted),
            "curve_objects": len(curved),
        })  # fmt: skip
    add_ranks(table)
    table.sort(key=lambda row: float(row["rank"]))
    for n, order in enumerate(ORDERS):
        table.append(
            {"method": order, "score": "none", **interval(curves[:, len(COMBINATIONS) + n], rng)}
        )
    return [{**dict.fromkeys(table[0], ""), **row} for row in table]


def layers_table(maps: Table) -> Table:
    """Select the tile's own maps at the two target layers that a tile's CAM may have."""
    rows = {(row["method"], row["score"], row.get("layer")): row for row in maps}
    ways = product(("gradcam", "gradcampp", GUIDED), ("tile mean", "predicted"), ("conv", "32"))
    return [rows[way] for way in ways]


def drops_table(rows: list[Row]) -> Table:
    """Return the share of objects, by city, that lose 80 % with the top blocks of their map."""
    table: Table = []
    ways = [way._asdict() for way in DROPPED] + [{"method": "distance", "score": "", "layer": ""}]
    for n, way in enumerate(ways):
        by_city = {
            city: [r["drops"][n] >= 0.8 for r in rows if r["city"] == city and "drops" in r]
            for city in dict.fromkeys(row["city"] for row in rows)
        }
        table.append(way | {city: mean(np.array(lost)) for city, lost in by_city.items()})
    return table


def shortcuts(
    rows: Sequence[Row], density: Numbers, fits: Sequence[int], judges: Sequence[int]
) -> dict[str, str]:
    """Judge the decision "the map is high on the cue" by a threshold of its density there."""
    known = ~np.isnan(density)
    is_shortcut = np.array([row["city"] in SHORTCUTS for row in rows], np.bool_)
    chance = [row["city"] == "object" and row["has_cue"] for row in rows]
    is_chance = np.array(chance, np.bool_)
    first, second = (
        known & np.array([row["seed"] in group for row in rows], np.bool_)
        for group in (fits, judges)
    )
    used = first & (is_shortcut | is_chance)
    if not (used & is_shortcut).any() or not (used & is_chance).any():
        return {"cue_density_over": "", "shortcut_found": "", "false_alarms": ""}
    cut = fit(-density[used], is_shortcut[used]).threshold
    return {
        "cue_density_over": f"{-cut:.2f}",
        "shortcut_found": mean((-density < cut)[second & is_shortcut]),
        "false_alarms": mean((-density < cut)[second & is_chance]),
    }


def interval(values: Numbers, rng: np.random.Generator) -> dict[str, str]:
    """Return the mean of insertion minus deletion with its bootstrap interval over objects."""
    names = ("insertion_minus_deletion", "low", "high")
    if not len(values):
        return dict.fromkeys(names, "")
    drawn = values[rng.integers(0, len(values), (DRAWS, len(values)))].mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return dict(zip(names, (f"{x:.3f}" for x in (values.mean(), low, high)), strict=True))


CRITERIA: dict[str, Callable[[dict[str, Any]], float]] = {
    "shortcuts": lambda row: number(row["shortcut_found"]) - number(row["false_alarms"]),
    "curves": lambda row: number(row["insertion_minus_deletion"]),
    "leak": lambda row: -number(row["leak"]),
    "shift": lambda row: number(row["shift"]),
    "head": lambda row: -abs(number(row["random_head"])),
}
"""Criteria of the rank; higher is better."""


def number(text: str) -> float:
    """Convert a cell; 0 if it is empty."""
    return float(text or 0)


def add_ranks(table: Table) -> None:
    """Add the mean rank over the criteria to every row, 1 the best."""
    ranks = [
        rankdata([-criterion(row) for row in table], method="min")
        for criterion in CRITERIA.values()
    ]
    for row, rank in zip(table, np.mean(ranks, axis=0), strict=True):
        row["rank"] = f"{rank:.1f}"
