"""The run: open the city, calibrate once, process every cell that is not done, finish."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from capecam import __version__
from capecam.batch import batches
from capecam.calibration import (
    Calibration,
    calibrate,
    load_calibration,
    sample,
    why_not_usable,
)
from capecam.cell import CellReport, Job, process
from capecam.city import RUN_JSON, Totals, finish, grid_to_json, read_run
from capecam.engine import Engine
from capecam.errors import CapecamError, SettingsError, UsageError
from capecam.fit import fitting_batch, fitting_precision
from capecam.grid import Cell
from capecam.ledger import Ledger, basis, record, write_json
from capecam.model import Model, check_tile, load_model
from capecam.raster import gdal_settings
from capecam.settings import Settings
from capecam.sources import City, open_city

log = logging.getLogger(__name__)

PRECISION_TILES = 16
"""Of the calibration's sample, on which the precision is chosen."""


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
    kept: int = 0
    """Cells that were done before and are still right."""
    tiles: int = 0
    """Tiles run in this run."""
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
        return max(0.0, 1 - self.work["engine"] / self.stages["cells"])

    @property
    def exit_code(self) -> int:
        """0 done; 3 some cells failed; 2 none could be made."""
        if not self.failures:
            return 0
        return 3 if self.done + self.kept else 2


def run(
    settings: Settings,
    *,
    model: Model | None = None,
    recalibrate: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Do everything that ``capecam run`` does.

    Args:
        settings: at least ``sources`` and ``out``, and ``checkpoint`` where no model is given.
        model: a network that is loaded already.
        recalibrate: sample the colour scale anew.
        progress: told how it goes.

    Raises:
        CapecamError: nothing could be started; no cell was touched.
    """
    started = time.perf_counter()
    progress = progress or Silent()
    out = required(settings.out, "out", "--out DIR")
    engine = build_engine(settings, model or _load(settings))
    ledger = Ledger.open(out)
    before = read_run(out) or {}
    with gdal_settings():
        city = open_city(settings.sources, anchor(settings, before))
        engine = _at_precision(engine, settings, city, before)
        batch_size = _batch_size(settings, engine, before)
        prepared = time.perf_counter()
        calibration = _calibration(
            settings, city, engine, batch_size, {} if recalibrate else before
        )
        job = Job(city.mosaic, engine, calibration, settings, batch_size)
        cells = city.mosaic.cells(settings.tiling.tiling, settings.tiling.cell_size)
        outcome = Outcome(out, dict(city.failures))
        calibrated = time.perf_counter()
        outcome.stages = {"prepare": prepared - started, "calibrate": calibrated - prepared}
        write_json(out / RUN_JSON, _run_record(job, cells, outcome))
        _process_cells(cells, job, ledger, outcome, progress)
        outcome.stages["cells"] = time.perf_counter() - calibrated
        if outcome.done + outcome.kept:
            outcome.totals = finish(out)
    outcome.seconds = time.perf_counter() - started
    outcome.stages["finish"] = outcome.seconds - sum(outcome.stages.values())
    write_json(out / RUN_JSON, _run_record(job, cells, outcome))
    return outcome


def _process_cells(
    cells: tuple[Cell, ...], job: Job, ledger: Ledger, outcome: Outcome, progress: Progress
) -> None:
    """Every cell that is not done; one that fails is recorded, and the rest goes on."""
    todo = {}
    for cell in cells:
        made_from = basis(cell, job)
        if ledger.is_done(cell, made_from):
            outcome.kept += 1
        else:
            todo[cell] = made_from
    tiling = job.settings.tiling.tiling
    progress.start(sum(tiling.count(cell.core) for cell in todo), len(todo))
    for cell, made_from in todo.items():
        try:
            report = _process_cell(cell, job, ledger, made_from, progress.tiles)
        except Exception as error:  # whatever one image does, the night goes on; exit code 3
            reason = str(error) if isinstance(error, CapecamError) else repr(error)
            log.debug("cell %s failed", cell.name, exc_info=True)
            ledger.discard(cell)
            outcome.failures[cell.name] = reason
            progress.cell(cell.name, f"failed: {reason}")
        else:
            outcome.done += 1
            outcome.tiles += report.tiles
            for stage, seconds in report.stages.items():
                outcome.work[stage] = outcome.work.get(stage, 0.0) + seconds
            progress.cell(cell.name, "done")


def _process_cell(
    cell: Cell, job: Job, ledger: Ledger, made_from: dict[str, Any], tick: Callable[[int], None]
) -> CellReport:
    started = time.perf_counter()
    with ledger.making(cell) as work:
        report = process(cell, job, work, tick)
        seconds = time.perf_counter() - started
        ledger.commit(cell, work, record(cell, report, made_from, seconds))
    return report


def _load(settings: Settings) -> Model:
    checkpoint = required(settings.checkpoint, "checkpoint", "--checkpoint FILE")
    return load_model(checkpoint, settings.model)


def build_engine(settings: Settings, model: Model) -> Engine:
    """The network on its device, ready to explain as the settings say."""
    check_tile(model.network, settings.tiling.tiling)
    explain = settings.explain
    return Engine(
        model,
        explain.methods,
        score=explain.score,
        where=explain.where,
        precision="fp32" if settings.compute.precision == "auto" else settings.compute.precision,
        device=pick_device(settings.compute.device),
    )


def _at_precision(
    engine: Engine, settings: Settings, city: City, before: Mapping[str, Any]
) -> Engine:
    """As set; or as in the run before; or as fits a sample of tiles. On a CPU auto is float32."""
    if settings.compute.precision != "auto" or engine.device.type == "cpu":
        return engine
    if before.get("device") == str(engine.device) and "precision" in before:
        return engine.at(before["precision"])
    tiling, seed = settings.tiling.tiling, settings.explain.seed
    tiles = sample(city.mosaic, tiling, PRECISION_TILES, seed)
    for batch in batches(tiles, PRECISION_TILES):
        return engine.at(fitting_precision(engine, batch.pixels, batch.valid))
    return engine  # there is nothing to see


def pick_device(name: str) -> torch.device:
    """``auto`` is the first GPU, if there is one.

    Raises:
        SettingsError: a GPU is asked for that is not there.
    """
    count = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        raise SettingsError(f"device {name} is not there: {count} CUDA device(s) found; use cpu")
    return device


def anchor(settings: Settings, before: Mapping[str, Any]) -> tuple[float, float] | None:
    """The setting's, else that of the first run into the same folder, else the mosaic's corner."""
    if settings.tiling.anchor or not before:
        return settings.tiling.anchor
    x, y = before["anchor"]
    return x, y


def required(value: Path | None, key: str, option: str) -> Path:
    """A setting that has no default."""
    if value is None:
        raise UsageError(f"{key} is not set; give {option} or set it in the configuration")
    return value


def _batch_size(settings: Settings, engine: Engine, before: Mapping[str, Any]) -> int:
    """The setting; or that of the run before, since results depend on it; or what fits."""
    if settings.compute.batch_size != "auto":
        return settings.compute.batch_size
    if before.get("device") == str(engine.device) and "batch_size" in before:
        return int(before["batch_size"])
    return fitting_batch(engine, settings.tiling.size)


def _calibration(
    settings: Settings, city: City, engine: Engine, batch_size: int, before: Mapping[str, Any]
) -> Calibration:
    """Another run's if one is named, else this folder's own if it still fits, else a new one."""
    explain = settings.explain
    if explain.calibration:
        return load_calibration(explain.calibration, engine)
    if "calibration" in before:
        own = Calibration.from_json(before["calibration"])
        if why_not_usable(own, engine) is None:
            return own
    return calibrate(
        city.mosaic,
        settings.tiling.tiling,
        engine,
        tiles=explain.calibration_tiles,
        batch_size=batch_size,
        seed=explain.seed,
    )


def _run_record(job: Job, cells: tuple[Cell, ...], outcome: Outcome) -> dict[str, Any]:
    totals = outcome.totals
    return {
        "capecam": __version__,
        "settings": job.settings.model_dump(mode="json"),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "device": str(job.engine.device),
        "precision": job.engine.precision,
        "batch_size": min(job.batch_size, job.engine.most),
        "checkpoint": {
            "sha256": job.engine.model.sha256,
            "architecture": job.engine.model.architecture,
            "target_layer": job.engine.model.target_layer,
            "ignored": job.engine.model.ignored,
        },
        **grid_to_json(job.mosaic.grid),
        "calibration": job.calibration.to_json(),
        "empty": _empty(job),
        "cells": [cell.name for cell in cells],
        "shifted": {s.name: s.shift_px for s in job.mosaic.sources if any(s.shift_px)},
        "failures": outcome.failures,
        "tiles": outcome.tiles,
        "seconds": round(outcome.seconds, 3),
        "stages": {name: round(seconds, 3) for name, seconds in outcome.stages.items()},
        "work": {name: round(seconds, 3) for name, seconds in outcome.work.items()},
        "engine_waited": None if outcome.waited is None else round(outcome.waited, 4),
        "totals": None
        if totals is None
        else {"cells": totals.cells, "tiles": totals.tiles, "by_class": totals.by_class},
    }


def _empty(job: Job) -> dict[str, list[str]]:
    """By method: the classes whose maps have no positive value."""
    names = [c.name for c in job.engine.model.foreground]
    return {
        method: [name for name, top in zip(names, tops, strict=True) if top is None]
        for method, tops in job.calibration.tops.items()
    }
