"""``capecam bench``: interleaved rounds in one process, medians, and the error in the same row."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from capecam.analysis.benchmark import measure
from capecam.analysis.benchmark.methods import DECISION, Capecam, ExplanationMethod, Heat
from capecam.analysis.benchmark.notebook import Notebook
from capecam.analysis.benchmark.peer_libraries import peers
from capecam.analysis.benchmark.table import Machine, Row, machine_of
from capecam.analysis.benchmark.workload import sample_tiles, untrained_model
from capecam.attribution.autotune import auto_batch_size
from capecam.attribution.comparison import map_error
from capecam.attribution.device import pick_device, repeatable
from capecam.attribution.engine import Engine
from capecam.attribution.methods import GUIDED
from capecam.model.model import Model, load_model
from capecam.settings import PRECISIONS, Settings

TASKS: dict[str, tuple[str, ...]] = {
    "forward": (),
    "six CAMs": ("gradcam", "gradcampp"),
    "nine maps": ("gradcam", "gradcampp", GUIDED),
}
REFERENCE_TILES = 4
"""Errors are taken on the first of them; the reference is slow."""


@dataclass(slots=True)
class _Case:
    """A way at a task and a batch size, and what has been measured of it."""

    way: ExplanationMethod
    task: str
    methods: tuple[str, ...]
    """Methods of the task that are available."""
    pixels: Tensor
    found: Heat = field(default_factory=dict)
    """Maps of the first tiles."""
    peak_mb: float | None = None
    gflop: float = 0.0
    """Per tile."""
    seconds: list[float] = field(default_factory=list)
    """Per tile, by round."""

    def run(self) -> Heat:
        return self.way(self.pixels, self.methods)


@dataclass(frozen=True, slots=True)
class Extent:
    """Extent of the measurement."""

    batches: tuple[int, ...] = (1, 8, 32)
    """Batch sizes."""
    rounds: int = 3
    """Number of rounds for the medians, after one round to warm up."""
    precisions: tuple[str, ...] = ("fp32",)
    """Precisions of capecam's engine."""
    with_peers: bool = True
    """Measure the other libraries, too."""


def bench_settings(
    settings: Settings, extent: Extent, say: Callable[[str], object]
) -> tuple[list[Row], Machine]:
    """:func:`bench` of the settings' checkpoint, or of the original architecture untrained.

    On a GPU in every precision, and also with the batch that fits.
    """
    device, size = pick_device(settings.compute.device), settings.tiling.size
    tiles = sample_tiles(REFERENCE_TILES, size)
    if settings.checkpoint:
        model = load_model(settings.checkpoint, settings.model)
    else:
        model = untrained_model(tiles)
    if device.type == "cuda":
        fits = auto_batch_size(Engine(model, TASKS["nine maps"], device=device), size)
        batches = tuple(sorted({*extent.batches, fits}))
        extent = replace(extent, batches=batches, precisions=PRECISIONS)
    tiles = sample_tiles(max(*extent.batches, REFERENCE_TILES), size)
    return bench(model, tiles, device, extent, say)


def bench(
    model: Model,
    tiles: Tensor,
    device: torch.device,
    extent: Extent,
    say: Callable[[str], object] = print,
) -> tuple[list[Row], Machine]:
    """Measure every way at every task and batch size.

    Args:
        model: is explained.
        tiles: (N, 3, S, S) uint8, at least as many as the largest batch.
        device: to run on.
        extent: how much.
        say: told how it goes.
    """
    tiles = tiles.to(device)
    notebook = _single(Notebook(model, device), tiles)
    ways: list[ExplanationMethod] = [
        Capecam(model, device, precision) for precision in extent.precisions
    ]
    ways += peers(model, device) if extent.with_peers else ()
    cases = [
        *notebook.values(),
        *(case for way in ways for case in _cases(way, tiles, extent.batches)),
    ]
    matrix_gflops = measure.matrix_gflops(device)
    fitting = _measured(cases, extent.rounds, device, say)
    reference = _reference(model, tiles[:REFERENCE_TILES], device)
    summed = [*_summed(notebook), *fitting[len(notebook) :]]
    rows = [
        _row(case, notebook, reference, matrix_gflops, len(model.foreground)) for case in summed
    ]
    return rows, machine_of(model, device, matrix_gflops)


def _measured(
    cases: Iterable[_Case], rounds: int, device: torch.device, say: Callable[[str], object]
) -> list[_Case]:
    """The cases that fit the device, with their seconds of every round; rounds are interleaved, so
    that what slows the machine down slows all of them."""
    say("warming up")
    fitting: list[_Case] = []
    for case in cases:
        if _looked_over(case, fitting, device, say):
            fitting.append(case)
    for round_ in range(rounds):
        say(f"round {round_ + 1} of {rounds}")
        for case in fitting:
            case.seconds.append(measure.seconds(case.run, device) / len(case.pixels))
    return fitting


def _cases(way: ExplanationMethod, tiles: Tensor, batches: Sequence[int]) -> Iterator[_Case]:
    """Yield the cases of a method, one per task and batch size, without duplicates."""
    seen: set[tuple[str, ...]] = set() if way.forwards else {()}
    for task, wanted in TASKS.items():
        methods = tuple(method for method in wanted if method in way.methods)
        if methods not in seen:
            seen.add(methods)
            yield from (_Case(way, task, methods, tiles[:batch]) for batch in batches)


def _single(way: ExplanationMethod, tiles: Tensor) -> dict[str, _Case]:
    """A case for the forward and for each map; whatever takes images one by one is their sum."""
    methods = TASKS["nine maps"]
    one = tiles[:1]
    return {DECISION: _Case(way, "forward", (), one)} | {
        method: _Case(way, method, (method,), one) for method in methods
    }


def _summed(single: dict[str, _Case]) -> Iterator[_Case]:
    """The cases of the tasks, from those of the single maps."""
    for task, methods in TASKS.items():
        parts = [single[method] for method in methods or (DECISION,)]
        yield _Case(
            parts[0].way,
            task,
            methods,
            parts[0].pixels,
            {name: heat for part in parts for name, heat in part.found.items()},
            max((part.peak_mb for part in parts if part.peak_mb is not None), default=None),
            sum(part.gflop for part in parts),
            [sum(seconds) for seconds in zip(*(part.seconds for part in parts), strict=True)],
        )


def _looked_over(
    case: _Case, before: Sequence[_Case], device: torch.device, say: Callable[[str], object]
) -> bool:
    """Warm up, and keep what need not be measured again; False if it does not fit."""
    left_out = f"left out: {case.way.name}, {case.task}, {len(case.pixels)} tiles: "
    if reason := _why_not(case, before, device):
        say(left_out + reason)
        return False
    try:
        case.found = {name: heat[:REFERENCE_TILES].cpu() for name, heat in case.run().items()}
        case.peak_mb = measure.peak_mb(case.run, device)
    except torch.OutOfMemoryError:
        say(left_out + "out of memory")
        return False
    one = replace(case, pixels=case.pixels[:1])
    if len(case.pixels) > 1:
        one.run()  # a graph for one tile may be captured
    case.gflop = measure.gflop(one.run)
    return True


def _why_not(case: _Case, before: Sequence[_Case], device: torch.device) -> str | None:
    """Return why a case would not fit into memory, judged by a smaller one; None if it fits."""
    free = measure.free_mb() if device.type == "cpu" and len(case.pixels) > 1 else None
    if free is None:
        return None
    known = [c for c in before if (c.way, c.task) == (case.way, case.task)]
    smaller = max(known, key=lambda c: len(c.pixels), default=replace(case, pixels=case.pixels[:1]))
    if smaller.peak_mb is None:
        smaller.peak_mb = measure.peak_mb(smaller.run, device)
    needed = (smaller.peak_mb or 0.0) * len(case.pixels) / len(smaller.pixels)
    return f"needs about {needed:.0f} MB of {free:.0f}" if needed > free else None


def _reference(model: Model, tiles: Tensor, device: torch.device) -> Heat:
    """The notebook's way in float32, with the papers' formulas."""
    way = Notebook(model, device, plusplus="gradcampp")
    with repeatable("fp32"):
        found = way(tiles, TASKS["nine maps"]) | way(tiles, ())
    return {name: heat.cpu() for name, heat in found.items()}


def _row(
    case: _Case, notebook: dict[str, _Case], reference: Heat, matrix_gflops: float, classes: int
) -> Row:
    seconds = statistics.median(case.seconds)
    by_hand = [notebook[method].seconds for method in case.methods or (DECISION,)]
    ratios = [sum(parts) / own for own, *parts in zip(case.seconds, *by_hand, strict=True)]
    heat = {name: maps for name, maps in case.found.items() if name != DECISION}
    error = map_error(heat, reference)
    gflops = case.gflop / seconds
    return Row(
        way=case.way.name,
        task=case.task,
        maps=len(case.methods) * classes,
        batch=len(case.pixels),
        tiles_per_s=1 / seconds,
        times_notebook=statistics.median(ratios),
        gflop_per_tile=case.gflop,
        gflops=gflops,
        matrix_share=gflops / matrix_gflops,
        peak_mb=case.peak_mb,
        compared=error.maps,
        corr_gradcam=error.correlation.get("gradcam"),
        corr_gradcampp=error.correlation.get("gradcampp"),
        corr_guided=error.correlation.get(GUIDED),
        max_difference=error.max_difference,
        mean_difference=error.mean_difference,
        argmax_agreement=_agreement(case.found, reference),
    )


def _agreement(found: Heat, reference: Heat) -> float | None:
    """Share of pixels with the class of the reference."""
    if DECISION not in found:
        return None
    decision = found[DECISION]
    same = decision.argmax(dim=1) == reference[DECISION][: len(decision)].argmax(dim=1)
    return same.float().mean().item()
