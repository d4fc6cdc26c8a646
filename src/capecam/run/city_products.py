"""Many cells to one city: a virtual raster per product, one detections layer, a summary."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
from capecam.views.qgis.layer_styles import write_styles
from capecam.views.qgis.layer_tree import project_of
from capecam.views.qgis.project import write_project
from capecam.views.report.report import write_report
from capecam.views.styles.layers import detections_style, rejected_style
from capecam.views.styles.qml import embed_style

MEMORY = ".evidence.npy"
"""Numbers of the last time; without it they are measured again."""

COMPARED = ("*.vrt", "*.tif", "*.qml", DETECTIONS, f"{REJECTED}.parquet", SUMMARY)
"""Byte for byte; QGIS writes into a GeoPackage and a project that it opens."""

UNREADABLE = (OSError, *DAMAGED, DataSourceError, DataLayerError, ArrowInvalid)
"""What reading and writing products ends in, where files or disk are not as they should be."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What a city amounts to."""

    cells: int
    tiles: int
    by_class: dict[str, tuple[int, float]]
    """Class name -> (number of detections, m²)."""
    steps: dict[str, dict[str, int]]
    """What each step left or removed: step -> class name -> number."""
    products: dict[str, FileFacts]
    """By file name."""

    def add_to(self, record: RunRecord) -> RunRecord:
        """Return the record of the run with these numbers."""
        totals = TotalsRecord(cells=self.cells, tiles=self.tiles, by_class=self.by_class)
        return record.model_copy(
            update={"totals": totals, "detections": self.steps, "products": self.products}
        )


def finish(out: Path) -> Totals:
    """Make the city products, while no run does.

    Raises:
        OutputError: the folder holds no run, or no finished cell, or a run is at it.
    """
    RunFolder.open_finished(out)  # before a lock is left in a folder of something else
    with output_lock(out), gdal_settings():
        made = write_city_products(out)
        write_report(out)
    return made


def write_city_products(out: Path) -> Totals:
    """The city products from the cells that are done; ``run.json`` says what came of it.

    Raises:
        StoppedError: a product of a cell is damaged or gone, or the disk is full.
    """
    try:
        return _assembled(out)
    except UNREADABLE as error:
        Ledger.of(out).check_writable()
        what = str(error).splitlines()[0]
        raise StoppedError(
            f"{out}: its layers cannot be made ({what}); if there is room on the disk, capecam "
            "verify says which product is bad"
        ) from error


def _assembled(out: Path) -> Totals:
    run = RunFolder.open_finished(out)
    _write_layers(run)
    write_styles(run)
    processes = 0 if run.settings.run.in_process else len(os.sched_getaffinity(0))
    words, rules = run.settings.evidence, assembly_rules(run)
    with Evidence(_rasters(run), run.grid, words, processes, out / MEMORY) as evidence:
        found = write_detections(out, cell_pieces(run), rules, evidence)
    write_geopackage(out, rules)
    summary = found.summary.to_dict("records")
    made = Totals(
        len(run.cells),
        sum(cell.tiles for cell in run.cells.values()),
        {row["class"]: (row["count"], row["area_m2"]) for row in summary},
        found.steps,
        _facts_of_products(out),
    )
    with atomic_write(out / PROJECT) as qgz:
        write_project(qgz, project_of(run, {row["class"]: row["count"] for row in summary}))
    made.add_to(run.record).write(out / RUN_JSON)
    return made


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


def _facts_of_products(out: Path) -> dict[str, FileFacts]:
    files = sorted(path for pattern in COMPARED for path in out.glob(pattern))
    return {path.name: FileFacts.of(path) for path in files}


def _write_layers(run: RunFolder) -> None:
    """A virtual raster per product, over an overview; from the records, no file is searched."""

    def write(product: str) -> None:
        stem = Path(product).stem
        layer = run.layer(product)
        overview = run.out / f"{stem}.overview.tif"
        with atomic_write(overview) as temporary:
            write_overview(temporary, layer, previous=overview)
        with atomic_write(run.out / f"{stem}.vrt") as vrt:
            write_vrt(vrt, layer, overview)

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # GDAL works outside of Python's lock
        for done in [threads.submit(write, product) for product in run.products]:
            done.result()


def _rasters(run: RunFolder) -> EvidenceRasters:
    """What the evidence of detections is read from."""
    heats = tuple(map(run.heat, run.settings.explain.methods))
    return EvidenceRasters(heats, run.layer("probability.tif"), run.names[1:])
