"""Measure which maps and words find the reason of a detection, in cities where it is known.

Usage: planted.py FOLDER [--cities LIST] [--seeds LIST] [--objects N] [--maps N] [--curves N]
                  [--tiny] [--only-measure] [--csv FILE]

FOLDER keeps networks and measurements; what it has is not done again, so that cities can be
measured by several processes (--only-measure) before the tables are made. The first half of the
seeds fits thresholds, the other half judges them. ``reasons/cities.py`` says what is planted.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from reasons.cities import CITIES
from reasons.maps import Explainer
from reasons.networks import Training, pixel_iou, scene_seed, trained_model
from reasons.ranking import (
    baseline_maps,
    insertion_minus_deletion,
    measure_drops,
    measure_maps,
)
from reasons.subjects import DETECTED, Subject, find_truth, looks_alike, subjects
from reasons.tables import write_tables
from reasons.words import Row, is_planted, measure_words

from capecam.analysis.audit.randomization import randomize
from capecam.api import Model

TEST_SCENES = 600
"""Number within a network's scenes from which on its objects are examined."""

TINY = Training(steps=2, scenes=1, side_px=320, batch=2, tile_px=64, tests=1)


def examine(city: str, seed: int, arguments: argparse.Namespace) -> list[Row]:
    """Measure words and maps of the objects of a city, unless they lie in the folder already."""
    training = TINY if arguments.tiny else Training()
    model = trained_model(city, seed, arguments.folder, training)
    side_px, tile_px = (512, 160) if arguments.tiny else (1280, 320)
    scenes = range(scene_seed(seed, TEST_SCENES), scene_seed(seed + 1, 0))

    def candidates() -> Iterator[Subject]:
        return subjects(city, scenes, side_px, tile_px)

    def words() -> list[Row]:
        network = {"city": city, "seed": seed, "iou": pixel_iou(model, city, seed, training)}
        return [network | row for row in measure_objects(model, candidates(), arguments)]

    rows = kept(arguments.folder / f"{city}-{seed}-words.json", words)
    if arguments.maps:
        usable = [n for n, row in enumerate(rows) if is_planted(row) or arguments.tiny]
        wanted = usable[: arguments.maps]
        maps = kept(
            arguments.folder / f"{city}-{seed}-maps.json",
            lambda: list(measure_some_maps(model, seed, candidates(), wanted, arguments.curves)),
        )
        drops = kept(
            arguments.folder / f"{city}-{seed}-drops.json",
            lambda: list(measure_some_drops(model, candidates(), wanted)),
        )
        for n, row, drop in zip(wanted, maps, drops, strict=True):
            rows[n] |= row | drop
    return rows


def kept(path: Path, measure: Callable[[], list[Row]]) -> list[Row]:
    """Return rows that were measured earlier, or measure and keep them."""
    if not path.exists():
        path.write_text(json.dumps(measure()))
    rows: list[Row] = json.loads(path.read_text())
    return rows


def measure_objects(
    model: Model, candidates: Iterator[Subject], arguments: argparse.Namespace
) -> Iterator[Row]:
    """Yield truth and interventions of things on roofs, up to a number of detected panels."""
    explainer, count = Explainer(model), 0
    for subject in candidates:
        truth = find_truth(model, subject)
        row: Row = {
            "is_panel": subject.site.is_panel,
            "looks_alike": looks_alike(subject),
            "p0": truth.p0,
            "other_cues": truth.other_cues,
            "no_object": truth.no_object,
            "word": truth.word,
            "has_cue": bool(subject.cue.any()),
        }
        if subject.site.is_panel and (truth.p0 >= DETECTED or arguments.tiny):
            row |= measure_words(model, explainer, subject, truth)
            count += 1
        yield row
        if count == arguments.objects:
            return


def measure_some_maps(
    model: Model, seed: int, candidates: Iterator[Subject], wanted: list[int], curves: int
) -> Iterator[Row]:
    """Yield the measures of the maps of the wanted objects, for the first ones also the curves."""
    explainer, random_head = Explainer(model), Explainer(with_random_head(model, seed))
    for n, subject in enumerate(numbered(candidates, wanted)):
        row: Row = {"maps": measure_maps(explainer, random_head, subject).tolist()}
        if n < curves:
            row["curves"] = curve_areas(model, explainer, subject)
        yield row


def measure_some_drops(
    model: Model, candidates: Iterator[Subject], wanted: list[int]
) -> Iterator[Row]:
    """Yield what blurring the highest blocks of some maps costs the wanted objects."""
    explainer = Explainer(model)
    for subject in numbered(candidates, wanted):
        yield {"drops": measure_drops(model, explainer, subject)}


def numbered(candidates: Iterator[Subject], wanted: list[int]) -> list[Subject]:
    """Return the subjects of these numbers."""
    every = list(islice(candidates, max(wanted, default=-1) + 1))
    return [every[number] for number in wanted]


def curve_areas(model: Model, explainer: Explainer, subject: Subject) -> list[float]:
    """Return insertion minus deletion by every map, then by the baselines."""
    pixels, inside = subject.pixels, subject.inside
    maps = [*explainer.maps(pixels, inside), *baseline_maps(inside)]
    areas: list[float] = insertion_minus_deletion(model, pixels, inside, maps).tolist()
    return areas


def with_random_head(model: Model, seed: int) -> Model:
    """Return the model with random weights in its segmentation head."""
    network = copy.deepcopy(model.network)
    head = network.get_submodule("segmentation_head")
    randomize(head, torch.Generator().manual_seed(seed))
    return replace(model, network=network)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cities", default=",".join(CITIES))
    parser.add_argument("--seeds", default="1,2")
    parser.add_argument("--objects", type=int, default=40, help="panels of a network")
    parser.add_argument("--maps", type=int, default=20, help="panels whose maps are compared")
    parser.add_argument("--curves", type=int, default=3, help="panels with deletion and insertion")
    parser.add_argument("--tiny", action="store_true", help="untrained networks, for a test")
    parser.add_argument("--only-measure", action="store_true", help="leave the tables for later")
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/planted.csv"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    rows = [
        row
        for seed in seeds
        for city in arguments.cities.split(",")
        for row in examine(city, seed, arguments)
    ]
    if not arguments.only_measure:
        write_tables(rows, seeds, arguments.csv, np.random.default_rng(0))


if __name__ == "__main__":
    main()
