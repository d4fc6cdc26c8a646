"""The run: open the city, prepare once, make every cell that is missing or out of date, finish."""

from __future__ import annotations

import logging
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from capecam import __version__
from capecam.board import show_all, state_of
from capecam.changes import Contents, basis, judge
from capecam.city import RUN_JSON, Totals, assemble, grid_to_json, read_run
from capecam.cluster import RayActors
from capecam.grid import Cell
from capecam.ledger import Ledger, write_json
from capecam.lock import hold
from capecam.maker import Prepared, required
from capecam.model import Model
from capecam.raster import Source, gdal_settings
from capecam.settings import Settings
from capecam.sources import City, find_cells, open_city
from capecam.workers import InProcess, Made, Processes, Workshop, devices

log = logging.getLogger(__name__)


class Progress(Protocol):
    """Told how a run goes; the command line draws a bar from it."""

    def start(self, tiles: int, cells: int) -> None:
        """There are at most this many tiles to run, in this many cells."""

    def tiles(self, count: int) -> None:
        """So many more are done."""

    def cell(self, name: str, outcome: str) -> None:
        """A cell has ended."""


class Silent:
    """No progress: for notebooks and tests."""

    def start(self, tiles: int, cells: int) -> None:
        """Nothing."""

    def tiles(self, count: int) -> None:
        """Nothing."""

    def cell(self, name: str, outcome: str) -> None:
        """Nothing."""


@dataclass(slots=True)
class Outcome:
    """How a run ended."""

    out: Path
    failures: dict[str, str]
    """By image or cell: why it is missing."""
    done: int = 0
    """Cells finished in this run."""
    failed: int = 0
    """Cells that failed in this run; ``failures`` has those of before, too."""
    stopped: str | None = None
    """Why it ended before all cells were tried."""
    kept: int = 0
    """Cells that were done before and are still right."""
    tiles: int = 0
    """Tiles run in this run."""
    workers: int = 1
    batch_size: int = sys.maxsize
    """Tiles that went through the network at once, at the least."""
    seconds: float = 0.0
    totals: Totals | None = None
    """Of all finished cells; None if there is none."""
    stages: dict[str, float] = field(default_factory=dict)
    """Wall seconds, one after the other."""
    work: dict[str, float] = field(default_factory=dict)
    """Seconds inside the cells, by stage: some of them at the same time (``cell.CellReport``)."""

    @property
    def waited(self) -> float | None:
        """The share of the cells' wall time in which the engine had nothing to do."""
        if not self.done:
            return None
        return max(0.0, 1 - self.work["engine"] / self.workers / self.stages["cells"])

    @property
    def exit_code(self) -> int:
        """0 done; 3 some cells failed; 2 none could be made."""
        if not self.failures:
            return 0
        return 3 if self.done + self.kept else 2


def run(
    settings: Settings, *, model: Model | None = None, progress: Progress | None = None
) -> Outcome:
    """Do everything that ``capecam run`` does.

    Args:
        settings: at least ``sources`` and ``out``, and ``checkpoint`` where no model is given.
        model: a network that is loaded already; then everything happens in this process.
        progress: told how it goes.

    Raises:
        UsageError: nothing could be started; no cell was touched.
        StoppedError: the machine failed; the same call goes on where it stopped.
    """
    started = time.perf_counter()
    out = required(settings.out, "out", "--out DIR")
    ledger = Ledger.open(out)
    with hold(out, settings.run.shard), gdal_settings():
        before = read_run(out) or {}
        city = open_city(settings.sources, anchor(settings, before), settings.mosaic)
        cells = find_cells(city, settings.tiling)
        outcome = Outcome(out, dict(city.failures))
        with _workshop(settings, model) as workshop:
            outcome.workers = workshop.count
            kept = {} if settings.run.recalibrate else before.get("calibration", {})
            prepared = workshop.prepare(city, {**before, "calibration": kept})
            prepared_at = time.perf_counter()
            outcome.stages["prepare"] = prepared_at - started - prepared.calibrated_s
            outcome.stages["calibrate"] = prepared.calibrated_s
            record = _Record(settings, city, cells, prepared)
            write_json(out / RUN_JSON, record.to_json(outcome))
            _make_cells(record, ledger, workshop, outcome, progress or Silent())
            outcome.stages["cells"] = time.perf_counter() - prepared_at
        if outcome.done + outcome.kept and not settings.run.shard:
            outcome.totals = assemble(out)
        outcome.seconds = time.perf_counter() - started
        outcome.stages["finish"] = outcome.seconds - sum(outcome.stages.values())
        write_json(out / RUN_JSON, record.to_json(outcome))
    return outcome


def _workshop(settings: Settings, model: Model | None) -> Workshop:
    if model is not None or settings.run.in_process:
        return InProcess(settings, model)
    if settings.compute.cluster:
        return RayActors(settings, settings.compute.cluster)
    return Processes(settings, devices(settings))


def _make_cells(
    record: _Record, ledger: Ledger, workshop: Workshop, outcome: Outcome, progress: Progress
) -> None:
    """Every cell of this share that has to be made; one that fails is noted, the rest goes on."""
    settings, tiling = record.settings.run, record.settings.tiling.tiling
    if settings.prune:
        for name in set(ledger.names()) - {cell.name for cell in record.cells}:
            ledger.discard(name)
    contents = Contents()
    todo = _todo(record, ledger, contents, outcome)
    most = len(todo) if settings.max_failures is None else settings.max_failures
    city = record.city
    progress.start(sum(city.interest.count(tiling, cell.core) for cell in todo), len(todo))
    board = show_all(outcome.out, city.mosaic.grid, record.cells, city.failures)
    try:
        with closing(workshop.make(board.running(todo), contents, progress.tiles)) as making:
            for made in making:
                _note(made, record, ledger, contents, outcome)
                board.show(made.cell.name, state_of(ledger, made.cell))
                progress.cell(made.cell.name, f"failed: {made.reason}" if made.reason else "done")
                if outcome.failed > most:
                    outcome.stopped = f"more than {most} cells failed"
                    break
    finally:
        for cell in todo:
            ledger.clear(cell)
        board.flush()


def _todo(record: _Record, ledger: Ledger, contents: Contents, outcome: Outcome) -> dict[Cell, str]:
    """What has to be made, and why; notes what is done, and what failed and has not changed."""
    todo = {}
    for cell in share(record.cells, record.settings.run.shard):
        images = record.images(cell)
        verdict = judge(cell, ledger, record.basis(cell), images, contents)
        if verdict.state == "done":
            outcome.kept += 1
            ledger.refresh(cell.name, {s.name: contents.of_neighbour(s) for s in images})
        elif verdict.state == "failed" and not record.settings.run.retry_failed:
            outcome.failures[cell.name] = f"{verdict.reason} (before; --retry-failed tries again)"
        else:
            log.debug("cell %s is to be made: %s", cell.name, verdict.reason)
            todo[cell] = verdict.reason
    return todo


def share(cells: Sequence[Cell], shard: tuple[int, int] | None) -> Sequence[Cell]:
    """The I-th of N shares: neighbours stay together, since they read the same images."""
    index, count = shard or (1, 1)
    return cells[len(cells) * (index - 1) // count : len(cells) * index // count]


def _note(
    made: Made, record: _Record, ledger: Ledger, contents: Contents, outcome: Outcome
) -> None:
    """Count a cell that has ended; keep the reason if it failed."""
    cell = made.cell
    if made.report is not None:
        outcome.done += 1
        outcome.tiles += made.report.tiles
        outcome.batch_size = min(outcome.batch_size, made.report.batch_size)
        for stage, seconds in made.report.stages.items():
            outcome.work[stage] = outcome.work.get(stage, 0.0) + seconds
        return
    ledger.check_writable()
    outcome.failed += 1
    outcome.failures[cell.name] = made.reason
    failure = {
        "cell": cell.name,
        "image": cell.image,
        "status": "failed",
        "error": made.reason,
        "basis": record.basis(cell),
        "images": {s.name: contents.of_neighbour(s) for s in record.images(cell)},
    }
    ledger.fail(cell, failure)


def anchor(settings: Settings, before: Mapping[str, Any]) -> tuple[float, float] | None:
    """The setting's, else that of the first run into the same folder, else the mosaic's corner."""
    if settings.tiling.anchor or not before:
        return settings.tiling.anchor
    x, y = before["anchor"]
    return x, y


@dataclass(frozen=True, slots=True)
class _Record:
    """What is decided when the first cell is made."""

    settings: Settings
    city: City
    cells: tuple[Cell, ...]
    prepared: Prepared

    def basis(self, cell: Cell) -> dict[str, Any]:
        return basis(cell, self.prepared.inputs(self.settings, self.city))

    def images(self, cell: Cell) -> list[Source]:
        """Those that the cell sees."""
        return self.city.mosaic.touching(self.settings.tiling.tiling.reach(cell.core))

    def to_json(self, outcome: Outcome) -> dict[str, Any]:
        """``run.json``."""
        prepared, totals = self.prepared, outcome.totals
        return {
            "capecam": __version__,
            "settings": self.settings.model_dump(mode="json"),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "device": prepared.device,
            "precision": prepared.precision,
            "batch_size": min(prepared.batch_size, outcome.batch_size),
            "checkpoint": {
                "sha256": prepared.checkpoint,
                "architecture": prepared.architecture,
                "target_layer": prepared.target_layer,
                "ignored": prepared.ignored,
            },
            **grid_to_json(self.city.mosaic.grid),
            "calibration": prepared.calibration.to_json(),
            "empty": self._empty(),
            "cells": [cell.name for cell in self.cells],
            "shifted": {s.name: s.shift_px for s in self.city.mosaic.sources if any(s.shift_px)},
            "warped": [s.name for s in self.city.mosaic.sources if s.warped],
            "failures": outcome.failures,
            "stopped": outcome.stopped,
            "tiles": outcome.tiles,
            "seconds": round(outcome.seconds, 3),
            "stages": {name: round(seconds, 3) for name, seconds in outcome.stages.items()},
            "work": {name: round(seconds, 3) for name, seconds in outcome.work.items()},
            "engine_waited": None if outcome.waited is None else round(outcome.waited, 4),
            **({} if totals is None else totals.to_json()),
        }

    def _empty(self) -> dict[str, list[str]]:
        """By method: the classes whose maps have no positive value."""
        names = [c.name for c in self.settings.model.classes[1:]]
        return {
            method: [name for name, top in zip(names, tops, strict=True) if top is None]
            for method, tops in self.prepared.calibration.tops.items()
        }
