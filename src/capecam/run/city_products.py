"""City products from finished cells: a virtual raster a product, the detections, a summary."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyproj
from pyarrow import ArrowInvalid
from pyogrio.errors import DataLayerError, DataSourceError

from capecam.detections.assembly import AssemblyRules, assembly_rules, cell_pieces, write_detections
from capecam.detections.evidence import Evidence
from capecam.detections.heatmap_stats import EvidenceRasters
from capecam.errors import StoppedError
from capecam.imagery.header_reader import DAMAGED
from capecam.io.gdal import gdal_settings
from capecam.io.overview import write_overview
from capecam.io.vector_writer import index_column, write_gpkg
from capecam.io.vrt import write_vrt
from capecam.runtime.files import atomic_write
from capecam.runtime.lock import output_lock
from capecam.store.file_names import (
    DETECTIONS,
    GEOPACKAGE,
    LAYER,
    PROJECT,
    REJECTED,
    RUN_JSON,
    SUMMARY,
)
from capecam.store.ledger import Ledger
from capecam.store.records import FileFacts, RunRecord, TotalsRecord
from capecam.store.run_folder import RunFolder
from capecam.views.qgis.layer_tree import project_of
from capecam.views.qgis.product_styles import write_styles
from capecam.views.qgis.project import write_project
from capecam.views.report.report import write_report
from capecam.views.styles.layers import detections_style, rejected_style
from capecam.views.styles.qml import embed_style

EVIDENCE_CACHE = ".evidence.npy"
"""Numbers of the last time; without it they are measured again."""

RECORDED = ("*.vrt", "*.tif", "*.qml", DETECTIONS, f"{REJECTED}.parquet", SUMMARY)
"""Products that ``capecam verify`` compares byte for byte; not those that QGIS writes into when it
opens them: GeoPackage and project."""

UNREADABLE = (OSError, *DAMAGED, DataSourceError, DataLayerError, ArrowInvalid)
"""Errors of reading and writing products, where files or the disk are damaged."""


def finish(out: Path) -> RunRecord:
    """Write the city products and the report, as ``capecam finish`` does.

    Raises:
        OutputError: the folder holds no run, or no finished cell, or a run is in progress.
    """
    RunFolder.open_finished(out)  # before a lock is left in a folder of something else
    with output_lock(out), gdal_settings():
        record = write_city_products(out)
        write_report(out)
    return record


def write_city_products(out: Path) -> RunRecord:
    """Write the city products from the cells that are done, and their totals into ``run.json``.

    Raises:
        StoppedError: a product of a cell is damaged or gone, or the disk is full.
    """
    try:
        return _write(RunFolder.open_finished(out))
    except UNREADABLE as error:
        Ledger.of(out).check_writable()
        reason = str(error).splitlines()[0]
        raise StoppedError(
            f"{out}: its layers cannot be made ({reason}); if the disk is not full, capecam "
            "verify says which product is bad"
        ) from error


def _write(run: RunFolder) -> RunRecord:
    out, rules = run.out, assembly_rules(run)
    _write_layers(run)
    write_styles(run)
    processes = 0 if run.settings.run.in_process else len(os.sched_getaffinity(0))
    heats = tuple(map(run.heat, run.settings.explain.methods))
    rasters = EvidenceRasters(heats, run.layer("probability.tif"), run.names[1:])
    with Evidence(
        rasters, run.grid, run.settings.evidence, processes, out / EVIDENCE_CACHE
    ) as evidence:
        found = write_detections(out, cell_pieces(run), rules, evidence)
    write_geopackage(out, rules)
    summary = found.summary.to_dict("records")
    counts = {row["class"]: row["count"] for row in summary}
    with atomic_write(out / PROJECT) as qgz:
        write_project(qgz, project_of(run, counts))
    totals = TotalsRecord(
        cells=len(run.cells),
        tiles=sum(cell.tiles for cell in run.cells.values()),
        by_class={row["class"]: (row["count"], row["area_m2"]) for row in summary},
    )
    files = sorted(path for pattern in RECORDED for path in out.glob(pattern))
    record = run.record.model_copy(
        update={
            "totals": totals,
            "detections": found.steps,
            "products": {path.name: FileFacts.of(path) for path in files},
        }
    )
    record.write(out / RUN_JSON)
    return record


def write_geopackage(out: Path, rules: AssemblyRules) -> None:
    """Write the finished tables of detections once more, as styled layers of a GeoPackage."""
    layers = {LAYER: out / DETECTIONS}
    if rules.settings.keep_rejected:
        layers[REJECTED] = out / f"{REJECTED}.parquet"
    with atomic_write(out / GEOPACKAGE) as gpkg:
        write_gpkg(gpkg, layers, pyproj.CRS.from_wkt(rules.grid.crs))
        embed_style(gpkg, LAYER, detections_style(rules.classes))
        index_column(gpkg, LAYER, "review")  # the queue is a few of many
        if rules.settings.keep_rejected:
            embed_style(gpkg, REJECTED, rejected_style())


def _write_layers(run: RunFolder) -> None:
    """Write a virtual raster a product, over an overview, from the records of cells."""

    def write(product: str) -> None:
        stem = Path(product).stem
        layer = run.layer(product)
        overview = run.out / f"{stem}.overview.tif"
        with atomic_write(overview) as temporary:
            write_overview(temporary, layer, previous=overview)
        with atomic_write(run.out / f"{stem}.vrt") as vrt:
            write_vrt(vrt, layer, overview)

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # GDAL releases Python's lock
        list(threads.map(write, run.products))
