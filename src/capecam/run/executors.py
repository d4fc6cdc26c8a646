"""Executors that process cells and explain objects: in this process, or in worker processes that
may crash."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Protocol, Self, TypeAlias

import torch

from capecam.errors import WorkerError
from capecam.model.model import Model
from capecam.mosaic.city import City
from capecam.pipeline.cell_runner import CellResult, CellRunner, Result, Work, failed
from capecam.pipeline.object_group import GroupResult
from capecam.pipeline.preparation import RunConstants
from capecam.run.outcome import PreparedRun
from capecam.run.worker_process import WorkerProcess
from capecam.runtime.progress import SILENT, Progress
from capecam.settings import Settings
from capecam.store.records import WORKER_ENDED, RunRecord
from capecam.store.staleness import ImageHashes

log = logging.getLogger(__name__)

OnTiles: TypeAlias = Callable[[int], object]
"""Hears how many more tiles are finished."""


class Executor(Protocol):
    """Processes the cells of one run, and explains their objects; a context manager."""

    count: int
    """Number of engines, each of which runs one cell at a time."""

    def prepare(
        self, city: City, previous: RunRecord | None, progress: Progress = SILENT
    ) -> RunConstants:
        """Find out what all cells have in common; once, before any cell."""

    def process(
        self, run: PreparedRun, work: Iterable[Work], hashes: ImageHashes, on_tiles: OnTiles
    ) -> Generator[Result, None, None]:
        """Do all work, and yield the results in the order in which they end.

        Closed before its end, it has stopped what was still running.

        Args:
            run: with the constants that :meth:`prepare` has returned.
            work: cells and objects of the run, taken one by one, when there is a worker for the
                next.
            hashes: of images that are known already.
            on_tiles: hears of finished tiles.

        Raises:
            StoppedError: the machine failed.
        """

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop at once what is still running."""


class SerialExecutor(Executor):
    """Processes one cell after the other in this process: for notebooks, debugging and models that
    are loaded already."""

    count = 1

    def __init__(self, settings: Settings, model: Model | None = None) -> None:
        self._runner = CellRunner(settings, model)

    def prepare(
        self, city: City, previous: RunRecord | None, progress: Progress = SILENT
    ) -> RunConstants:
        """See :class:`Executor`."""
        return self._runner.prepare(city, previous, progress=progress)

    def process(
        self, run: PreparedRun, work: Iterable[Work], hashes: ImageHashes, on_tiles: OnTiles
    ) -> Generator[Result, None, None]:
        """See :class:`Executor`."""
        self._runner.load_city(run.city, run.constants, hashes)
        yield from self._runner.process(work, on_tiles)

    def __exit__(self, *_: object) -> None:
        """Do nothing: no cell is processed after the caller has closed :meth:`process`."""


class WorkQueue:
    """Work for several workers to take, each once; a worker that is lost returns its own."""

    def __init__(self, work: Iterable[Work]) -> None:
        self.returned: list[Work] = []
        self._work = iter(work)
        self._lock = threading.Lock()

    def take(self) -> Work | None:
        """Return the next work, or None if there is none left."""
        with self._lock:
            return self.returned.pop(0) if self.returned else next(self._work, None)

    def __iter__(self) -> Iterator[Work]:
        """Take work until there is none left."""
        return iter(self.take, None)

    def put_back(self, *work: Work) -> None:
        """Return work that has not been done."""
        with self._lock:
            self.returned += work


Event: TypeAlias = Result | int | BaseException | None
"""From a worker: a result; a number of finished tiles; its error; None: it has no more work."""


class ProcessExecutor(Executor):
    """Processes cells in worker processes, one a device. One that dies is replaced, and each of the
    cells that it had in progress is processed again by itself; one at which it dies again fails.

    Args:
        settings: of the run.
        devices: of each worker, as in ``compute.device``.
    """

    def __init__(self, settings: Settings, devices: Sequence[str]) -> None:
        self.count = len(devices)
        self._workers = [WorkerProcess(_on_device(settings, d, devices.count(d))) for d in devices]

    def prepare(
        self, city: City, previous: RunRecord | None, progress: Progress = SILENT
    ) -> RunConstants:
        """See :class:`Executor`; the first worker does it."""
        worker = self._workers[0]
        while True:
            worker.start()
            try:
                return worker.prepare(city, previous, progress)
            except WorkerError:
                if not worker.reading:
                    raise
                log.warning(
                    "a worker died while it read %s; the sample is taken without",
                    ", ".join(worker.reading),
                )
                city = replace(city, excluded=city.excluded.union(worker.reading))

    def process(
        self, run: PreparedRun, work: Iterable[Work], hashes: ImageHashes, on_tiles: OnTiles
    ) -> Generator[Result, None, None]:
        """See :class:`Executor`."""
        pending = WorkQueue(work)
        events: queue.Queue[Event] = queue.Queue()
        stopping = threading.Event()

        def serve(worker: WorkerProcess) -> None:
            suspects: list[Work] = []  # in progress when it died
            try:
                while not stopping.is_set():
                    alone = bool(suspects)
                    first = suspects.pop() if alone else pending.take()
                    if first is None:
                        break
                    try:
                        worker.get_ready(run.city, run.constants, hashes)
                    except WorkerError:
                        pending.put_back(first, *suspects)
                        raise
                    died_at = worker.process(chain([first], () if alone else pending), events.put)
                    if not alone:
                        suspects = died_at
                    elif died_at:
                        events.put(failed(first, f"{WORKER_ENDED}: {worker.ended}"))
            except BaseException as error:  # to be raised in the main thread
                events.put(error)
            else:
                events.put(None)

        threads = [threading.Thread(target=serve, args=(w,), daemon=True) for w in self._workers]
        for thread in threads:
            thread.start()
        try:
            lost = yield from _results(events, self.count, on_tiles)
        except BaseException:  # also that the caller has closed it
            stopping.set()
            for worker, thread in zip(self._workers, threads, strict=True):
                while thread.is_alive():  # it may be about to start its worker
                    worker.stop()
                    thread.join(0.1)
            raise
        if lost is not None and pending.returned:
            raise lost

    def __exit__(self, *_: object) -> None:
        """Stop the workers."""
        for worker in self._workers:
            worker.stop()


def _results(
    events: queue.Queue[Event], working: int, on_tiles: OnTiles
) -> Generator[Result, None, WorkerError | None]:
    """Yield results until no worker is left; return the error of the last one that was lost."""
    lost: WorkerError | None = None
    while working:
        event = events.get()
        if isinstance(event, (CellResult, GroupResult)):
            yield event
        elif isinstance(event, int):
            on_tiles(event)
        elif event is None:
            working -= 1
        elif isinstance(event, WorkerError):
            working -= 1
            lost = event
            if working:
                log.warning("%s; the other workers continue", event)
        else:
            raise event
    return lost


def devices(settings: Settings) -> list[str]:
    """Return the device of each worker: every GPU that may be used, or shares of the CPU."""
    device, count = settings.compute.device, torch.cuda.device_count()
    if device == "cpu" or (device == "auto" and not count):
        return ["cpu"] * (settings.compute.workers or 1)
    if ":" in device or not count:  # the worker refuses one that does not exist
        return [device] * (settings.compute.workers or 1)
    return [f"cuda:{n % count}" for n in range(settings.compute.workers or count)]


def _on_device(settings: Settings, device: str, workers: int) -> Settings:
    """Return the settings of one of the workers on a device."""
    compute = settings.compute.model_copy(update={"device": device, "workers": workers})
    return settings.model_copy(update={"compute": compute})
