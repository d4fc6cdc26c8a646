"""Measure the engines side by side: autograd, its captured graph, and onnxruntime.

Usage: engines.py [--rounds N] [--size PX] [--batch N] [--model NAME] [--csv FILE]

Nine maps, of an untrained FPN resnext50_32x4d and of the sample model, on the CPU with as many
threads as PyTorch uses. Rounds are interleaved; seconds are medians. Differences are relative to
the range of each class's maps: from autograd, and, as PyTorch rounds, too, from that in float64.
"""

from __future__ import annotations

import argparse
import copy
import csv
import math
import resource
import statistics
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from capecam.analysis.benchmark.measure import machine, seconds
from capecam.analysis.benchmark.table import commit
from capecam.analysis.benchmark.workload import sample_model, sample_tiles, untrained_model
from capecam.api import Engine, Model
from capecam.attribution.graph.graph_engine import GraphEngine
from capecam.attribution.graph.onnx_engine import OnnxEngine
from capecam.attribution.graph.onnx_session import largest_errors
from capecam.runtime.heap import keep_heap

METHODS = ("gradcam", "gradcampp", "guided_gradcam")
CPU = torch.device("cpu")


@dataclass
class Row:
    """Engine with its measurements."""

    name: str
    engine: Engine
    start_s: float = 0.0
    """Seconds of the first batch, in which graphs and sessions are made."""
    wall: list[float] = field(default_factory=list)
    """Seconds of each round."""
    cpu: list[float] = field(default_factory=list)
    """CPU-seconds of each round."""


def rows_of(model: Model) -> list[Row]:
    """Return the engines to compare, which capture at once and whatever they differ by."""
    graph, onnx = GraphEngine(model, METHODS), OnnxEngine(model, METHODS)
    graph.patience = onnx.patience = 0
    onnx.tolerance = math.inf
    autograd = Engine(model, METHODS)
    return [Row("autograd", autograd), Row("captured graph", graph), Row("onnxruntime", onnx)]


def measure(model: Model, tiles: Tensor, rounds: int) -> list[dict[str, object]]:
    """Measure every engine in interleaved rounds."""
    rows, valid = rows_of(model), torch.ones_like(tiles[:, 0], dtype=torch.bool)
    for row in rows:
        row.start_s = seconds(partial(row.engine, tiles, valid), CPU)
    for _ in range(rounds):
        for row in rows:
            before = cpu_seconds()
            row.wall.append(seconds(partial(row.engine, tiles, valid), CPU) / len(tiles))
            row.cpu.append((cpu_seconds() - before) / len(tiles))
    double = replace(model, network=copy.deepcopy(model.network).double())
    exact = Engine(double, METHODS)(tiles, valid).heat
    expected = rows[0].engine(tiles, valid).heat
    measured = []
    for row in rows:
        found = row.engine(tiles, valid).heat
        apart, rounding = largest_errors(found, expected), largest_errors(found, exact)
        measured.append({
            "model": model.architecture,
            "engine": row.name,
            "batch": len(tiles),
            "first_batch_s": f"{row.start_s:.1f}",
            "seconds_per_tile": f"{statistics.median(row.wall):.4f}",
            "cpu_seconds_per_tile": f"{statistics.median(row.cpu):.4f}",
            "times_autograd": f"{times(rows[0], row):.2f}",
            **{f"from_autograd_{name}": f"{error:.1e}" for name, error in apart.items()},
            **{f"from_float64_{name}": f"{error:.1e}" for name, error in rounding.items()},
        })  # fmt: skip
        print(measured[-1], flush=True)
    return measured


def times(autograd: Row, row: Row) -> float:
    """Return the median over rounds of the ratio to autograd in the same round."""
    return statistics.median(a / b for a, b in zip(autograd.cpu, row.cpu, strict=True))


def cpu_seconds() -> float:
    """Return the CPU-seconds of this process and its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=320, help="edge of a tile in pixels")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--model", choices=["all", "original", "sample"], default="all")
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/engines.csv"))
    arguments = parser.parse_args()
    keep_heap()
    tiles = sample_tiles(arguments.batch, arguments.size, seed=1)
    models = {"original": lambda: untrained_model(tiles), "sample": sample_model}
    names = list(models) if arguments.model == "all" else [arguments.model]
    began = time.strftime("%Y-%m-%d")
    measured = [row for name in names for row in measure(models[name](), tiles, arguments.rounds)]
    where = {
        "size": arguments.size, "threads": torch.get_num_threads(), "machine": machine(CPU),
        "torch": torch.__version__, "commit": commit(), "date": began,
    }  # fmt: skip
    with arguments.csv.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*measured[0], *where], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, **where} for row in measured)


if __name__ == "__main__":
    main()
