"""Many cells to one city: a virtual raster per product, one detections layer, a summary."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from capecam.cell import PIECES
from capecam.detections import Part, Recipe, write_detections
from capecam.errors import OutputError
from capecam.evidence import Evidence, Heat, Rasters
from capecam.grid import Grid, Window
from capecam.interest import read_shapes
from capecam.ledger import Ledger, facts, replacing, write_json
from capecam.lock import hold
from capecam.raster import Layer, VrtTile, gdal_settings, write_overview, write_vrt
from capecam.settings import METHODS, PIXEL_METHODS, DetectionSettings, EvidenceSettings
from capecam.sieve import Sieve
from capecam.vectors import pixel_m

RUN_JSON = "run.json"
COMPARED = ("*.vrt", "*.tif", "detections.parquet", "rejected.parquet", "summary.csv")


@dataclass(frozen=True, slots=True)
class Totals:
    """What a city amounts to."""

    cells: int
    tiles: int
    by_class: dict[str, tuple[int, float]]
    """Class name -> (number of detections, m²)."""
    steps: dict[str, dict[str, int]]
    """What each step left or removed: step -> class name -> number."""
    products: dict[str, dict[str, Any]]
    """File name -> ``bytes`` and ``sha256``."""

    def to_json(self) -> dict[str, Any]:
        """As kept in run.json."""
        totals = {"cells": self.cells, "tiles": self.tiles, "by_class": self.by_class}
        return {"totals": totals, "detections": self.steps, "products": self.products}


def finish(out: Path) -> Totals:
    """Make the city products, while no run does.

    Raises:
        OutputError: the folder holds no run, or no finished cell, or a run is at it.
    """
    opened(out)
    with hold(out), gdal_settings():
        return assemble(out)


def assemble(out: Path) -> Totals:
    """The city products from the cells that are done; ``run.json`` says what came of it."""
    run, ledger = opened(out), Ledger.of(out)
    records = finished(ledger, run)
    if not records:
        raise OutputError(f"{out}: no cell is finished; start with capecam run")
    _write_layers(out, ledger, records, run)
    processes = 0 if run["settings"]["run"]["in_process"] else len(os.sched_getaffinity(0))
    rules = EvidenceSettings.model_validate(run["settings"].get("evidence", {}))
    with Evidence(_rasters(ledger, records, run), rules, processes) as evidence:
        found = write_detections(out, parts(ledger, records), recipe(run), evidence)
    summary = found.summary.to_dict("records")
    by_class = {row["class"]: (row["count"], row["area_m2"]) for row in summary}
    tiles = sum(record["tiles"] for record in records.values())
    steps = found.tally.to_json(class_names(run))
    made = Totals(len(records), tiles, by_class, steps, _facts_of_products(out))
    write_json(out / RUN_JSON, {**run, **made.to_json()})
    return made


def opened(out: Path) -> dict[str, Any]:
    """The record of a run that there must be.

    Raises:
        OutputError: there is none, or it cannot be read.
    """
    run = read_run(out)
    if run is None:
        raise OutputError(f"{out}: holds no {RUN_JSON}; start with capecam run")
    return run


def finished(ledger: Ledger, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Records of the cells of a run that are done, by name."""
    wanted = set(run["cells"])
    return {name: ledger.read(name) or {} for name in ledger.done() if name in wanted}


def parts(ledger: Ledger, records: Mapping[str, dict[str, Any]]) -> list[Part]:
    """The pieces of finished cells."""
    return [
        Part(record["basis"]["core"]["row"], ledger.folder / name / PIECES)
        for name, record in records.items()
    ]


def class_names(run: dict[str, Any]) -> tuple[str, ...]:
    """Of all classes, 0 first, from a run's record."""
    return tuple(entry["name"] for entry in run["settings"]["model"]["classes"])


def recipe(run: dict[str, Any]) -> Recipe:
    """How a run makes detections of pieces, from its record.

    Raises:
        UsageError: the footprints cannot be read.
    """
    grid, names = grid_from_json(run), class_names(run)
    settings = DetectionSettings.model_validate(run["settings"]["detections"])
    footprints = run["settings"]["mosaic"]["footprints"]
    buildings = None if footprints is None else read_shapes(Path(footprints), grid)
    middle = shapely.get_coordinates(grid.window.box.centroid)
    tolerance_px = settings.simplify_m / float(np.sqrt(pixel_m(grid, middle).prod()))
    sieve = Sieve.of(settings, names, buildings)
    return Recipe(
        grid, names, settings.join_distance_px, tolerance_px, sieve, settings.keep_rejected
    )


def _rasters(ledger: Ledger, records: Mapping[str, dict[str, Any]], run: dict[str, Any]) -> Rasters:
    """What the evidence of detections is read from.

    Images of a few pixels can miss every block of a heatmap.
    """
    explain, stride = run["settings"]["explain"], run["settings"]["tiling"]["stride"]
    raw = explain["heatmap_dtype"] == "float32"
    heats = tuple(
        Heat(
            method,
            _layer(f"{method}.tif", ledger, records, run),
            1 if method in PIXEL_METHODS else stride,
            tuple(run["calibration"]["tops"][method]) if raw else None,
        )
        for method in explain["methods"]
        if any(f"{method}.tif" in record["files"] for record in records.values())
    )
    probability = _layer("probability.tif", ledger, records, run)
    return Rasters(heats, probability, class_names(run)[1:])


def _facts_of_products(out: Path) -> dict[str, dict[str, Any]]:
    """Of what can be compared byte for byte; QGIS writes into a GeoPackage that it opens."""
    files = sorted(path for pattern in COMPARED for path in out.glob(pattern))
    return {path.name: facts(path) for path in files}


def read_run(out: Path) -> dict[str, Any] | None:
    """The record of the run in a folder, or None.

    Raises:
        OutputError: it is there and cannot be read.
    """
    path = out / RUN_JSON
    if not path.exists():
        return None
    try:
        tree: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be read ({error}); remove it to start afresh") from error
    return tree


def _write_layers(
    out: Path, ledger: Ledger, records: Mapping[str, dict[str, Any]], run: dict[str, Any]
) -> None:
    """A virtual raster per product, over an overview; from the records, no file is searched."""
    products = sorted(
        {f for record in records.values() for f in record["files"] if f[-4:] == ".tif"}
    )

    def write(product: str) -> None:
        stem = Path(product).stem
        layer = _layer(product, ledger, records, run)
        overview = out / f"{stem}.overview.tif"
        with replacing(overview) as temporary:
            write_overview(temporary, layer, before=overview)
        with replacing(out / f"{stem}.vrt") as vrt:
            write_vrt(vrt, layer, overview)

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # GDAL works outside of Python's lock
        for done in [threads.submit(write, product) for product in products]:
            done.result()


def _layer(
    product: str, ledger: Ledger, records: Mapping[str, dict[str, Any]], run: dict[str, Any]
) -> Layer:
    """Where the cells' rasters of one product lie."""
    grid, unit, stem = grid_from_json(run), 1, Path(product).stem
    if stem in METHODS and stem not in PIXEL_METHODS:
        unit = run["settings"]["tiling"]["stride"]
        grid = grid.coarsen(unit) or grid
    tiles = [
        VrtTile(ledger.folder / name / product, window, record["files"][product]["sha256"])
        for name, record in records.items()
        if product in record["files"]
        and (window := Window(**record["basis"]["core"]).blocks(unit)) is not None
    ]
    return Layer.over(grid, tiles)


def grid_to_json(grid: Grid) -> dict[str, Any]:
    """As kept in run.json: ``anchor`` and ``grid``."""
    w = grid.window
    window = {"row": w.row, "col": w.col, "height": w.height, "width": w.width}
    return {
        "anchor": grid.anchor,
        "grid": {"crs": grid.crs, "pixel": grid.pixel, "window": window},
    }


def grid_from_json(run: dict[str, Any]) -> Grid:
    """The inverse of :func:`grid_to_json`."""
    (x, y), (dx, dy) = run["anchor"], run["grid"]["pixel"]
    return Grid(run["grid"]["crs"], (x, y), (dx, dy), Window(**run["grid"]["window"]))
