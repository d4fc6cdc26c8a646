"""Many cells to one city: a virtual raster per product, one detections layer, a summary."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capecam.cell import PIECES
from capecam.detections import Part, write_detections
from capecam.errors import OutputError
from capecam.grid import Grid, Window
from capecam.ledger import Ledger, facts, replacing, write_json
from capecam.lock import hold
from capecam.raster import Layer, VrtTile, gdal_settings, write_overview, write_vrt
from capecam.settings import METHODS, PIXEL_METHODS, DetectionSettings

RUN_JSON = "run.json"
COMPARED = ("*.vrt", "*.tif", "*.parquet", "*.csv")


@dataclass(frozen=True, slots=True)
class Totals:
    """What a city amounts to."""

    cells: int
    tiles: int
    by_class: dict[str, tuple[int, float]]
    """Class name -> (number of detections, m²)."""
    products: dict[str, dict[str, Any]]
    """File name -> ``bytes`` and ``sha256``."""

    def to_json(self) -> dict[str, Any]:
        """As kept in run.json."""
        totals = {"cells": self.cells, "tiles": self.tiles, "by_class": self.by_class}
        return {"totals": totals, "products": self.products}


def finish(out: Path) -> Totals:
    """Make the city products, while no run does.

    Raises:
        OutputError: the folder holds no run, or no finished cell, or a run is at it.
    """
    if not (out / RUN_JSON).exists():
        raise OutputError(f"{out}: holds no {RUN_JSON}; start with capecam run")
    with hold(out), gdal_settings():
        return assemble(out)


def assemble(out: Path) -> Totals:
    """The city products from the cells that are done; ``run.json`` says what came of it."""
    run = read_run(out)
    if run is None:
        raise OutputError(f"{out}: holds no {RUN_JSON}; start with capecam run")
    ledger = Ledger.of(out)
    wanted = set(run["cells"])
    names = [name for name in ledger.done() if name in wanted]
    if not names:
        raise OutputError(f"{out}: no cell is finished; start with capecam run")
    records = {name: ledger.read(name) or {} for name in names}
    _write_layers(out, ledger, records, run)
    summary = write_detections(
        out,
        [Part(r["basis"]["core"]["row"], ledger.folder / n / PIECES) for n, r in records.items()],
        grid_from_json(run),
        [entry["name"] for entry in run["settings"]["model"]["classes"]],
        DetectionSettings.model_validate(run["settings"]["detections"]),
    )
    by_class = {row["class"]: (row["count"], row["area_m2"]) for row in summary.to_dict("records")}
    tiles = sum(record["tiles"] for record in records.values())
    made = Totals(len(names), tiles, by_class, _facts_of_products(out))
    write_json(out / RUN_JSON, {**run, **made.to_json()})
    return made


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
