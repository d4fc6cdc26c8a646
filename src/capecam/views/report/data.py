"""Data of a report, read from the folder of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import shapely
from numpy.typing import NDArray

from capecam.detections.measurement import inside_points, middle_pixel_m
from capecam.errors import OutputError
from capecam.grid import Window
from capecam.store.file_names import DETECTIONS, ESTIMATES_JSON, EVALUATION_JSON
from capecam.store.ledger import Ledger
from capecam.store.records import RunRecord
from capecam.store.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class CellOnMap:
    """Cell on the map."""

    name: str
    core: Window
    reason: str | None
    """Why the cell failed; None: it is done."""


@dataclass(frozen=True, slots=True)
class ReportData:
    """A run and its detections."""

    run: RunFolder
    table: pd.DataFrame
    """Detections without their shapes, in the order of the file."""
    cells: tuple[CellOnMap, ...]
    """Cells that are done or failed, by name."""
    scores: Mapping[str, Any] | None
    """``evaluation.json``."""
    estimates: Mapping[str, Any] | None
    """``estimates.json``, if it is of these detections."""

    @classmethod
    def read(cls, out: Path) -> Self:
        """Read the data of the run in a folder.

        Raises:
            OutputError: the folder holds no run, no finished cell, or no city products.
        """
        run = RunFolder.open_finished(out)
        if not run.record.products or not (out / DETECTIONS).exists():
            raise OutputError(
                f"{out}: has no city products yet; a run makes them in the end, or capecam finish"
            )
        table = pd.DataFrame(gpd.read_parquet(out / DETECTIONS).drop(columns="geometry"))
        scores, estimates = (_read_json(out / name) for name in (EVALUATION_JSON, ESTIMATES_JSON))
        now = run.detections_version
        if estimates is not None and estimates["runs"][-1]["detections"] != now:
            estimates = None
        return cls(run, table, _cells_on_map(run), scores, estimates)

    @property
    def record(self) -> RunRecord:
        """Return the record of the run."""
        return self.run.record

    @property
    def audit(self) -> Mapping[str, Any] | None:
        """Return the result of an audit, if there is one of this version."""
        audit = self.record.audit
        return audit if audit is not None and "conclusion" in audit else None

    @property
    def by_class(self) -> dict[str, tuple[int, float]]:
        """Return number and m² by class, as in summary.csv."""
        return self.record.totals.by_class

    @property
    def failures(self) -> dict[str, str]:
        """Return the reasons of failures by image or cell."""
        failed = {cell.name: cell.reason for cell in self.cells if cell.reason}
        return {**self.record.failures, **failed}

    @property
    def damaged(self) -> dict[str, str]:
        """Return the images that their neighbours could read only in part, with the reasons."""
        return {
            name: why for cell in self.run.cells.values() for name, why in cell.unreadable.items()
        }

    @property
    def images(self) -> int:
        """Return the number of images with a finished cell; a large image has several cells."""
        return len({cell.image for cell in self.run.cells.values()})

    @property
    def pending(self) -> int:
        """Return the number of cells that were not tried."""
        return len(set(self.record.cells) - {cell.name for cell in self.cells})

    @property
    def pixel_m(self) -> NDArray[np.float64]:
        """Return the (2,) width and height of a pixel in metres, in the middle of the city."""
        return middle_pixel_m(self.run.grid)

    @property
    def imagery_km2(self) -> float:
        """Return the area of valid imagery in finished cells."""
        pixels = sum(cell.valid_px for cell in self.run.cells.values())
        return float(pixels * self.pixel_m.prod() / 1e6)

    @property
    def method(self) -> str:
        """Return the method whose heatmap the evidence is based on."""
        return self.run.settings.decisive_method

    def points_m(self, table: pd.DataFrame) -> NDArray[np.float64]:
        """Return the positions of objects, (N, 2) metres right of and below the anchor."""
        grid = self.run.grid
        left, _, right, _ = grid.bounds
        points = inside_points(table, pyproj.CRS.from_wkt(grid.crs), (left + right) / 2)
        pixels = grid.to_pixels(shapely.get_coordinates(points.to_numpy()))
        metres: NDArray[np.float64] = pixels * self.pixel_m
        return metres

    def queue(self, length: int) -> list[tuple[dict[str, Any], shapely.Geometry]]:
        """Return the first objects of the review queue: rows of the file, and shapes."""
        path, first = self.run.out / DETECTIONS, [("review", "<=", length)]
        table = gpd.read_parquet(path, filters=first).sort_values("review")
        rows = pd.DataFrame(table.drop(columns="geometry")).to_dict("records")
        return list(zip(rows, table.geometry, strict=True))


def _cells_on_map(run: RunFolder) -> tuple[CellOnMap, ...]:
    ledger, cells = Ledger.of(run.out), []
    for name in run.record.cells:
        if name in run.cells:
            cells.append(CellOnMap(name, run.core(name), None))
        elif failure := ledger.read_failure(name):
            cells.append(CellOnMap(name, failure.inputs.core, failure.error))
    return tuple(cells)


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return the result of another command, or None.

    Raises:
        OutputError: the file exists and cannot be read.
    """
    if not path.exists():
        return None
    try:
        tree: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be read ({error}); remove or remake it") from error
    return tree
