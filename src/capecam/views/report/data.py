"""Everything that a report tells, read from the folder of a run."""

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
from capecam.store.file_names import DETECTIONS, EVALUATION_JSON
from capecam.store.ledger import Ledger
from capecam.store.records import RunRecord
from capecam.store.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Place:
    """A cell on the map: where, and why there is nothing if there is not."""

    name: str
    core: Window
    reason: str | None
    """Why it failed; None: it is done."""


@dataclass(frozen=True, slots=True)
class ReportData:
    """What is known of a run and of what it found."""

    run: RunFolder
    table: pd.DataFrame
    """Detections without their shapes, in the order of the file."""
    places: tuple[Place, ...]
    """Cells that are done or failed, by name."""
    scores: Mapping[str, Any] | None
    """``evaluation.json``."""

    @classmethod
    def read(cls, out: Path) -> Self:
        """Those of a folder.

        Raises:
            OutputError: it holds no run, no finished cell, or no city products.
        """
        run = RunFolder.open_finished(out)
        if run.record.totals is None or not (out / DETECTIONS).exists():
            raise OutputError(
                f"{out}: has no city products yet; a run makes them in the end, or capecam finish"
            )
        table = pd.DataFrame(gpd.read_parquet(out / DETECTIONS).drop(columns="geometry"))
        return cls(run, table, _places(run), _read_json(out / EVALUATION_JSON))

    @property
    def record(self) -> RunRecord:
        """``run.json``."""
        return self.run.record

    @property
    def by_class(self) -> dict[str, tuple[int, float]]:
        """Number and m² by class, as in summary.csv."""
        totals = self.record.totals
        return {} if totals is None else totals.by_class

    @property
    def failures(self) -> dict[str, str]:
        """By image or cell: why it is missing."""
        failed = {place.name: place.reason for place in self.places if place.reason}
        return {**self.record.failures, **failed}

    @property
    def damaged(self) -> dict[str, str]:
        """By image: why blocks of it are missing in its neighbours' view."""
        return {
            name: why for cell in self.run.cells.values() for name, why in cell.unreadable.items()
        }

    @property
    def images(self) -> int:
        """Images of finished cells; a large one is several."""
        return len({cell.image for cell in self.run.cells.values()})

    @property
    def pending(self) -> int:
        """Cells that were never tried."""
        return len(set(self.record.cells) - {place.name for place in self.places})

    @property
    def pixel_m(self) -> NDArray[np.float64]:
        """(2,) width and height of a pixel in metres, in the middle of the city."""
        return middle_pixel_m(self.run.grid)

    @property
    def imagery_km2(self) -> float:
        """Valid imagery of finished cells."""
        pixels = sum(cell.valid_px for cell in self.run.cells.values())
        return float(pixels * self.pixel_m.prod() / 1e6)

    @property
    def method(self) -> str:
        """The heatmap that decides about evidence."""
        return self.run.settings.decisive_method

    def points_m(self, table: pd.DataFrame) -> NDArray[np.float64]:
        """(N, 2) metres right of and below the anchor where objects are counted."""
        grid = self.run.grid
        points = inside_points(table, pyproj.CRS.from_wkt(grid.crs))
        pixels = grid.to_pixels(shapely.get_coordinates(points.to_numpy()))
        found: NDArray[np.float64] = pixels * self.pixel_m
        return found

    def queue(self, length: int) -> list[tuple[dict[str, Any], shapely.Geometry]]:
        """What a person should look at first: rows of the file, and their shapes."""
        path, first = self.run.out / DETECTIONS, [("review", "<=", length)]
        table = gpd.read_parquet(path, filters=first).sort_values("review")
        rows = pd.DataFrame(table.drop(columns="geometry")).to_dict("records")
        return list(zip(rows, table.geometry, strict=True))


def _places(run: RunFolder) -> tuple[Place, ...]:
    ledger, found = Ledger.of(run.out), []
    for name in run.record.cells:
        if name in run.cells:
            found.append(Place(name, run.core(name), None))
        elif failure := ledger.read_failure(name):
            found.append(Place(name, failure.inputs.core, failure.error))
    return tuple(found)


def _read_json(path: Path) -> dict[str, Any] | None:
    """A product of another command, or None.

    Raises:
        OutputError: it is there and cannot be read.
    """
    if not path.exists():
        return None
    try:
        tree: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be read ({error}); remove or remake it") from error
    return tree
