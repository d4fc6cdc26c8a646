"""A whole run: open the city, process every cell that is missing or out of date, write the city's
products."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import closing

from capecam.grid import Cell
from capecam.io.gdal import gdal_settings
from capecam.model.model import Model
from capecam.mosaic.city import City, city_of, find_cells
from capecam.mosaic.diagnostics import DiagnosticGroup, summarize_diagnostics
from capecam.pipeline.cell_runner import CellResult
from capecam.pipeline.object_group import GroupResult, ObjectGroup
from capecam.pipeline.preparation import warn_of_names
from capecam.run.applied_calibration import read_for
from capecam.run.city_products import write_city_products
from capecam.run.early_process import EarlyEvidenceProcess
from capecam.run.executors import Executor, ProcessExecutor, SerialExecutor, devices
from capecam.run.outcome import PreparedRun, RunOutcome
from capecam.run.ray_executor import RayExecutor
from capecam.run.status_layer import StatusLayer
from capecam.runtime.lock import output_lock
from capecam.runtime.progress import SILENT, Progress
from capecam.settings import Settings
from capecam.settings.loading import validated
from capecam.settings.tree import required
from capecam.store.edited import keep_edited
from capecam.store.file_names import RUN_JSON
from capecam.store.ledger import Ledger
from capecam.store.records import FailureRecord, RunRecord
from capecam.store.run_folder import read_run
from capecam.store.staleness import ImageHashes, cell_inputs, check_cells, describe_states
from capecam.views.qgis.product_styles import update_imagery_layer
from capecam.views.report.report import write_report

log = logging.getLogger(__name__)


def run(
    settings: Settings, *, model: Model | None = None, progress: Progress = SILENT
) -> RunOutcome:
    """Do everything that ``capecam run`` does.

    Args:
        settings: at least ``sources`` and ``out``, and ``checkpoint`` where no model is given.
        model: a network that is loaded already; then everything happens in this process. One that
            was adapted in memory takes the place of ``checkpoint`` and ``model`` in the settings.
        progress: hears how far the run is.

    Raises:
        UsageError: nothing could be started; no cell was touched.
        StoppedError: the machine failed; the same call continues where it stopped.
    """
    settings = _with_adapted(settings, model)
    outcome = RunOutcome(required(settings.out, "out", "--out DIR"))
    read_for(settings)  # a calibration that does not fit is refused before any work
    ledger = Ledger.open(outcome.out)
    with output_lock(outcome.out, settings.run.shard), gdal_settings():
        previous = read_run(outcome.out)
        where = anchor(settings, previous)
        city = city_of(settings, where, apart=model is None, progress=progress)
        outcome.failures.update(city.failures)
        with _executor(settings, model) as executor:
            prepared = _prepare(settings, city, previous, executor, outcome, progress=progress)
            hashes = ImageHashes()
            _process_cells(prepared, ledger, executor, outcome, hashes, progress=progress)
            outcome.end("cells")
            _write_city(prepared, executor, outcome, hashes, progress)
        _finish(prepared, outcome, progress)
    return outcome


def _with_adapted(settings: Settings, model: Model | None) -> Settings:
    """Return the settings of a run with a network that was adapted in memory, if it is one."""
    if model is None or model.settings is None:
        return settings
    network = model.settings.model_copy(update={"gsd_m": settings.model.gsd_m})
    tree = settings.model_dump(mode="json", exclude={"checkpoint"})
    return validated(tree | {"model": network.model_dump(mode="json")}, "")


def _diagnostics(city: City, settings: Settings) -> tuple[DiagnosticGroup, ...]:
    """Log what is unusual about the images, a line for each kind of remark."""
    groups = summarize_diagnostics(city, settings)
    for group in groups:
        log.log(logging.WARNING if group.diagnostic.warning else logging.INFO, "%s", group)
    return groups


def _executor(settings: Settings, model: Model | None) -> Executor:
    if model is not None or settings.run.in_process:
        return SerialExecutor(settings, model)
    if settings.compute.cluster:
        return RayExecutor(settings, settings.compute.cluster)
    return ProcessExecutor(settings, devices(settings))


def _prepare(
    settings: Settings,
    city: City,
    previous: RunRecord | None,
    executor: Executor,
    outcome: RunOutcome,
    *,
    progress: Progress,
) -> PreparedRun:
    """Find out what all cells have in common, and record it before the first one is processed."""
    diagnostics, cells = _diagnostics(city, settings), find_cells(city, settings.tiling)
    warn_of_names(city.mosaic.sources, settings.about)
    outcome.workers = executor.count
    progress.at("network")
    constants = executor.prepare(city, previous, progress)
    city = city.with_value_range(constants.scale)
    if previous is not None:
        keep_edited(outcome.out, previous.last_written)
    update_imagery_layer(outcome.out, city.mosaic, wanted=settings.qgis.imagery)
    outcome.end("prepare", calibrate=constants.calibrated_s)
    prepared = PreparedRun(settings, city, cells, constants, diagnostics, previous)
    prepared.record(outcome).write(outcome.out / RUN_JSON)
    return prepared


def _process_cells(
    prepared: PreparedRun,
    ledger: Ledger,
    executor: Executor,
    outcome: RunOutcome,
    hashes: ImageHashes,
    *,
    progress: Progress,
) -> None:
    """Process every cell of this shard that is out of date; note those that fail, and continue."""
    settings, city = prepared.settings.run, prepared.city
    if settings.prune:
        for name in ledger.names() - {cell.name for cell in prepared.cells}:
            ledger.remove(name)
    progress.at("check")
    todo = _check(prepared, ledger, hashes, outcome)
    limit = len(todo) if settings.max_failures is None else settings.max_failures
    tiling = prepared.settings.tiling.tiling
    tiles = {cell.name: city.interest.count(tiling, cell.core) for cell in todo}
    if todo:
        progress.at("cells", 0, sum(tiles.values()))
    layer = StatusLayer(outcome.out, city.mosaic.grid, prepared.cells, city.failures)
    processing = executor.process(prepared, layer.running(todo), hashes, progress.advance)
    beside = not isinstance(executor, SerialExecutor) and settings.shard is None
    evidence = EarlyEvidenceProcess(outcome.out, prepared.cells, todo, wanted=beside)
    try:
        with evidence, closing(processing) as results:
            for result in results:
                if not isinstance(result, CellResult):
                    raise TypeError(f"{result} is no result of a cell")
                _note(result, prepared, ledger, hashes, outcome)
                layer.update(result.cell)
                evidence.settled(result.cell)
                ending = f"failed: {result.reason}" if result.reason else "done"
                progress.skip(tiles[result.cell.name] - result.tiles)
                ended = outcome.done + outcome.failed
                progress.cell(result.cell.name, ending, ended, len(todo))
                if outcome.failed > limit:
                    outcome.stopped = f"more than {limit} cells failed"
                    break
    finally:
        for cell in todo:
            ledger.clear(cell)
        layer.flush()


def _check(
    prepared: PreparedRun, ledger: Ledger, hashes: ImageHashes, outcome: RunOutcome
) -> list[Cell]:
    """Return the cells to process; note those that are done, or failed and have not changed."""
    todo = []
    cells = share(prepared.cells, prepared.settings.run.shard)
    states = check_cells(cells, prepared.inputs, ledger, hashes)
    log.info("%s", describe_states(states.values()))
    for cell, state in states.items():
        if state.state == "done":
            outcome.kept += 1
            ledger.refresh(cell.name, prepared.image_facts(cell, hashes))
        elif state.state == "failed":
            outcome.failures[cell.name] = f"{state.reason} (before; --retry-failed tries again)"
        else:
            log.debug("cell %s is to be made: %s", cell.name, state.reason)
            todo.append(cell)
    return todo


def share(cells: Sequence[Cell], shard: tuple[int, int] | None) -> Sequence[Cell]:
    """Return the I-th of N shares: neighbours stay together, since they read the same images."""
    index, count = shard or (1, 1)
    return cells[len(cells) * (index - 1) // count : len(cells) * index // count]


def _note(
    result: CellResult,
    prepared: PreparedRun,
    ledger: Ledger,
    hashes: ImageHashes,
    outcome: RunOutcome,
) -> None:
    """Count a cell that has ended; record the reason if it failed."""
    cell, report = result.cell, result.report
    if report is not None:
        outcome.done += 1
        outcome.tiles += report.tiles
        outcome.batch_size = min(outcome.batch_size, report.batch_size)
        for stage, seconds in report.stages.items():
            outcome.work[stage] = outcome.work.get(stage, 0.0) + seconds
        return
    ledger.check_writable()  # which a worker that has died did not do
    outcome.failed += 1
    outcome.failures[cell.name] = result.reason
    record = FailureRecord(
        cell=cell.name,
        image=cell.image,
        status="failed",
        error=result.reason,
        inputs=cell_inputs(cell, prepared.inputs, prepared.images_read(cell)),
        images=prepared.image_facts(cell, hashes),
    )
    ledger.fail(cell, record)


def _write_city(
    prepared: PreparedRun,
    executor: Executor,
    outcome: RunOutcome,
    hashes: ImageHashes,
    progress: Progress,
) -> None:
    """Write the city's products, if a cell is done; the workers explain its objects."""
    if not outcome.done + outcome.kept or prepared.settings.run.shard:
        return
    prepared.record(outcome).write(outcome.out / RUN_JSON)  # with its start, for the QGIS project
    seconds = 0.0

    def explain(groups: Sequence[ObjectGroup]) -> Iterator[GroupResult]:
        nonlocal seconds
        started = time.perf_counter()
        progress.at("explanation", 0, sum(len(group.objects) for group in groups))
        work = executor.process(prepared, groups, hashes, progress.advance)
        with closing(work) as results:
            for result in results:
                if isinstance(result, GroupResult):
                    if result.objects is None:
                        outcome.failures[result.group.name] = result.reason
                    yield result
        seconds = time.perf_counter() - started

    outcome.city = write_city_products(outcome.out, explain, progress)
    outcome.end("finish", objects=seconds)


def _finish(prepared: PreparedRun, outcome: RunOutcome, progress: Progress) -> None:
    """Record how the run ended, and write the report."""
    out = outcome.out
    prepared.record(outcome).write(out / RUN_JSON)
    if outcome.city is not None:
        progress.at("report")
        write_report(out, imagery=prepared.city.mosaic)


def anchor(settings: Settings, previous: RunRecord | None) -> tuple[float, float] | None:
    """Return the anchor that is set, else that of the first run into the same folder; None: the
    mosaic's corner."""
    return settings.tiling.anchor or (previous.anchor if previous else None)
