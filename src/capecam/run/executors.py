"""Where cells are made: in this process, or in others that may die without harm to the rest."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from typing import Protocol, Self, TypeAlias

import torch

from capecam.errors import WorkerError
from capecam.grid import Cell
from capecam.model.model import Model
from capecam.mosaic.city import City
from capecam.pipeline.cell_runner import CellResult, CellRunner
from capecam.pipeline.preparation import RunConstants
from capecam.run.worker_process import WorkerProcess
from capecam.settings import Settings
from capecam.store.records import RunRecord
from capecam.store.staleness import ImageHashes

log = logging.getLogger(__name__)


class Executor(Protocol):
    """Makes the cells of one run; a context manager."""

    count: int
    """How many cells are made at the same time."""

    def prepare(self, city: City, previous: RunRecord | None) -> RunConstants:
        """Once, before any cell."""

    def make(
        self, cells: Iterable[Cell], known: ImageHashes, tick: Callable[[int], object]
    ) -> Generator[CellResult, None, None]:
        """All cells, in the order in which they end; ``tick`` is told of finished tiles."""

    def __enter__(self) -> Self:
        """Get ready."""

    def __exit__(self, *_: object) -> None:
        """Stop at once what is still going on."""


class SerialExecutor:
    """One cell after the other in this process: for notebooks, debugging and loaded models."""

    count = 1

    def __init__(self, settings: Settings, model: Model | None = None) -> None:
        self._runner = CellRunner(settings, model)
        self._city: City | None = None
        self._prepared: RunConstants | None = None

    def prepare(self, city: City, previous: RunRecord | None) -> RunConstants:
        """See :class:`Executor`."""
        prepared = self._runner.prepare(city, previous)
        self._city, self._prepared = city, prepared
        return prepared

    def make(
        self, cells: Iterable[Cell], known: ImageHashes, tick: Callable[[int], object]
    ) -> Generator[CellResult, None, None]:
        """See :class:`Executor`."""
        if self._city is None or self._prepared is None:
            raise ValueError("prepare comes before make")
        self._runner.load_city(self._city, self._prepared, known)
        for cell in cells:
            yield self._runner.attempt(cell, tick)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing runs on its own."""


class CellQueue:
    """Cells for several workers to take, each once; a worker that is lost puts its cell back."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self.returned: list[Cell] = []
        self._cells = iter(cells)
        self._lock = threading.Lock()

    def take(self) -> Cell | None:
        """The next one, if there is one."""
        with self._lock:
            return self.returned.pop(0) if self.returned else next(self._cells, None)

    def put_back(self, cell: Cell) -> None:
        """It is to be made yet."""
        with self._lock:
            self.returned.append(cell)


Event: TypeAlias = CellResult | int | BaseException | None
"""Of a worker: a cell that has ended; finished tiles; how it was lost; None: nothing is left."""


class ProcessExecutor:
    """Cells in worker processes, one a device. One that dies fails its cell and is replaced.

    Args:
        settings: of the run.
        devices: of each worker, as in ``compute.device``.
    """

    def __init__(self, settings: Settings, devices: Sequence[str]) -> None:
        self._closing = False
        self.count = len(devices)
        self._workers = [WorkerProcess(_on_device(settings, d), len(devices)) for d in devices]
        self._city: City | None = None
        self._prepared: RunConstants | None = None

    def prepare(self, city: City, previous: RunRecord | None) -> RunConstants:
        """See :class:`Executor`; the first worker does it."""
        self._city = city
        worker = self._workers[0]
        while self._prepared is None:
            worker.start()
            try:
                self._prepared = worker.prepare(city, previous)
            except WorkerError:
                if not worker.reading:
                    raise
                log.warning(
                    "a worker died while it read %s; the sample is taken without",
                    ", ".join(worker.reading),
                )
                city = replace(city, excluded=city.excluded.union(worker.reading))
        return self._prepared

    def make(
        self, cells: Iterable[Cell], known: ImageHashes, tick: Callable[[int], object]
    ) -> Generator[CellResult, None, None]:
        """See :class:`Executor`."""
        pending = CellQueue(cells)
        events: queue.Queue[Event] = queue.Queue()
        for worker in self._workers:
            work = (worker, pending, known, events)
            threading.Thread(target=self._work, args=work, daemon=True).start()
        lost = yield from _made(events, self.count, tick)
        if lost is not None and pending.returned:
            raise lost

    def _work(
        self,
        worker: WorkerProcess,
        pending: CellQueue,
        known: ImageHashes,
        events: queue.Queue[Event],
    ) -> None:
        """One cell after the other by one worker, in a thread of its own."""
        try:
            while not self._closing and (cell := pending.take()) is not None:
                try:
                    self._get_ready(worker, known)
                except WorkerError:
                    pending.put_back(cell)
                    raise
                events.put(worker.make(cell, events.put))
        except BaseException as error:  # it belongs to the main thread
            events.put(error)
        else:
            events.put(None)

    def _get_ready(self, worker: WorkerProcess, known: ImageHashes) -> None:
        if self._city is None or self._prepared is None:
            raise ValueError("prepare comes before make")
        worker.get_ready(self._city, self._prepared, known)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Workers finish nothing: what they were making will be made again."""
        self._closing = True
        for worker in self._workers:
            worker.stop()


def _made(
    events: queue.Queue[Event], working: int, tick: Callable[[int], object]
) -> Generator[CellResult, None, WorkerError | None]:
    """Cells as they end, until nobody works; returns how the last worker that was lost was lost."""
    lost: WorkerError | None = None
    while working:
        event = events.get()
        if isinstance(event, CellResult):
            yield event
        elif isinstance(event, int):
            tick(event)
        elif event is None:
            working -= 1
        elif isinstance(event, WorkerError):
            working -= 1
            lost = event
            if working:
                log.warning("%s; the other workers go on", event)
        else:
            raise event
    return lost


def devices(settings: Settings) -> list[str]:
    """Of the workers: every GPU that may be used, or shares of the CPU."""
    wanted, count = settings.compute.device, torch.cuda.device_count()
    if wanted == "cpu" or (wanted == "auto" and not count):
        return ["cpu"] * (settings.compute.workers or 1)
    if ":" in wanted or not count:  # one that is not there is refused by the worker
        return [wanted] * (settings.compute.workers or 1)
    return [f"cuda:{n % count}" for n in range(settings.compute.workers or count)]


def _on_device(settings: Settings, device: str) -> Settings:
    compute = settings.compute.model_copy(update={"device": device})
    return settings.model_copy(update={"compute": compute})
