"""Measure what each step from a captured graph is worth, alone and all together.

Usage: graph_steps.py [--device NAME] [--precision NAMES] [--batch SIZES] [--size PX] [--rounds N]
       [--model NAME] [--seconds S] [--count] [--csv FILE]

Nine maps of an untrained FPN resnext50_32x4d; seconds are medians of rounds. Kernels and bytes are
counted on tensors without values, before a compiler fuses operations; launched kernels are counted
by the profiler of a GPU. Accuracy is that of the trained sample model, because an untrained one
exaggerates every rounding: against float32 autograd, and the largest difference from autograd at
the same precision. The most telling cases come first; those for which no time is left are named.
A CPU runs the operations of a GPU, to try the script; ``--count`` runs nothing, and only counts.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from memory import append_rows, environment
from torch import Tensor
from torch.autograd import DeviceType
from torch.fx import GraphModule
from torch.profiler import ProfilerActivity, profile

from capecam.analysis.benchmark.measure import peak_mb, seconds, synchronize
from capecam.analysis.benchmark.workload import sample_model, sample_tiles, untrained_model
from capecam.api import Engine, Model
from capecam.attribution.comparison import map_error
from capecam.attribution.device import HALF, pick_device, repeatable
from capecam.attribution.graph.capture import capture
from capecam.attribution.graph.cost import Cost, count_cost
from capecam.attribution.graph.fake import CudaOperations
from capecam.attribution.graph.graph_engine import difference
from capecam.attribution.graph.steps import CUDA_GRAPH, ON_CUDA, take_steps
from capecam.attribution.maps import Explanation
from capecam.attribution.methods import GUIDED
from capecam.errors import CapecamError

METHODS = ("gradcam", "gradcampp", GUIDED)
AUTOGRAD, GRAPH = ("autograd",), ()
COMPILER, KERNELS = "inductor", "kernels"
NOT_COUNTED = (COMPILER, CUDA_GRAPH)
"""Steps after which the graph has no operations to count."""
BATCHES = (32, 64, 128, 256)
ACCURACY_TILES = 8
WARM_UPS = 2

Tiles = tuple[Tensor, Tensor]
Explain = Callable[[Tensor, Tensor], Explanation]


@dataclass(frozen=True)
class Case:
    """A precision, a number of tiles, and the steps to take."""

    precision: str
    batch: int
    steps: tuple[str, ...]


def cases(
    device: torch.device, precisions: Sequence[str], batches: Sequence[int]
) -> Iterator[Case]:
    """Yield cases, the most telling ones first."""
    cuda = device.type == "cuda"
    main = batches[len(batches) // 2]
    safe = ON_CUDA if cuda else GRAPH
    for precision in precisions:
        alone = [
            ("channels_last", KERNELS) if x == KERNELS else (x,) for x in steps(precision, cuda)
        ]
        exact = [safe] if cuda else []
        for taken in (AUTOGRAD, GRAPH, *alone, *exact, steps(precision, cuda)):
            yield Case(precision, main, taken)
    if cuda:
        yield from compiled_cases(precisions[:1], main)
    for batch in batches:
        for precision in precisions if batch != main else ():
            for taken in (AUTOGRAD, safe, steps(precision, cuda)):
                yield Case(precision, batch, taken)
    if cuda:
        yield from compiled_cases(precisions[1:], main)


def compiled_cases(precisions: Sequence[str], batch: int) -> Iterator[Case]:
    """Yield the cases that take the longest to prepare."""
    for precision in precisions:
        others = [step for step in steps(precision, cuda=True) if step != KERNELS]
        yield Case(precision, batch, (COMPILER,))
        yield Case(precision, batch, (*others, COMPILER))


def steps(precision: str, cuda: bool) -> tuple[str, ...]:
    """Return all steps, but for the compiler."""
    half = ("folded",) if precision in HALF else ()
    return (*half, "constants", "channels_last", *((KERNELS, CUDA_GRAPH) if cuda else ()))


class Subject:
    """A network with its tiles, at one precision; its graph is captured once."""

    def __init__(self, model: Model, precision: str, device: torch.device, tiles: Tiles) -> None:
        kind = Engine if device.type == "cuda" else CudaOperations
        engine = kind(model, METHODS, precision=precision, device=device)
        self.tiles = tuple(x.to(device) for x in tiles)
        self.explain: Explain = engine.explain

    @cached_property
    def _graph(self) -> GraphModule:
        return capture(self.explain, *self.tiles)

    def after(self, steps: Sequence[str]) -> Explain:
        """Return what explains after some steps."""
        if steps == AUTOGRAD:
            return self.explain
        return take_steps(steps, copy.deepcopy(self._graph), self.tiles)

    @cached_property
    def plain_cost(self) -> Cost:
        """Cost of the graph before any step; kernels of Triton do not say how many FLOP they do."""
        return count_cost(self._graph, *self.tiles)

    def cost(self, steps: Sequence[str]) -> Cost:
        """Count the cost of the graph after those steps that leave operations to count."""
        if steps in (AUTOGRAD, GRAPH):
            return self.plain_cost
        graph = copy.deepcopy(self._graph)
        take_steps([step for step in steps if step not in NOT_COUNTED], graph, self.tiles)
        return count_cost(graph, *self.tiles)


class Benchmark:
    """Measurement of cases on a device."""

    def __init__(self, model: Model, device: torch.device, size: int, rounds: int) -> None:
        self._device, self._size, self._rounds = device, size, rounds
        self._model, self._sample = model, sample_model()
        self._accuracy_tiles = tiles_of(ACCURACY_TILES, size)
        with repeatable("fp32"):
            self._exact = self._subject(self._sample, "fp32", self._accuracy_tiles).after(AUTOGRAD)(
                *(x.to(device) for x in self._accuracy_tiles)
            )
        self._of: tuple[str, int] = ("", 0)

    def _subject(self, model: Model, precision: str, tiles: Tiles) -> Subject:
        return Subject(model, precision, self._device, tiles)

    def row(self, case: Case) -> dict[str, object]:
        """Measure a case; if it is not possible, the row says why."""
        row = dict.fromkeys(COLUMNS) | {
            "precision": case.precision,
            "batch": case.batch,
            "steps": " ".join(case.steps) or "graph",
        }
        started = time.perf_counter()
        try:
            with repeatable(case.precision):
                self._measure(case, row)
        except (RuntimeError, CapecamError) as error:  # out of memory, no Triton, no compiler
            row["problem"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        torch.compiler.reset()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return row | {"took_s": round(time.perf_counter() - started, 1)}

    def _measure(self, case: Case, row: dict[str, object]) -> None:
        self._prepare(case.precision, case.batch)
        row |= self._accuracy(case)
        explain = self._subject_now.after(case.steps)
        run = partial(explain, *self._subject_now.tiles)
        for _ in range(WARM_UPS):
            run()
        tile = (
            statistics.median(seconds(run, self._device) for _ in range(self._rounds)) / case.batch
        )
        flops, cost = self._subject_now.plain_cost.flops, self._subject_now.cost(case.steps)
        row |= {
            "tiles_per_s": round(1 / tile, 2),
            "kernels": cost.count,
            "gflop_per_tile": round(flops / case.batch / 1e9, 1),
            "gb_per_tile": round(cost.bytes / case.batch / 1e9, 3),
            "tflop_per_s": round(flops / case.batch / tile / 1e12, 3),
            "gb_per_s": round(cost.bytes / case.batch / tile / 1e9, 1),
            "peak_mb": round(peak_mb(run, self._device) or 0),
            "launched": self._launched(run),
        }

    def _prepare(self, precision: str, batch: int) -> None:
        """Capture the graphs of a precision and a batch, and drop those before."""
        if self._of == (precision, batch):
            return
        self._subject_now = self._accurate = None  # their memory first
        self._subject_now = self._subject(self._model, precision, tiles_of(batch, self._size))
        self._accurate = self._subject(self._sample, precision, self._accuracy_tiles)
        self._of = precision, batch

    def _accuracy(self, case: Case) -> dict[str, object]:
        """Compare the sample model's maps with those of float32, and with autograd's."""
        subject = self._accurate
        found, expected = (subject.after(s)(*subject.tiles) for s in (case.steps, AUTOGRAD))
        row: dict[str, object] = {"off_autograd": f"{difference(found, expected):.1e}"}
        for name in METHODS:
            error = map_error({name: found.heat[name]}, {name: self._exact.heat[name]})
            row[f"r_{name}"] = round(error.correlation[name], 6)
            row[f"max_{name}"] = f"{error.max_difference:.1e}"
            row[f"mean_{name}"] = f"{error.mean_difference:.1e}"
        return row

    def _launched(self, run: Callable[[], object]) -> int | None:
        """Count the kernels that a GPU ran."""
        if self._device.type != "cuda":
            return None
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            run()
            synchronize(self._device)
        events = (e for e in profiler.events() or () if e.device_type == DeviceType.CUDA)
        return sum(not event.name.startswith(("Memcpy", "Memset")) for event in events)


COUNTED = (
    GRAPH,
    ("constants",),
    ("folded", "constants"),
    ("folded", "constants", "channels_last", KERNELS),
)
"""Steps whose operations can be counted."""


def count(precisions: Sequence[str], batch: int, size: int) -> Iterator[dict[str, object]]:
    """Count what :data:`COUNTED` cost a GPU, without one, as far as a precision has them."""
    model, tiles = untrained_model(sample_tiles(4, size)), tiles_of(batch, size)
    for precision in precisions:
        subject = Subject(model, precision, torch.device("cpu"), tiles)
        for taken in COUNTED:
            if precision in HALF or "folded" not in taken:
                cost = subject.cost(taken)
                yield dict.fromkeys(COLUMNS) | {
                    "precision": precision,
                    "batch": batch,
                    "steps": " ".join(taken) or "graph",
                    "kernels": cost.count,
                    "gflop_per_tile": round(subject.plain_cost.flops / batch / 1e9, 1),
                    "gb_per_tile": round(cost.bytes / batch / 1e9, 3),
                }


COLUMNS = (
    "precision", "batch", "steps", "tiles_per_s", "gb_per_s", "tflop_per_s", "kernels", "launched",
    "gflop_per_tile", "gb_per_tile", "peak_mb", "off_autograd",
    *(f"{what}_{name}" for name in METHODS for what in ("r", "max", "mean")), "problem", "took_s",
)  # fmt: skip


def tiles_of(count: int, size: int) -> Tiles:
    """Return drawn tiles, all of them valid; from 32 on they are repeated."""
    drawn = sample_tiles(min(count, 32), size)
    pixels = drawn.repeat(-(-count // len(drawn)), 1, 1, 1)[:count]
    return pixels, torch.ones_like(pixels[:, 0], dtype=torch.bool)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="bf16,tf32,fp32")
    parser.add_argument("--batch", default=",".join(map(str, BATCHES)))
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", choices=["original", "sample"], default="original")
    parser.add_argument("--seconds", type=float, default=420, help="no case begins later")
    parser.add_argument("--count", action="store_true", help="count, and measure nothing")
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/graph-steps.csv"))
    arguments = parser.parse_args()
    started = time.monotonic()
    device = pick_device(arguments.device)
    if arguments.count:
        batch = int(arguments.batch.split(",")[0])
        for row in count(arguments.precision.split(","), batch, arguments.size):
            print({key: value for key, value in row.items() if value is not None}, flush=True)
            append_rows(arguments.csv, [row | environment("cpu") | {"machine": "no values"}])
        return
    original = arguments.model == "original"
    model = untrained_model(sample_tiles(4, arguments.size)) if original else sample_model()
    benchmark = Benchmark(model, device, arguments.size, arguments.rounds)
    batches = [int(size) for size in arguments.batch.split(",")]
    left_out = []
    for case in cases(device, arguments.precision.split(","), batches):
        if time.monotonic() - started > arguments.seconds:
            left_out.append(case)
            continue
        row = benchmark.row(case)
        print({key: value for key, value in row.items() if value is not None}, flush=True)
        append_rows(arguments.csv, [row | environment(str(device))])
    for case in left_out:
        print(f"left out, no time: {case.precision}, batch {case.batch}, {' '.join(case.steps)}")


if __name__ == "__main__":
    main()
