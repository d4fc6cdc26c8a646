"""What a run has decided and how it ended: ``run.json``."""

from __future__ import annotations

import platform
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import torch

from capecam import __version__
from capecam.grid import Cell
from capecam.mosaic.city import City
from capecam.mosaic.mosaic import Source
from capecam.pipeline.preparation import RunConstants
from capecam.run.city_products import Totals
from capecam.settings import Settings
from capecam.store.records import CheckpointRecord, GridRecord, ImageFacts, RunRecord
from capecam.store.staleness import ImageHashes, Inputs


@dataclass(slots=True)
class RunOutcome:
    """How a run ended."""

    out: Path
    failures: dict[str, str] = field(default_factory=dict)
    """By image or cell: why it is missing."""
    started: datetime = field(default_factory=lambda: datetime.now().astimezone())
    done: int = 0
    """Cells finished in this run."""
    failed: int = 0
    """Cells that failed in this run; ``failures`` has those of before, too."""
    stopped: str | None = None
    """Why it ended before all cells were tried."""
    kept: int = 0
    """Cells that were done before and are still right."""
    tiles: int = 0
    """Tiles run in this run."""
    workers: int = 1
    batch_size: int = sys.maxsize
    """Tiles that went through the network at once, at the least."""
    seconds: float = 0.0
    """Wall time, up to the end of the last stage that has ended."""
    totals: Totals | None = None
    """Of all finished cells; None if there is none."""
    stages: dict[str, float] = field(default_factory=dict)
    """Wall seconds, one after the other."""
    work: dict[str, float] = field(default_factory=dict)
    """Seconds inside the cells, by stage: some of them at the same time (``cell.CellReport``)."""
    _began: float = field(default_factory=time.perf_counter)

    def end(self, stage: str, **parts: float) -> None:
        """A stage ends now; ``parts`` of it, which were timed, count on their own."""
        self.seconds = time.perf_counter() - self._began
        rest = self.seconds - sum(self.stages.values()) - sum(parts.values())
        self.stages.update({stage: rest} | parts)

    @property
    def waited(self) -> float | None:
        """The share of the cells' wall time in which the engine had nothing to do."""
        if "engine" not in self.work:  # no cell was made, or none had a tile
            return None
        return max(0.0, 1 - self.work["engine"] / self.workers / self.stages["cells"])

    @property
    def found(self) -> int:
        """Detections of all finished cells."""
        return 0 if self.totals is None else sum(n for n, _ in self.totals.by_class.values())

    @property
    def exit_code(self) -> int:
        """0 done; 3 some cells failed; 2 none could be made."""
        if not self.failures:
            return 0
        return 3 if self.done + self.kept else 2


@dataclass(frozen=True, slots=True)
class RunRecorder:
    """What is decided when the first cell is made."""

    settings: Settings
    city: City
    cells: tuple[Cell, ...]
    prepared: RunConstants

    @property
    def inputs(self) -> Inputs:
        """What cells depend on."""
        return self.prepared.inputs(self.settings, self.city)

    def images_read(self, cell: Cell) -> list[Source]:
        """Return the images that a cell's tiles read."""
        return self.city.mosaic.images_read(cell, self.settings.tiling.tiling)

    def image_facts(self, cell: Cell, hashes: ImageHashes) -> dict[str, ImageFacts]:
        """Return the facts of these images, by name."""
        return {source.name: hashes.of_neighbour(source) for source in self.images_read(cell)}

    def record(self, outcome: RunOutcome) -> RunRecord:
        """Return ``run.json`` as far as the run has come."""
        prepared, mosaic = self.prepared, self.city.mosaic
        found = RunRecord(
            capecam=__version__,
            settings=self.settings.model_dump(mode="json"),
            versions={"python": platform.python_version(), "torch": torch.__version__},
            device=prepared.device,
            precision=prepared.precision,
            batch_size=min(prepared.batch_size, outcome.batch_size),
            checkpoint=CheckpointRecord(
                sha256=prepared.checkpoint,
                architecture=prepared.architecture,
                target_layer=prepared.target_layer,
                ignored=prepared.ignored,
            ),
            anchor=mosaic.grid.anchor,
            grid=GridRecord.of(mosaic.grid),
            scale=prepared.scale,
            calibration=prepared.calibration,
            empty=self._empty(),
            cells=tuple(cell.name for cell in self.cells),
            shifted={s.name: s.shift_px for s in mosaic.sources if any(s.shift_px)},
            warped=tuple(s.name for s in mosaic.sources if s.warped),
            failures=outcome.failures,
            stopped=outcome.stopped,
            started=outcome.started.isoformat(timespec="seconds"),
            tiles=outcome.tiles,
            seconds=round(outcome.seconds, 3),
            stages={name: round(seconds, 3) for name, seconds in outcome.stages.items()},
            work={name: round(seconds, 3) for name, seconds in outcome.work.items()},
            engine_waited=None if outcome.waited is None else round(outcome.waited, 4),
        )
        return outcome.totals.add_to(found) if outcome.totals else found

    def _empty(self) -> dict[str, tuple[str, ...]]:
        """Return, by method, the classes whose heatmaps have no positive value."""
        names = [c.name for c in self.settings.model.classes[1:]]
        return {
            method: tuple(name for name, top in zip(names, scale_max, strict=True) if top is None)
            for method, scale_max in self.prepared.calibration.scale_max.items()
        }
