"""Outcome of a run, and its record ``run.json``."""

from __future__ import annotations

import os
import platform
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from capecam import __version__
from capecam.grid import Cell
from capecam.io.gdal import gdal_versions
from capecam.mosaic.city import City
from capecam.mosaic.diagnostics import DiagnosticGroup
from capecam.mosaic.mosaic import Source
from capecam.pipeline.preparation import RunConstants, captured
from capecam.run.unusual_images import unusual_records
from capecam.runtime import notebook_html
from capecam.settings import Settings
from capecam.store.records import (
    GridRecord,
    ImageFacts,
    RunRecord,
    TotalsRecord,
)
from capecam.store.staleness import ImageHashes, Inputs

PACKAGES = ("torch", "segmentation_models_pytorch", "timm", "rasterio")
"""Packages whose versions are recorded, beside those of GDAL and PROJ in rasterio."""


@dataclass(slots=True)
class RunOutcome:
    """Result of a run."""

    out: Path
    failures: dict[str, str] = field(default_factory=dict)
    """Reasons by image or cell that is missing."""
    started: datetime = field(default_factory=lambda: datetime.now().astimezone())
    done: int = 0
    """Number of cells that were finished in this run."""
    failed: int = 0
    """Number of cells that failed in this run; ``failures`` has those of earlier runs, too."""
    stopped: str | None = None
    """Why it ended before all cells were tried."""
    kept: int = 0
    """Number of cells that were done before and are up to date."""
    tiles: int = 0
    """Number of tiles that were processed in this run."""
    workers: int = 1
    batch_size: int = sys.maxsize
    """Smallest number of tiles that went through the network at once."""
    seconds: float = 0.0
    """Wall time up to the end of the last stage that has ended."""
    city: RunRecord | None = None
    """The record with totals and products of all finished cells; None if there is none."""
    stages: dict[str, float] = field(default_factory=dict)
    """Wall seconds, one after the other."""
    work: dict[str, float] = field(default_factory=dict)
    """Seconds inside the cells by stage: some of them at the same time (``cell.CellReport``)."""
    _began: float = field(default_factory=time.perf_counter)

    def end(self, stage: str, **parts: float) -> None:
        """Note that a stage ends now; ``parts`` of it, which were timed, count on their own."""
        self.seconds = time.perf_counter() - self._began
        rest = self.seconds - sum(self.stages.values()) - sum(parts.values())
        self.stages.update({stage: rest} | parts)

    @property
    def engine_waited(self) -> float | None:
        """Share of the cells' wall time in which the engine was idle; None without a tile."""
        if "engine" not in self.work:
            return None
        return max(0.0, 1 - self.work["engine"] / self.workers / self.stages["cells"])

    @property
    def totals(self) -> TotalsRecord:
        """Sums over all finished cells."""
        return self.city.totals if self.city else TotalsRecord()

    @property
    def found(self) -> int:
        """Number of detections of all finished cells."""
        return sum(count for count, _ in self.totals.by_class.values())

    @property
    def exit_code(self) -> int:
        """0 done; 3 some cells failed; 2 no cell could be processed."""
        if not self.failures:
            return 0
        return 3 if self.done + self.kept else 2

    def __repr__(self) -> str:
        """Return what was done in a line."""
        cells = f"{self.done} done, {self.kept} kept, {len(self.failures)} failed"
        return f"Outcome({self.out}; cells: {cells}; detections: {self.found})"

    def _repr_html_(self) -> str:
        """Return the detections by class, and what failed, as tables."""
        rows = [(name, f"{n:,}", f"{m2:,.1f}") for name, (n, m2) in self.totals.by_class.items()]
        tables = [
            notebook_html.table([[repr(self)]]),
            notebook_html.table(rows, ("class", "count", "area m²")),
        ]
        if self.failures:
            tables.append(notebook_html.table(self.failures.items(), ("failed", "reason")))
        return notebook_html.joined(*tables)


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """Decisions that are made before the first cell is processed."""

    settings: Settings
    city: City
    cells: tuple[Cell, ...]
    constants: RunConstants
    diagnostics: tuple[DiagnosticGroup, ...] = ()
    """Remarks on the headers of the images."""
    previous: RunRecord | None = None
    """Record of the run before, into the same folder."""

    @property
    def inputs(self) -> Inputs:
        """Return the inputs that all cells depend on."""
        return self.constants.inputs(self.settings, self.city)

    def images_read(self, cell: Cell) -> list[Source]:
        """Return the images that a cell's tiles read."""
        return self.city.mosaic.images_read(cell, self.settings.tiling.tiling)

    def image_facts(self, cell: Cell, hashes: ImageHashes) -> dict[str, ImageFacts]:
        """Return the facts of these images, by name."""
        return {source.name: hashes.of_neighbour(source) for source in self.images_read(cell)}

    def record(self, outcome: RunOutcome) -> RunRecord:
        """Return ``run.json`` as far as the run has come."""
        constants, mosaic, waited = self.constants, self.city.mosaic, outcome.engine_waited
        record = RunRecord(
            capecam=__version__,
            settings=self.settings.model_dump(mode="json"),
            started_in=os.path.relpath(Path.cwd(), os.path.realpath(outcome.out)),
            versions={
                "python": platform.python_version(),
                **{package: version(package) for package in PACKAGES},
                **gdal_versions(),
            },
            device=constants.device,
            precision=constants.precision,
            batch_size=min(constants.batch_size, outcome.batch_size),
            checkpoint=constants.checkpoint,
            anchor=mosaic.grid.anchor,
            grid=GridRecord.of(mosaic.grid),
            scale=constants.scale,
            calibration=constants.calibration,
            empty=self._empty_classes(),
            cells=tuple(cell.name for cell in self.cells),
            shifted={s.name: s.shift_px for s in mosaic.sources if any(s.shift_px)},
            warped=tuple(s.name for s in mosaic.sources if s.warped),
            captured={
                s.name: date.text
                for s in mosaic.sources
                if (date := captured(s, self.settings.about)) is not None
            },
            unusual=unusual_records(self.diagnostics, "headers"),
            failures=outcome.failures,
            stopped=outcome.stopped,
            started=outcome.started.isoformat(timespec="seconds"),
            tiles=outcome.tiles,
            seconds=round(outcome.seconds, 3),
            stages={name: round(seconds, 3) for name, seconds in outcome.stages.items()},
            work={name: round(seconds, 3) for name, seconds in outcome.work.items()},
            engine_waited=None if waited is None else round(waited, 4),
        )
        if previous := self.previous:  # what it measured and made stays until there is newer
            record = record.model_copy(
                update={
                    "audit": previous.audit,
                    "objects": previous.objects,
                    "written": previous.last_written,
                    "stac": previous.stac,
                }
            )
            record = record if outcome.done else record.with_times_of(previous)
        return record if outcome.city is None else record.with_products_of(outcome.city)

    def _empty_classes(self) -> dict[str, tuple[str, ...]]:
        """Return, by method, the classes whose heatmaps have no positive value."""
        names = [c.name for c in self.settings.model.classes[1:]]
        return {
            method: tuple(name for name, top in zip(names, scale_max, strict=True) if top is None)
            for method, scale_max in self.constants.calibration.scale_max.items()
        }
