"""City products from finished cells: a virtual raster a product, the detections, a summary."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Self

from pyarrow import ArrowInvalid
from pyogrio.errors import DataLayerError, DataSourceError

from capecam.detections.assembly import (
    EXPECTED,
    AssemblyRules,
    Detections,
    assemble,
    assembly_rules,
    cell_pieces,
    write_detections,
)
from capecam.detections.evidence import Evidence, evidence_rasters
from capecam.detections.evidence_cache import EVIDENCE_CACHE, EvidenceCache
from capecam.errors import StoppedError
from capecam.imagery.header_reader import DAMAGED
from capecam.io.gdal import gdal_settings
from capecam.io.overview import write_overview
from capecam.io.parquet_texts import rows_digest
from capecam.io.vrt import write_vrt
from capecam.model.model import Model
from capecam.pipeline.object_group import GroupResult, ObjectGroup
from capecam.pipeline.run_explainer import RunExplainer
from capecam.run.applied_calibration import applied_calibration, calibration_record
from capecam.run.editable_products import EditableProducts
from capecam.run.object_rasters import write_object_rasters
from capecam.run.object_stage import Explain, explain_detections, object_table
from capecam.run.stac import write_catalogue
from capecam.run.statements import update_statements
from capecam.run.unusual_images import pixel_diagnostics, unusual_records
from capecam.runtime.files import atomic_write
from capecam.runtime.lock import output_lock
from capecam.runtime.machine import usable_cpus
from capecam.runtime.progress import SILENT, Progress
from capecam.store.edited import is_edited, keep_edited
from capecam.store.file_names import (
    DETECTIONS,
    OBJECTS,
    REJECTED,
    RUN_JSON,
    SUMMARY,
)
from capecam.store.ledger import Ledger
from capecam.store.records import FileFacts, RunRecord, TotalsRecord
from capecam.store.run_folder import RunFolder
from capecam.views.qgis.product_styles import write_styles
from capecam.views.report.report import write_report

RECORDED = ("*.vrt", "*.tif", "*.qml", DETECTIONS, f"{REJECTED}.parquet", SUMMARY)
"""Products that ``capecam verify`` compares byte for byte."""

UNREADABLE = (OSError, *DAMAGED, DataSourceError, DataLayerError, ArrowInvalid, sqlite3.Error)
"""Errors of reading and writing products, where files or the disk are damaged."""


def finish(out: Path, *, model: Model | None = None, progress: Progress = SILENT) -> RunRecord:
    """Write the city products and the report, as ``capecam finish`` does.

    Args:
        out: folder of a run.
        model: its network, which explains detections that are not explained yet; None loads it.
        progress: hears how far it is.

    Raises:
        OutputError: the folder holds no run, or no finished cell, or a run is in progress.
    """
    RunFolder.open_finished(out)  # before a lock is left in a folder of something else
    with output_lock(out), gdal_settings():
        explainer = RunExplainer(RunFolder.open(out), model=model)

        def explain(groups: Sequence[ObjectGroup]) -> Iterator[GroupResult]:
            progress.at("explanation", 0, sum(len(group.objects) for group in groups))
            for result in explainer.explain_groups(groups):
                progress.advance(len(result.group.objects))
                yield result

        record = write_city_products(out, explain, progress)
        progress.at("report")
        write_report(out)
    return record


def write_city_products(out: Path, explain: Explain, progress: Progress = SILENT) -> RunRecord:
    """Write the city products from the cells that are done, and their totals into ``run.json``.

    Args:
        out: folder of a run.
        explain: explains the objects that are not explained yet.
        progress: hears how far it is.

    Raises:
        StoppedError: a product of a cell is damaged or gone, or the disk is full.
    """
    try:
        return _write(RunFolder.open_finished(out), explain, progress)
    except IsADirectoryError as error:
        raise StoppedError(
            f"{error.filename2 or error.filename}: is a folder, where a file of the run belongs; "
            "move it elsewhere, and give the same command again"
        ) from error
    except UNREADABLE as error:
        Ledger.of(out).check_writable(error)
        reason = str(error).splitlines()[0]
        raise StoppedError(
            f"{out}: its layers cannot be made ({reason}); if the disk is not full, capecam "
            "verify says which product is bad"
        ) from error


def _write(run: RunFolder, explain: Explain, progress: Progress) -> RunRecord:
    run = update_statements(run, progress)
    out, rules, written = run.out, assembly_rules(run), run.record.last_written
    keep_edited(out, written)
    editable = EditableProducts.before(out, rules, written)
    last = written.get(DETECTIONS)
    # Of other rows after an interruption: these are not those that results were made of.
    is_last = last is not None and not is_edited(out / DETECTIONS, written)
    rows = rows_digest(out / DETECTIONS) if is_last else None
    with _LayerWriter() as layers:
        layers.start(run, [product for product in run.products if product != f"{OBJECTS}.tif"])
        found = _assemble(run, rules, progress)
        calibration = applied_calibration(run, found.table.columns)
        explained = explain_detections(run, found, explain, calibration)
        progress.at("layers")
        objects = write_object_rasters(run, found, explained)
        run = replace(run, record=run.record.model_copy(update={"objects": objects}))
        layers.start(run, [product for product in run.products if product == f"{OBJECTS}.tif"])
        write_styles(run)
        table = write_detections(
            out, found, rules, object_table(explained), calibration, texts=run.about.texts()
        )
        summary = table.to_dict("records")
    counts = {row["class"]: row["count"] for row in summary}
    people_edit = editable.write(run, counts)
    totals = TotalsRecord(
        cells=len(run.cells),
        tiles=sum(cell.tiles for cell in run.cells.values()),
        by_class={row["class"]: (row["count"], row["area_m2"]) for row in summary},
    )
    if calibration is not None:
        expected = {row["class"]: row[EXPECTED] for row in summary}
        totals = totals.model_copy(update={"expected": expected})
    files = sorted(path for pattern in RECORDED for path in out.glob(pattern))
    products = {path.name: FileFacts.of(path) for path in files}
    if last and products[DETECTIONS].sha256 == last.sha256:
        products[DETECTIONS] = last
    elif last and rows is not None and rows == rows_digest(out / DETECTIONS):
        same = products[DETECTIONS].model_copy(update={"content": last.version})
        products[DETECTIONS] = same
    of_headers = [entry for entry in run.record.unusual if entry.seen_in == "headers"]
    of_pixels = unusual_records(pixel_diagnostics(run.cells), "pixels")
    audit_holds = last is not None and products[DETECTIONS].version == last.version
    record = run.record.model_copy(
        update={
            "totals": totals,
            "detections": found.steps,
            "products": products,
            "written": products | people_edit,
            "stac": write_catalogue(run, products),
            "unusual": (*of_headers, *of_pixels),
            "audit": run.record.audit if audit_holds else None,
            "p_right": calibration_record(run),
        }
    )
    record.write(out / RUN_JSON)
    return record


def _assemble(run: RunFolder, rules: AssemblyRules, progress: Progress) -> Detections:
    """Make the detections, with their evidence."""
    progress.at("joining")
    processes = 0 if run.settings.run.in_process else usable_cpus()
    rasters = evidence_rasters(run)
    cache = EvidenceCache(run.out / EVIDENCE_CACHE, len(rasters.columns))
    with Evidence(rasters, run.grid, processes, cache, progress) as evidence:
        found = assemble(cell_pieces(run), rules, evidence)
    cache.save()
    return found


class _LayerWriter:
    """Writes the city's rasters in threads, since GDAL releases Python's lock.

    A context manager, at whose end they are written; an error cancels what has not begun.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(usable_cpus())
        self._layers: list[Future[None]] = []

    def start(self, run: RunFolder, products: Sequence[str]) -> None:
        """Begin with some products, from the records of cells."""
        self._layers += [self._threads.submit(_write_layer, run, name) for name in products]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            for layer in self._layers if kind is None else ():
                layer.result()
        finally:
            self._threads.shutdown(cancel_futures=True)


def _write_layer(run: RunFolder, product: str) -> None:
    """Write a virtual raster of a product, over an overview."""
    stem, layer, tags = Path(product).stem, run.layer(product), run.about.tiff_tags()
    overview = run.out / f"{stem}.overview.tif"
    with atomic_write(overview) as temporary:
        write_overview(temporary, layer, overview, tags)
    with atomic_write(run.out / f"{stem}.vrt") as vrt:
        write_vrt(vrt, layer, overview, tags)
