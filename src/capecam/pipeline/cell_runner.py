"""Run cells with one network on one device: while one is finished, the next is read and run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import torch

from capecam.attribution.object_engine import ObjectEngine
from capecam.errors import CapecamError, DeviceError, StoppedError
from capecam.grid import Cell
from capecam.io.gdal import gdal_settings
from capecam.model.checkpoint import read_weights
from capecam.model.model import Model, build_model
from capecam.mosaic.city import City
from capecam.mosaic.reader import Reader
from capecam.pipeline.calibration import OnReading
from capecam.pipeline.cell import CellReport, Job, OnTiles, process
from capecam.pipeline.object_explainer import ObjectExplainer
from capecam.pipeline.object_group import GroupResult, ObjectGroup
from capecam.pipeline.preparation import RunConstants, prepare
from capecam.pipeline.run_engine import build_engine, build_object_engine
from capecam.runtime.lanes import map_in_lanes
from capecam.runtime.progress import SILENT, Progress
from capecam.settings import Settings
from capecam.settings.tree import required
from capecam.store.ledger import Ledger, products_in
from capecam.store.object_store import StoredObject
from capecam.store.records import CellRecord, RunRecord
from capecam.store.staleness import ImageHashes, cell_inputs

log = logging.getLogger(__name__)

LANES = 2
"""Number of cells in progress: one that the engine runs, and one that is read or finished."""


@dataclass(frozen=True, slots=True)
class CellResult:
    """Result of an attempt to process a cell."""

    cell: Cell
    report: CellReport | None
    """None if it failed."""
    reason: str = ""
    """Reason why it failed."""

    @property
    def work(self) -> Cell:
        """The cell, as in ``GroupResult``."""
        return self.cell

    @property
    def tiles(self) -> int:
        """Number of tiles that were run."""
        return self.report.tiles if self.report else 0


Work = Cell | ObjectGroup
"""Something that a worker does at once."""

Result = CellResult | GroupResult


def failed(work: Work, reason: str) -> Result:
    """Return the result of work that has failed."""
    if isinstance(work, ObjectGroup):
        return GroupResult(work, None, reason)
    return CellResult(work, None, reason)


class CellRunner:
    """Loads the network, and processes cells. The engine runs one at a time; while it runs one, the
    last one is finished, and the next one is read.

    Args:
        settings: at least ``out``, and ``checkpoint`` if no model is given.
        model: a network that is loaded already.

    Raises:
        UsageError: the checkpoint or the settings cannot be used.
    """

    def __init__(self, settings: Settings, model: Model | None = None) -> None:
        self._settings = settings
        self._ledger = Ledger.of(required(settings.out, "out", "--out DIR"))
        self._engine = build_engine(settings, model or _load(settings))
        self._hashes = ImageHashes()
        self._turn = threading.Lock()
        self._job: Job | None = None
        self._object_engine: ObjectEngine | None = None

    def prepare(
        self,
        city: City,
        previous: RunRecord | None,
        on_reading: OnReading = lambda _names: None,
        progress: Progress = SILENT,
    ) -> RunConstants:
        """Choose the constants of a run: see :func:`capecam.pipeline.preparation.prepare`."""
        return prepare(self._engine, self._settings, city, previous, on_reading, progress=progress)

    def load_city(
        self, city: City, constants: RunConstants, hashes: ImageHashes | None = None
    ) -> None:
        """Set the city whose cells are to be processed.

        Args:
            city: of the run, at its value range.
            constants: of the run.
            hashes: of images that are known already.
        """
        self._hashes = hashes or ImageHashes()
        engine = self._engine.at(constants.precision)
        self._job = Job(city, constants, self._settings, engine, self._turn)

    def process(self, work: Iterable[Work], on_tiles: OnTiles) -> Generator[Result, None, None]:
        """Do all work, and yield the results in the order in which they end.

        When the generator is closed, or an error is raised, it ends after the batch that runs.

        Args:
            work: in the city that is loaded; taken one by one, when the next can begin.
            on_tiles: called in other threads with the number of tiles of each finished batch.

        Raises:
            StoppedError: the disk is full; or, as DeviceError, the GPU failed.
        """
        stopping = threading.Event()

        def on_batch(tiles: int) -> None:
            if stopping.is_set():
                raise InterruptedError("the run has ended")
            on_tiles(tiles)

        def attempt(each: Work) -> Result:
            with gdal_settings():
                return self.attempt(each, on_batch)

        results = map_in_lanes(attempt, work, LANES)
        try:
            yield from results
        finally:
            stopping.set()
            results.close()

    def attempt(self, work: Work, on_tiles: OnTiles) -> Result:
        """Process a cell or explain objects; an error of its images is the reason why it failed.

        Args:
            work: in the city that is loaded.
            on_tiles: called with the number of tiles of each finished batch.

        Raises:
            StoppedError: the disk is full; or, as DeviceError, the GPU failed.
        """
        try:
            if isinstance(work, ObjectGroup):
                return GroupResult(work, self.explain(work, on_tiles))
            return CellResult(work, self.make(work, on_tiles))
        except StoppedError:
            raise
        except Exception as error:  # recorded as the cell's failure: exit code 3
            log.debug("%s failed", work.name, exc_info=True)
            reason = str(error) if isinstance(error, CapecamError) else repr(error)
            if _is_device_error(error):
                raise DeviceError(
                    f"the GPU failed at {work.name}: {reason}; run the same command again: it "
                    "continues where it stopped"
                ) from error
            return failed(work, reason)

    def explain(self, group: ObjectGroup, on_tiles: OnTiles) -> tuple[StoredObject, ...]:
        """Explain the objects of a cell.

        Raises:
            ImageError: their image cannot be used.
            SettingsError: the network has no such layer.
        """
        job = self._loaded()
        stored = []
        with Reader(job.city.mosaic, group.image) as reader, job.turn:
            if self._object_engine is None:
                engine, settings = job.engine, self._settings.objects
                self._object_engine = build_object_engine(
                    engine.model, settings, engine.precision, engine.device
                )
            explainer = ObjectExplainer(
                self._object_engine,
                reader,
                self._settings.tiling.tiling,
                job.constants.batch_size,
            )
            for explanation in explainer.explain(group.objects):
                stored.append(explanation.stored())
                on_tiles(len(explanation.parts))
        return tuple(stored)

    def _loaded(self) -> Job:
        if self._job is None:
            raise ValueError("load_city comes before the first cell")
        return self._job

    def make(self, cell: Cell, on_tiles: OnTiles) -> CellReport:
        """Process a cell, and move its products to their place.

        Raises:
            ImageError: its image cannot be used.
            StoppedError: the disk is full.
        """
        job = self._loaded()
        started = time.perf_counter()
        images = job.city.mosaic.images_read(cell, self._settings.tiling.tiling)
        with self._ledger.work_folder(cell) as work, ThreadPoolExecutor(1) as thread:
            # While the engine runs: the files are read anyway, and hashing waits for disks, too.
            facts = {s.name: thread.submit(self._hashes.of, s, cell) for s in images}
            inputs = cell_inputs(cell, job.constants.inputs(self._settings, job.city), images)
            about = job.constants.about(self._settings, inputs, job.city.mosaic.source(cell.image))
            report = process(cell, job, work, about, on_tiles)
            record = CellRecord(
                cell=cell.name,
                image=cell.image,
                status="done",
                **asdict(report),
                seconds=round(time.perf_counter() - started, 3),
                inputs=inputs,
                images={name: future.result() for name, future in facts.items()},
                files=products_in(work),
                about=about,
            )
            self._ledger.commit(cell, work, record)
        return report


def _is_device_error(error: Exception) -> bool:
    """Return True for an error of CUDA after which the process cannot use the GPU any more."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)


def _load(settings: Settings) -> Model:
    checkpoint = required(settings.checkpoint, "checkpoint", "--checkpoint FILE")
    return build_model(read_weights(checkpoint), settings.model)
