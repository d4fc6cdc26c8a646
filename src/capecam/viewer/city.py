"""``city.json``: what the page is told about the runs that it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pyproj

from capecam import __version__
from capecam.analysis.review.review_file import about
from capecam.detections.object_columns import EVIDENCE_WORDS, MEANINGS, OBJECT_COLUMNS
from capecam.imagery.crs import proj_string
from capecam.io.cog import NODATA
from capecam.io.overview import FACTOR
from capecam.settings import TITLES
from capecam.store.file_names import OBJECTS
from capecam.store.ledger import Ledger
from capecam.store.records import FailureRecord
from capecam.store.run_folder import RunFolder
from capecam.viewer.files import RunFiles, overview_name
from capecam.viewer.imagery import max_z
from capecam.viewer.outlines import COUNTS, OUTLINES, ZONES, ZONES_TABLE
from capecam.views.palette import EVIDENCE_COLORS
from capecam.views.qgis.product_styles import CLASSES, PROBABILITY
from capecam.views.styles.columns import DETECTION
from capecam.views.styles.palettes import (
    Palette,
    classes_palette,
    heat_palette,
    object_palette,
    probability_palette,
)

CELL_COLUMNS = ("name", "row", "col", "height", "width", "status", "reason")

OWN = "Each object's explanation"
"""Group of the layers of ``objects``."""


def city_json(runs: Sequence[Mapping[str, Any]], first: RunFolder) -> dict[str, Any]:
    """Return ``city.json``.

    Args:
        runs: of :func:`run_json`.
        first: the first run, whose CRS and classes are those of the page.
    """
    classes = first.settings.model.classes
    return {
        "title": " and ".join(str(run["name"]) for run in runs),
        "crs": crs_json(pyproj.CRS.from_wkt(first.grid.crs)),
        "attribution": f"capecam {__version__}, {first.record.checkpoint.architecture}",
        "classes": [
            {"id": class_id, "name": entry.name, "color": entry.color}
            for class_id, entry in enumerate(classes)
            if class_id
        ],
        "evidence": [
            {"word": word, "color": EVIDENCE_COLORS[word], "meaning": MEANINGS[word]}
            for word in EVIDENCE_WORDS
        ],
        "numbers": {name: DETECTION[name] for name in OBJECT_COLUMNS},
        "runs": list(runs),
    }


def crs_json(crs: pyproj.CRS) -> dict[str, Any]:
    """Return name, code, WKT and PROJ string of a CRS; the latter's axes are east, north."""
    authority = crs.to_authority()
    return {
        "name": crs.name,
        "code": authority and ":".join(authority),
        "wkt": crs.to_wkt(),
        "proj4": proj_string(crs),
    }


def run_json(run: RunFolder, number: int, *, imagery: bool) -> dict[str, Any]:
    """Return what ``city.json`` says about a run.

    Args:
        run: the run.
        number: its number on the page.
        imagery: whether its images can be shown.
    """
    base, grid = f"run/{number}/", run.grid
    left, _, _, top = grid.bounds
    placed, unplaced = _cells(run)
    return {
        "name": run.out.resolve().name,
        "about": about(run),
        "path": base,
        "grid": {
            "origin": [left, top],
            "pixel": list(grid.pixel),
            "height": grid.window.height,
            "width": grid.window.width,
            "anchor": list(grid.anchor),
        },
        "layers": _layers(run, base, imagery=imagery),
        "cells": {"columns": list(CELL_COLUMNS), "rows": placed},
        "unplaced": unplaced,
        "detections": {
            "count": pq.read_metadata(run.detections()).num_rows,
            "outlines": base + OUTLINES,
            "counts": base + COUNTS,
            "queue": f"{base}queue.json",
            "zones": base + ZONES if (run.out / ZONES_TABLE).exists() else None,
        },
    }


def _cells(run: RunFolder) -> tuple[list[list[Any]], list[list[str]]]:
    """Return rows of ``CELL_COLUMNS``, and names and reasons of what has no place."""
    hull, ledger = run.grid.window, Ledger.of(run.out)
    placed: list[list[Any]] = []
    unplaced: list[list[str]] = []
    reasons = dict.fromkeys(run.record.cells, "not processed yet") | run.record.failures
    for name in sorted({*run.cells, *reasons}):
        record = run.cells.get(name) or ledger.read_failure(name)
        if record is None:
            unplaced.append([name, reasons[name]])
            continue
        core, is_failed = record.inputs.core, isinstance(record, FailureRecord)
        place = [core.row - hull.row, core.col - hull.col, core.height, core.width]
        reason = record.error if isinstance(record, FailureRecord) else ""
        placed.append([name, *place, "failed" if is_failed else "done", reason])
    return placed, unplaced


def _layers(run: RunFolder, base: str, *, imagery: bool) -> list[dict[str, Any]]:
    """Return the layers, lowest first; one of the heatmaps or objects' explanations is shown."""
    layers = [_imagery_layer(run, base)] if imagery else []
    classes = run.settings.model.classes[1:]
    stems = [Path(product).stem for product in run.products]
    draw = _RasterLayers(run, base)
    if CLASSES in stems:
        palette = classes_palette(run.settings.model.classes)
        layers.append(draw.layer(CLASSES, 0, CLASSES, "Classes", palette, shown=not imagery))
    if PROBABILITY in stems:
        for band, entry in enumerate(classes):
            palette = probability_palette(entry.color)
            layers.append(draw.layer(PROBABILITY, band, entry.name, "Probability", palette))
    most = _most_frequent(run)
    methods = [method for method in run.settings.explain.methods if method in stems]
    for method in methods:
        by_root, tops = run.is_by_root(method), run.scale_max(method)
        palette = heat_palette(by_root=by_root)
        shown = method == methods[0] and OBJECTS not in stems
        for band, entry in enumerate(classes):
            is_shown = shown and entry.name == most
            layer = draw.layer(method, band, entry.name, TITLES[method], palette, shown=is_shown)
            if run.raw:
                layer["raw"] = {"top": tops[band], "by_root": by_root}
            layers.append(layer)
    if OBJECTS in stems:
        for band, entry in enumerate(classes):
            shown = entry.name == most
            layer = draw.layer(OBJECTS, band, entry.name, OWN, object_palette(), shown=shown)
            layers.append(layer)
    return layers


def _most_frequent(run: RunFolder) -> str:
    """Return the class with the most detections."""
    counts = run.record.totals.by_class
    return max(run.names[1:], key=lambda name: counts.get(name, (0, 0.0))[0])


def _imagery_layer(run: RunFolder, base: str) -> dict[str, Any]:
    return {
        "id": "imagery",
        "title": "Imagery",
        "group": "Imagery",
        "kind": "tiles",
        "visible": True,
        "opacity": 1.0,
        "url": f"{base}imagery/{{z}}/{{col}}/{{row}}.webp",
        "min_z": 0,
        "max_z": max_z(run.grid),
        "legend": [],
        "unit": "",
    }


class _RasterLayers:
    """Describes bands of the cells' rasters as layers."""

    def __init__(self, run: RunFolder, base: str) -> None:
        self._run, self._base, self._files = run, base, RunFiles(run)

    def layer(
        self, stem: str, band: int, name: str, group: str, palette: Palette, *, shown: bool = False
    ) -> dict[str, Any]:
        """Return a layer.

        Args:
            stem: of the rasters' file name.
            band: from 0.
            name: of the class; the stem for a raster without classes.
            group: of the layer.
            palette: its colours.
            shown: whether it is shown at first.
        """
        run, file = self._run, f"{stem}.tif"
        own = [cell for cell in run.cells if file in run.files(cell)]
        overview = overview_name(file)
        return {
            "id": stem if name == stem else f"{stem}/{name}",
            "title": group if name == stem else f"{group}: {name}",
            "group": group,
            "kind": "raster",
            "visible": shown,
            "opacity": 1.0,
            "band": band,
            "block": run.stride(file),
            "nodata": NODATA,
            "cells": None if len(own) == len(run.cells) else own,
            "cell_file": f"{self._base}cells/{{cell}}/{file}",
            "overview": self._base + overview if self._files.overview(overview) else None,
            "overview_factor": FACTOR,
            "palette": palette.to_hex(),
            "legend": [{"label": label, "color": color} for label, color in palette.legend],
            "unit": palette.unit,
        }
