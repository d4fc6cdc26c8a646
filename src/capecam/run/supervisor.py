"""The run: open the city, prepare once, make every cell that is missing or out of date, finish."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from typing import Protocol

from capecam.grid import Cell
from capecam.io.gdal import gdal_settings
from capecam.model.model import Model
from capecam.mosaic.city import City, city_of, find_cells
from capecam.mosaic.diagnostics import summarize_diagnostics
from capecam.pipeline.cell_runner import CellResult
from capecam.run.city_products import write_city_products
from capecam.run.executors import Executor, ProcessExecutor, SerialExecutor, devices
from capecam.run.ray_executor import RayExecutor
from capecam.run.run_record import RunOutcome, RunRecorder
from capecam.run.status_layer import open_status_layer, status_of
from capecam.runtime.lock import output_lock
from capecam.settings import Settings
from capecam.settings.tree import required
from capecam.store.file_names import DETECTIONS, RUN_JSON
from capecam.store.ledger import Ledger
from capecam.store.records import FailureRecord, RunRecord
from capecam.store.run_folder import read_run
from capecam.store.staleness import ImageHashes, cell_inputs, check_cells, describe_states
from capecam.views.qgis.layer_styles import update_imagery_layer
from capecam.views.report.report import write_report

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


def run(
    settings: Settings, *, model: Model | None = None, progress: Progress | None = None
) -> RunOutcome:
    """Do everything that ``capecam run`` does.

    Args:
        settings: at least ``sources`` and ``out``, and ``checkpoint`` where no model is given.
        model: a network that is loaded already; then everything happens in this process.
        progress: told how it goes.

    Raises:
        UsageError: nothing could be started; no cell was touched.
        StoppedError: the machine failed; the same call goes on where it stopped.
    """
    outcome = RunOutcome(required(settings.out, "out", "--out DIR"))
    ledger = Ledger.open(outcome.out)
    with output_lock(outcome.out, settings.run.shard), gdal_settings():
        previous = read_run(outcome.out)
        city = _open(settings, previous, apart=model is None)
        outcome.failures.update(city.failures)
        with _workshop(settings, model) as workshop:
            record = _prepare(settings, city, previous, workshop, outcome)
            _make_cells(record, ledger, workshop, outcome, progress or Silent())
            outcome.end("cells")
        _finish(record, previous, outcome)
    return outcome


def _open(settings: Settings, previous: RunRecord | None, *, apart: bool) -> City:
    """The city; what is unusual about its images is said."""
    city = city_of(settings, anchor(settings, previous), apart=apart)
    for kind in summarize_diagnostics(city, settings):
        if kind.diagnostic.warning:
            log.warning("%s", kind)
    return city


def _prepare(
    settings: Settings,
    city: City,
    previous: RunRecord | None,
    workshop: Executor,
    outcome: RunOutcome,
) -> RunRecorder:
    """Find out what all cells have in common, and write it down before the first one is made."""
    cells = find_cells(city, settings.tiling)
    outcome.workers = workshop.count
    prepared = workshop.prepare(city, previous)
    city = city.with_value_range(prepared.scale)
    update_imagery_layer(outcome.out, city.mosaic, wanted=settings.qgis.imagery)
    outcome.end("prepare", calibrate=prepared.calibrated_s)
    record = RunRecorder(settings, city, cells, prepared)
    record.record(outcome).write(outcome.out / RUN_JSON)
    return record


def _finish(record: RunRecorder, previous: RunRecord | None, outcome: RunOutcome) -> None:
    """The city's products, if there is a cell; how the run ended; and the report on both."""
    out = outcome.out
    if outcome.done + outcome.kept and not record.settings.run.shard:
        outcome.totals = write_city_products(out)
    outcome.end("finish")
    finished = record.record(outcome)
    if previous is not None and _is_audited(previous, finished):
        finished = finished.model_copy(update={"audit": previous.audit})
    finished.write(out / RUN_JSON)
    if outcome.totals is not None:
        write_report(out, imagery=record.city.mosaic)


def _is_audited(previous: RunRecord, record: RunRecord) -> bool:
    """Return whether the audit of the previous run is about the same detections."""
    if previous.audit is None or record.totals is None:
        return False
    return previous.products.get(DETECTIONS) == record.products[DETECTIONS]


def _workshop(settings: Settings, model: Model | None) -> Executor:
    if model is not None or settings.run.in_process:
        return SerialExecutor(settings, model)
    if settings.compute.cluster:
        return RayExecutor(settings, settings.compute.cluster)
    return ProcessExecutor(settings, devices(settings))


def _make_cells(
    record: RunRecorder, ledger: Ledger, workshop: Executor, outcome: RunOutcome, progress: Progress
) -> None:
    """Every cell of this share that has to be made; one that fails is noted, the rest goes on."""
    settings, tiling = record.settings.run, record.settings.tiling.tiling
    if settings.prune:
        for name in ledger.names() - {cell.name for cell in record.cells}:
            ledger.remove(name)
    contents = ImageHashes()
    todo = _todo(record, ledger, contents, outcome)
    most = len(todo) if settings.max_failures is None else settings.max_failures
    city = record.city
    progress.start(sum(city.interest.count(tiling, cell.core) for cell in todo), len(todo))
    board = open_status_layer(outcome.out, city.mosaic.grid, record.cells, city.failures)
    try:
        with closing(workshop.make(board.running(todo), contents, progress.tiles)) as making:
            for made in making:
                _note(made, record, ledger, contents, outcome)
                board.show(made.cell.name, status_of(ledger, made.cell))
                progress.cell(made.cell.name, f"failed: {made.reason}" if made.reason else "done")
                if outcome.failed > most:
                    outcome.stopped = f"more than {most} cells failed"
                    break
    finally:
        for cell in todo:
            ledger.clear(cell)
        board.flush()


def _todo(
    record: RunRecorder, ledger: Ledger, contents: ImageHashes, outcome: RunOutcome
) -> dict[Cell, str]:
    """What has to be made, and why; notes what is done, and what failed and has not changed."""
    todo = {}
    cells = share(record.cells, record.settings.run.shard)
    verdicts = check_cells(cells, record.city.mosaic, record.inputs, ledger, contents)
    log.info("%s", describe_states(verdicts.values()))
    for cell, verdict in verdicts.items():
        if verdict.state == "done":
            outcome.kept += 1
            ledger.refresh(cell.name, record.image_facts(cell, contents))
        elif verdict.state == "failed":
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
    made: CellResult,
    record: RunRecorder,
    ledger: Ledger,
    contents: ImageHashes,
    outcome: RunOutcome,
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
    ledger.check_writable()  # a worker that has died did not ask
    outcome.failed += 1
    outcome.failures[cell.name] = made.reason
    failure = FailureRecord(
        cell=cell.name,
        image=cell.image,
        status="failed",
        error=made.reason,
        inputs=cell_inputs(cell, record.inputs, record.images_read(cell)),
        images=record.image_facts(cell, contents),
    )
    ledger.fail(cell, failure)


def anchor(settings: Settings, previous: RunRecord | None) -> tuple[float, float] | None:
    """The setting's, else that of the first run into the same folder, else the mosaic's corner."""
    if settings.tiling.anchor or previous is None:
        return settings.tiling.anchor
    return previous.anchor
