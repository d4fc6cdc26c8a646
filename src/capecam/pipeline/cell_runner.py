"""Makes cells: one network on one device, wherever it runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import torch

from capecam.attribution.device import pick_device
from capecam.attribution.engine import Engine
from capecam.errors import CapecamError, DeviceError, StoppedError
from capecam.grid import Cell
from capecam.model.model import Model, check_tile, load_model
from capecam.mosaic.city import City
from capecam.pipeline.calibration import Told
from capecam.pipeline.cell import CellReport, Job, process
from capecam.pipeline.preparation import RunConstants, prepare
from capecam.settings import Settings
from capecam.settings.tree import required
from capecam.store.ledger import Ledger, products_in
from capecam.store.records import CellRecord, RunRecord
from capecam.store.staleness import ImageHashes, Inputs, cell_inputs

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CellResult:
    """How it went with a cell."""

    cell: Cell
    report: CellReport | None
    """None: it failed."""
    reason: str = ""
    """Why it failed."""


class CellRunner:
    """Loads the network, and makes one cell after the other.

    Args:
        settings: at least ``out``, and ``checkpoint`` where no model is given.
        model: a network that is loaded already.

    Raises:
        UsageError: the checkpoint or the settings cannot be used.
    """

    def __init__(self, settings: Settings, model: Model | None = None) -> None:
        self._settings = settings
        self._ledger = Ledger.of(required(settings.out, "out", "--out DIR"))
        self._engine = build_engine(settings, model or _load(settings))
        self._contents = ImageHashes()
        self._job: Job | None = None
        self._inputs: Inputs | None = None

    def prepare(
        self, city: City, previous: RunRecord | None, told: Told = lambda _names: None
    ) -> RunConstants:
        """See :func:`capecam.pipeline.preparation.prepare`."""
        return prepare(self._engine, self._settings, city, previous, told)

    def load_city(
        self, city: City, prepared: RunConstants, known: ImageHashes | None = None
    ) -> None:
        """Get ready for the cells of a city."""
        if self._engine.precision != prepared.precision:
            self._engine = self._engine.at(prepared.precision)
        self._contents = known or ImageHashes()
        city = city.with_value_range(prepared.scale)
        self._inputs = prepared.inputs(self._settings, city)
        self._job = Job(
            city.mosaic,
            city.interest,
            self._engine,
            prepared.calibration,
            self._settings,
            prepared.batch_size,
        )

    def attempt(self, cell: Cell, tick: Callable[[int], object]) -> CellResult:
        """Make a cell; whatever one image does is how its cell failed, and the night goes on.

        Args:
            cell: of the city that was taken.
            tick: told the number of tiles of each finished batch.

        Raises:
            StoppedError: the disk is full; or it is a DeviceError, of the GPU.
        """
        try:
            return CellResult(cell, self.make(cell, tick))
        except StoppedError:
            raise
        except Exception as error:  # noted as the cell's failure: exit code 3
            log.debug("cell %s failed", cell.name, exc_info=True)
            if _is_of_the_device(error):
                raise DeviceError(
                    f"the GPU failed at {cell.name}: {_reason_of(error)}; the same command goes "
                    "on where it stopped"
                ) from error
            return CellResult(cell, None, _reason_of(error))

    def make(self, cell: Cell, tick: Callable[[int], object]) -> CellReport:
        """Make a cell, and put it in its place.

        Raises:
            ImageError: its image cannot be used.
            StoppedError: the disk is full.
        """
        if self._job is None or self._inputs is None:
            raise ValueError("a runner takes a city before it makes cells")
        started = time.perf_counter()
        images = self._job.mosaic.images_read(cell, self._settings.tiling.tiling)
        with self._ledger.making(cell) as work, ThreadPoolExecutor(1) as aside:
            # Beside the engine: the files are read anyway, and this waits for disks, too.
            contents = {s.name: aside.submit(self._contents.of, s, cell) for s in images}
            report = process(cell, self._job, work, tick)
            record = CellRecord(
                cell=cell.name,
                image=cell.image,
                status="done",
                **asdict(report),
                seconds=round(time.perf_counter() - started, 3),
                inputs=cell_inputs(cell, self._inputs, images),
                images={name: facts.result() for name, facts in contents.items()},
                files=products_in(work),
            )
            self._ledger.commit(cell, work, record)
        return report


def _reason_of(error: Exception) -> str:
    """One line for people."""
    return str(error) if isinstance(error, CapecamError) else repr(error)


def _is_of_the_device(error: Exception) -> bool:
    """After an error of CUDA, the process cannot use the GPU any more; out of memory is none."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)


def _load(settings: Settings) -> Model:
    checkpoint = required(settings.checkpoint, "checkpoint", "--checkpoint FILE")
    return load_model(checkpoint, settings.model)


def build_engine(settings: Settings, model: Model) -> Engine:
    """The network on its device, ready to explain as the settings say."""
    check_tile(model.network, settings.tiling.tiling)
    explain = settings.explain
    return Engine(
        model,
        explain.methods,
        score=explain.score,
        where=explain.where,
        precision="fp32" if settings.compute.precision == "auto" else settings.compute.precision,
        device=pick_device(settings.compute.device),
    )
