"""Measure speed and accuracy of each technique of the engine, and of the rejected ones.

Usage: techniques.py [--device NAME] [--rounds N] [--size PX] [--detected TILES] [--model NAME]
       [--csv FILE]

Nine maps of an untrained FPN resnext50_32x4d. Rounds are interleaved; seconds are medians. In the
waterfall every row includes the techniques of the rows above it. Accuracy is measured with the
trained sample model against the notebook's method (Grad-CAM++ by the paper's formula), because an
untrained network exaggerates every rounding.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

from capecam.analysis.benchmark.measure import machine, seconds, synchronize
from capecam.analysis.benchmark.notebook import Notebook
from capecam.analysis.benchmark.table import commit
from capecam.analysis.benchmark.workload import sample_model, sample_tiles, untrained_model
from capecam.api import Engine, Model
from capecam.attribution.backward import replace_backward
from capecam.attribution.comparison import map_error, pearson
from capecam.attribution.graph.graph_engine import GraphEngine
from capecam.attribution.methods import GUIDED, SHARED, ReluSwitch, SwitchedReLU, predicted
from capecam.runtime.heap import keep_heap

METHODS = ("gradcam", "gradcampp", GUIDED)
METHODS_SHARED = ("gradcam", "gradcampp", SHARED)
BACKWARD = "capecam.attribution.backward"
ENGINE = "capecam.attribution.engine"
ACCURACY_TILES = 8


def switch_only(network: nn.Module, switch: ReluSwitch, memory_format: torch.memory_format) -> None:
    """Replace only the ReLUs: true and guided gradients from one graph."""
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.forward = partial(SwitchedReLU.apply, switch, memory_format, module.inplace)


def lean(network: nn.Module, switch: ReluSwitch, _memory_format: torch.memory_format) -> None:
    """Call ``replace_backward`` with PyTorch's default memory format."""
    replace_backward(network, switch, torch.contiguous_format)


Explain = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""Function from pixels and validity of a batch to heatmaps by method."""


@dataclass
class Row:
    """Technique with its measurements."""

    name: str
    batch: int
    build: Callable[[Model], Explain]
    times: list[float] = field(default_factory=list)

    @property
    def tile(self) -> float:
        """Median seconds per tile."""
        return statistics.median(self.times) / self.batch


def engine(
    device: torch.device,
    prepare: Callable[..., None] | None = None,
    *,
    max_tiles: int | None = None,
    methods: Sequence[str] = METHODS,
    precision: str = "fp32",
    phases: bool = True,
    sums: bool = True,
    channels_last: bool = False,
) -> Callable[[Model], Explain]:
    """Return a builder of an engine, optionally with another ``replace_backward``.

    Args:
        device, methods, precision: of the engine.
        prepare: in place of ``replace_backward``.
        max_tiles: of the engine.
        phases: False for the stem's gradient as a transposed convolution (``attribution.phases``).
        sums: False for gradients at full resolution (``attribution.block_sums``).
        channels_last: of the forward, too.
    """

    def build(model: Model) -> Explain:
        with (
            patch(f"{ENGINE}.replace_backward", prepare) if prepare else nullcontext(),
            nullcontext() if phases else patch(f"{BACKWARD}.takes_phases", lambda _: False),
        ):
            engine = Engine(model, methods, device=device, precision=precision)
        engine.max_tiles = max_tiles or engine.max_tiles
        if channels_last:
            engine.use_channels_last()

        def explain(pixels: Tensor, valid: Tensor) -> dict[str, Tensor]:
            with nullcontext() if sums else patch(f"{ENGINE}.NotedSums", nullcontext):
                return engine(pixels, valid).heat

        return explain

    return build


def graph(device: torch.device, model: Model) -> Explain:
    """Return an engine that replays a graph as a builder's result."""
    engine = GraphEngine(model, METHODS, device=device)
    engine.patience = 0
    return lambda pixels, valid: engine(pixels, valid).heat


def notebook(device: torch.device, model: Model) -> Explain:
    """Return the notebook's method as a builder's result."""
    method = Notebook(model, device, plusplus="gradcampp")
    return lambda pixels, _: method(pixels.to(device), METHODS)


def rows(device: torch.device) -> tuple[list[Row], list[Row]]:
    """Return the rows of the waterfall, and those of rejected or optional techniques."""
    waterfall = [
        Row("the notebook's way", 1, partial(notebook, device)),
        Row("one forward, ReLUs with a switch, a gradient a class", 1, engine(device, switch_only)),
        Row(
            "lean backward: batch norms folded, nothing for weights",
            1,
            engine(device, lean, sums=False),
        ),
        Row("gradients channels-last", 1, engine(device, phases=False, sums=False)),
        Row("4 tiles together", 4, engine(device, phases=False, sums=False)),
        Row("the stem's gradient by phases", 4, engine(device, sums=False)),
        Row("true gradients of FPN as block sums", 4, engine(device)),
        Row("the passes as a graph, memory written again", 4, partial(graph, device)),
    ]
    others = [
        Row("8 tiles together", 8, engine(device, max_tiles=8)),
        Row("32 tiles together", 32, engine(device, max_tiles=32)),
        Row("forward channels-last", 4, engine(device, channels_last=True)),
        Row("one guided backward for all classes", 4, engine(device, methods=METHODS_SHARED)),
        Row("--precision bf16", 4, engine(device, precision="bf16")),
    ]
    return waterfall, others


def accuracy(
    row: Row, model: Model, tiles: Tensor, reference: dict[str, Tensor]
) -> dict[str, object]:
    """Compare a row's maps with the reference; shared guided maps count for every class."""
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


def measure(
    original: bool, device: torch.device, rounds: int, size: int
) -> list[dict[str, object]]:
    """Measure every row in interleaved rounds."""
    waterfall, others = rows(device)
    every = [*waterfall, *others]
    tiles = sample_tiles(max(row.batch for row in every), size)
    valid = torch.ones_like(tiles[:, 0], dtype=torch.bool)
    model = untrained_model(tiles[:4]) if original else sample_model()
    built = [row.build(model) for row in every]
    for n in range(rounds + 1):
        for row, explain in zip(every, built, strict=True):
            took = seconds(partial(explain, tiles[: row.batch], valid[: row.batch]), device)
            if n:
                row.times.append(took)
    del built
    trained = sample_model()
    checked = sample_tiles(ACCURACY_TILES, size, seed=1)
    explain = notebook(device, trained)
    reference = {name: heat.cpu() for name, heat in explain(checked, valid).items()}
    measured = []
    previous = waterfall[0]
    for row in every:
        # A row outside the waterfall is compared with the end of the waterfall.
        against = previous if row in waterfall else waterfall[-1]
        measured.append({
            "technique": row.name,
            "batch": row.batch,
            "seconds_per_tile": f"{row.tile:.4f}",
            "times_the_row_before": f"{against.tile / row.tile:.2f}",
            "times_the_notebook": f"{waterfall[0].tile / row.tile:.2f}",
            **accuracy(row, trained, checked, reference),
        })  # fmt: skip
        previous = row
        print(measured[-1], flush=True)
    return measured


def measure_detected(
    device: torch.device, rounds: int, size: int, count: int
) -> list[dict[str, object]]:
    """Measure ``where="detected"`` by the share of ``count`` tiles with one detected class."""
    tiles = sample_tiles(count, size)
    model = untrained_model(tiles[:4])
    engines = {
        where: Engine(model, METHODS, where=where, device=device) for where in ("all", "detected")
    }
    winner = torch.cat([engines["all"].logits(part).argmax(dim=1).cpu() for part in tiles.split(4)])
    masks = {"all": torch.ones_like(winner, dtype=torch.bool)}
    for share in (0.0, 0.05, 0.2, 1.0):
        # Every 1/share-th tile keeps the pixels of one class, the others only the background.
        kept = torch.zeros(count, dtype=torch.long)
        chosen = torch.linspace(0, count - 1, round(share * count)).long()
        kept[chosen] = torch.tensor([1, 2, 3]).repeat(count)[: len(chosen)]
        masks[f"{share:.0%} detected"] = (winner == 0) | (winner == kept[:, None, None])
    masks["100% detected, every class"] = masks["all"]
    times: dict[str, list[float]] = {name: [] for name in masks}
    for n in range(rounds + 1):
        for name, valid in masks.items():
            explain = engines["all" if name == "all" else "detected"]
            took = seconds(partial(run_through, explain, tiles, valid), device)
            if n:
                times[name].append(took / count)
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


def measure_predicted(
    device: torch.device, rounds: int, size: int, count: int
) -> list[dict[str, object]]:
    """Measure ``score="predicted"`` on tiles of the sample city, by its own network."""
    tiles = sample_tiles(count, size)
    valid = torch.ones_like(tiles[:, 0], dtype=torch.bool)
    engine = Engine(sample_model(), METHODS, score="predicted", device=device)
    found = torch.cat([predicted(engine.logits(part))[:, 1:] for part in tiles.split(4)])
    share = found.flatten(2).any(dim=2).float().mean().item()

    def every_class() -> None:
        for part in zip(tiles.split(4), valid.split(4), strict=True):
            engine.explain(*part)

    ways = {
        "every class": every_class,
        f"predicted classes, {share:.0%} of all": partial(run_through, engine, tiles, valid),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for n in range(rounds + 1):
        for name, way in ways.items():
            took = seconds(way, device)
            if n:
                times[name].append(took / count)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return [
        {
            "technique": f"--score predicted, sample city, {name}",
            "batch": 4,
            "seconds_per_tile": f"{median:.4f}",
            "times_the_row_before": f"{medians['every class'] / median:.2f}",
        }
        for name, median in medians.items()
    ]


def run_through(explain: Engine, tiles: Tensor, valid: Tensor) -> None:
    """Explain all tiles in the batches of a run with a batch size of 4."""
    size = explain.tiles_per_call(4)
    for part in zip(tiles.split(size), valid.split(size), strict=True):
        explain(*part)


def class_blindness(device: torch.device, size: int) -> str:
    """Describe by network the minimum correlation of guided gradients of two classes."""
    tiles = sample_tiles(4, size)
    valid = torch.ones_like(tiles[:, 0], dtype=torch.bool)
    lines = []
    for model in (sample_model(), untrained_model(tiles)):
        guided = Engine(model, METHODS, device=device).signals(tiles, valid).guided
        strength = guided.abs().amax(dim=2)
        pairs = ((0, 1), (0, 2), (1, 2))
        lowest = min(pearson(strength[:, i], strength[:, j]).min().item() for i, j in pairs)
        lines.append(f"{model.architecture}: {lowest:.4f}")
    return "guided gradients of two classes correlate at least by: " + "; ".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=320, help="edge of a tile in pixels")
    parser.add_argument("--detected", type=int, default=40, help="tiles in --where, --score rows")
    parser.add_argument("--model", choices=["original", "sample"], default="original")
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/techniques.csv"))
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    keep_heap()
    synchronize(device)
    print(class_blindness(device, arguments.size), flush=True)
    measured = [
        *measure_detected(device, arguments.rounds, arguments.size, arguments.detected),
        *measure_predicted(device, arguments.rounds, arguments.size, arguments.detected),
    ]
    for row in measured:
        print(row, flush=True)
    original = arguments.model == "original"
    measured = measure(original, device, arguments.rounds, arguments.size) + measured
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
