"""What each technique of the engine brings and costs, a row each; and those that were not taken.

Usage: techniques.py [--device NAME] [--rounds N] [--csv FILE]

Nine maps of FPN resnext50_32x4d, untrained. Rounds are interleaved, seconds are medians. In the
waterfall every row has the techniques of the rows above it, too. Accuracy is that of the trained
sample network against the notebook's way (Grad-CAM++ by the paper's formula), because an untrained
one exaggerates every rounding.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

from capecam.analysis.benchmark.measure import machine, seconds, synchronize
from capecam.analysis.benchmark.notebook import Notebook
from capecam.analysis.benchmark.table import commit
from capecam.analysis.benchmark.workload import sample_tiles, untrained_model
from capecam.api import Engine, Model, load_model, load_settings
from capecam.attribution.backward import replace_backward
from capecam.attribution.comparison import map_error, pearson
from capecam.attribution.methods import GUIDED, SHARED, ReluSwitch, SwitchedReLU

METHODS = ("gradcam", "gradcampp", GUIDED)
METHODS_SHARED = ("gradcam", "gradcampp", SHARED)
ACCURACY_TILES = 8
DETECTED_TILES = 40


def switch_only(network: nn.Module, switch: ReluSwitch, memory_format: torch.memory_format) -> None:
    """In place of ``make_lean``: true and guided gradients from one graph, all else as it is."""
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.forward = partial(SwitchedReLU.apply, switch, memory_format, module.inplace)


def lean(network: nn.Module, switch: ReluSwitch, _memory_format: torch.memory_format) -> None:
    """``make_lean`` in PyTorch's default memory format."""
    replace_backward(network, switch, torch.contiguous_format)


Explain = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""Pixels and validity of a batch to heatmaps."""


@dataclass
class Row:
    """A technique, and what was measured of it."""

    name: str
    batch: int
    build: Callable[[Model], Explain]
    times: list[float] = field(default_factory=list)

    @property
    def tile(self) -> float:
        """Seconds a tile."""
        return statistics.median(self.times) / self.batch


def engine(
    device: torch.device,
    prepare: Callable[..., None] | None = None,
    most: int | None = None,
    methods: Sequence[str] = METHODS,
    precision: str = "fp32",
) -> Callable[[Model], Explain]:
    """Builds an engine, maybe with something in the place of ``make_lean``."""

    def build(model: Model) -> Explain:
        with patch("capecam.attribution.engine.make_lean", prepare) if prepare else nullcontext():
            made = Engine(model, methods, device=device, precision=precision)
        made.max_tiles = most or made.max_tiles
        return lambda pixels, valid: made(pixels, valid).heat

    return build


def notebook(device: torch.device, model: Model) -> Explain:
    """The original way, as a row."""
    way = Notebook(model, device, plusplus="gradcampp")
    return lambda pixels, _: way(pixels.to(device), METHODS)


def rows(device: torch.device) -> tuple[list[Row], list[Row]]:
    """The waterfall, and what was not taken or is a choice."""
    waterfall = [
        Row("the notebook's way", 1, partial(notebook, device)),
        Row("one forward, ReLUs with a switch, a gradient a class", 1, engine(device, switch_only)),
        Row("lean backward: batch norms folded, nothing for weights", 1, engine(device, lean)),
        Row("gradients channels-last", 1, engine(device)),
        Row("4 tiles together", 4, engine(device)),
    ]
    others = [
        Row("8 tiles together", 8, engine(device, most=8)),
        Row("32 tiles together", 32, engine(device, most=32)),
        Row("one guided backward for all classes", 4, engine(device, methods=METHODS_SHARED)),
        Row("--precision bf16", 4, engine(device, precision="bf16")),
        Row("--precision fp16", 4, engine(device, precision="fp16")),
    ]
    return waterfall, others


def accuracy(
    row: Row, model: Model, tiles: Tensor, reference: dict[str, Tensor]
) -> dict[str, object]:
    """Of the row's maps; the shared guided ones are compared with those of each class."""
    explain = row.build(model)
    valid = torch.ones_like(tiles[:, 0], dtype=torch.bool)
    batches = zip(tiles.split(row.batch), valid.split(row.batch), strict=True)
    parts = [explain(*batch) for batch in batches]
    heat = {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}
    if SHARED in heat:
        heat[GUIDED] = heat.pop(SHARED)
    error = map_error(heat, reference)
    return {
        "compared": error.maps,
        **{f"r_{name}": f"{error.correlation[name]:.5f}" for name in METHODS},
        "max_difference": f"{error.max_difference:.2g}",
        "mean_difference": f"{error.mean_difference:.2g}",
    }


def measure(device: torch.device, rounds: int) -> list[dict[str, object]]:
    """Every row, interleaved."""
    waterfall, others = rows(device)
    every = [*waterfall, *others]
    tiles = sample_tiles(max(row.batch for row in every), 320)
    valid = torch.ones_like(tiles[:, 0], dtype=torch.bool)
    model = untrained_model(tiles[:4])
    built = [row.build(model) for row in every]
    for n in range(rounds + 1):
        for row, explain in zip(every, built, strict=True):
            took = seconds(partial(explain, tiles[: row.batch], valid[: row.batch]), device)
            if n:
                row.times.append(took)
    del built
    trained = sample_model()
    seen = sample_tiles(ACCURACY_TILES, 320, seed=1)
    way = notebook(device, trained)
    reference = {name: heat.cpu() for name, heat in way(seen, valid).items()}
    done = []
    before = waterfall[0]
    for row in every:
        # What is not in the waterfall is compared with its end.
        against = before if row in waterfall else waterfall[-1]
        done.append({
            "technique": row.name,
            "batch": row.batch,
            "seconds_per_tile": f"{row.tile:.4f}",
            "times_the_row_before": f"{against.tile / row.tile:.2f}",
            "times_the_notebook": f"{waterfall[0].tile / row.tile:.2f}",
            **accuracy(row, trained, seen, reference),
        })  # fmt: skip
        before = row
        print(done[-1], flush=True)
    return done


def measure_detected(device: torch.device, rounds: int) -> list[dict[str, object]]:
    """Seconds a tile with ``where="detected"``, by the share of tiles with one detected class."""
    tiles = sample_tiles(DETECTED_TILES, 320)
    model = untrained_model(tiles[:4])
    made = {
        where: Engine(model, METHODS, where=where, device=device) for where in ("all", "detected")
    }
    winner = torch.cat([made["all"].logits(part).argmax(dim=1).cpu() for part in tiles.split(4)])
    masks = {"all": torch.ones_like(winner, dtype=torch.bool)}
    for share in (0.0, 0.05, 0.2, 1.0):
        # Every 1/share-th tile keeps the pixels of one class, the others those of the background.
        kept = torch.zeros(DETECTED_TILES, dtype=torch.long)
        chosen = torch.linspace(0, DETECTED_TILES - 1, round(share * DETECTED_TILES)).long()
        kept[chosen] = torch.tensor([1, 2, 3]).repeat(DETECTED_TILES)[: len(chosen)]
        masks[f"{share:.0%} detected"] = (winner == 0) | (winner == kept[:, None, None])
    masks["100% detected, every class"] = masks["all"]
    times: dict[str, list[float]] = {name: [] for name in masks}
    for n in range(rounds + 1):
        for name, valid in masks.items():
            explain = made["all" if name == "all" else "detected"]
            took = seconds(partial(run_through, explain, tiles, valid), device)
            if n:
                times[name].append(took / DETECTED_TILES)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return [
        {
            "technique": f"--where detected, {name}" if name != "all" else "--where all",
            "batch": 4,
            "seconds_per_tile": f"{median:.4f}",
            "times_the_row_before": f"{medians['all'] / median:.2f}",
        }
        for name, median in medians.items()
    ]


def run_through(explain: Engine, tiles: Tensor, valid: Tensor) -> None:
    """All tiles, as a run with batches of 4 hands them over."""
    size = explain.tiles_per_call(4)
    for part in zip(tiles.split(size), valid.split(size), strict=True):
        explain(*part)


def class_blindness(device: torch.device) -> str:
    """Correlation of guided gradients between classes: the lowest of the tiles, by network."""
    tiles = sample_tiles(4, 320)
    valid = torch.ones_like(tiles[:, 0], dtype=torch.bool)
    lines = []
    for model in (sample_model(), untrained_model(tiles)):
        guided = Engine(model, METHODS, device=device).signals(tiles, valid).guided
        strength = guided.abs().amax(dim=2)
        pairs = ((0, 1), (0, 2), (1, 2))
        lowest = min(pearson(strength[:, i], strength[:, j]).min().item() for i, j in pairs)
        lines.append(f"{model.architecture}: {lowest:.4f}")
    return "guided gradients of two classes correlate at least by: " + "; ".join(lines)


def sample_model() -> Model:
    """The trained one that comes with the package."""
    data = Path(str(files("capecam.demo") / "data"))
    return load_model(data / "sample_model.safetensors", load_settings(data / "demo.yaml").model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/techniques.csv"))
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    synchronize(device)
    print(class_blindness(device), flush=True)
    measured = measure_detected(device, arguments.rounds)
    for row in measured:
        print(row, flush=True)
    measured = measure(device, arguments.rounds) + measured
    where = {
        "machine": machine(device),
        "torch": torch.__version__,
        "commit": commit(),
    }
    with arguments.csv.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*measured[0], *where], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **where} for row in measured)


if __name__ == "__main__":
    main()
