"""Many cells to one city: a virtual raster per product, one detections layer, a summary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd

from capecam.cell import PIECES
from capecam.errors import OutputError
from capecam.grid import Grid, Window
from capecam.ledger import Ledger, facts, replacing, write_json
from capecam.lock import hold
from capecam.raster import Layer, VrtTile, write_overview, write_vrt
from capecam.settings import METHODS, PIXEL_METHODS, DetectionSettings
from capecam.vectors import COLUMNS, Pieces, join, measure, read_pieces

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
    with hold(out):
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
    classes = [entry["name"] for entry in run["settings"]["model"]["classes"]]
    detections = _detections(ledger, names, run, classes)
    totals = _summary(detections, classes)
    _write_detections(out, detections, totals)
    by_class = {row["class"]: (row["count"], row["area_m2"]) for row in totals.to_dict("records")}
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
    stride = run["settings"]["tiling"]["stride"]
    for product in products:
        stem = Path(product).stem
        grid, unit = grid_from_json(run), 1
        if stem in METHODS and stem not in PIXEL_METHODS:
            grid, unit = grid.coarsen(stride) or grid, stride
        tiles = [
            VrtTile(ledger.folder / name / product, window, record["files"][product]["sha256"])
            for name, record in records.items()
            if product in record["files"]
            and (window := Window(**record["basis"]["core"]).blocks(unit)) is not None
        ]
        layer, overview = Layer.over(grid, tiles), out / f"{stem}.overview.tif"
        with replacing(out / f"{stem}.vrt") as vrt:
            write_vrt(vrt, layer)
            with replacing(overview) as temporary:
                write_overview(temporary, layer, vrt, overview)
            write_vrt(vrt, layer, overview)


def _detections(
    ledger: Ledger, names: Sequence[str], run: dict[str, Any], classes: Sequence[str]
) -> gpd.GeoDataFrame:
    """Joined across cells, then filtered."""
    settings = DetectionSettings.model_validate(run["settings"]["detections"])
    grid = grid_from_json(run)
    pieces = Pieces.concatenate([read_pieces(ledger.folder / n / PIECES, grid) for n in names])
    table = measure(join(pieces, settings.join_distance_px), grid, classes)
    large = table["area_m2"] > settings.min_area_m2
    return table.loc[large, [*COLUMNS, "geometry"]].reset_index(drop=True)


def _summary(detections: gpd.GeoDataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """A row a foreground class, those without a detection included."""
    by_class = detections.groupby("class_id")["area_m2"].agg(["count", "sum"])
    by_class = by_class.reindex(range(1, len(classes)), fill_value=0)
    return pd.DataFrame(
        {
            "class_id": by_class.index,
            "class": list(classes[1:]),
            "count": by_class["count"].to_numpy(int),
            "area_m2": by_class["sum"].to_numpy(float).round(2),
        }
    )


def _write_detections(out: Path, detections: gpd.GeoDataFrame, summary: pd.DataFrame) -> None:
    with replacing(out / "detections.gpkg") as temporary:
        detections.to_file(
            temporary,
            driver="GPKG",
            layer="detections",
            engine="pyogrio",
            geometry_type="MultiPolygon",
            dataset_options={"VERSION": "1.2"},  # 1.3 and later make older QGIS warn
        )
    with replacing(out / "detections.parquet") as temporary:
        detections.to_parquet(temporary, index=False)
    with replacing(out / "summary.csv") as temporary:
        summary.to_csv(temporary, index=False, lineterminator="\n")


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
