"""A process that computes cells: its handle in the supervisor, and its own main function."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from capecam.errors import CapecamError, DeviceError, WorkerError
from capecam.io.gdal import gdal_settings
from capecam.mosaic.city import City
from capecam.pipeline.cell_runner import CellRunner, Result, Work
from capecam.pipeline.preparation import RunConstants
from capecam.runtime import logs
from capecam.runtime.child_process import ChildDiedError, ChildProcess, ParentConnection
from capecam.runtime.heap import keep_heap
from capecam.runtime.progress import SILENT, Progress
from capecam.settings import Settings
from capecam.store.records import RunRecord
from capecam.store.staleness import ImageHashes

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Reading:
    """Message of a worker: names of the images that it reads next; empty when it has read them."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _At:
    """Message of a worker: see :meth:`capecam.runtime.progress.Progress.at`."""

    stage: str
    done: int
    total: int | None


class _Ready:
    """Message of a worker: it can begin the next work."""


class _SentProgress(Progress):
    """Progress of a worker, sent to its parent."""

    def __init__(self, parent: ParentConnection) -> None:
        self._parent = parent

    def at(self, stage: str, done: int = 0, total: int | None = None) -> None:
        """See :class:`Progress`."""
        self._parent.send(_At(stage, done, total))


class WorkerProcess:
    """A process that computes cells.

    Args:
        settings: of the run, with ``compute.device`` for this worker, and in ``compute.workers``
            the number of workers that share it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._child: ChildProcess | None = None
        self._has_city = False
        self.reading: tuple[str, ...] = ()
        """Names of the images that it reads in order to answer."""
        self.ended = ""
        """Reason of its last death; empty before."""

    def start(self) -> None:
        """Start the process; it loads the network at the first request."""
        self._has_city, self.reading = False, ()
        environment, compute = dict[str, str](), self._settings.compute
        if compute.device == "cpu" and (compute.workers or 1) > 1:
            threads = max(1, (os.cpu_count() or 1) // (compute.workers or 1))
            environment["OMP_NUM_THREADS"] = str(threads)
        level = log.getEffectiveLevel()
        self._child = ChildProcess(_serve, self._settings, level, environment=environment)

    def prepare(
        self, city: City, previous: RunRecord | None, progress: Progress = SILENT
    ) -> RunConstants:
        """Find out what all cells of a run have in common.

        Raises:
            CapecamError: of the worker; WorkerError if it died, with the images in ``reading``.
        """
        constants: RunConstants = self._request(_prepare, city, previous, progress=progress)
        return constants

    def get_ready(self, city: City, constants: RunConstants, known: ImageHashes) -> None:
        """Load a city once, in a new process if the last one has ended.

        Raises:
            CapecamError: of the worker; WorkerError if it died.
        """
        if self._child is None or self._child.has_ended:
            self.start()
        if not self._has_city:
            self._request(_load_city, city, constants, known)
            self._has_city = True

    def process(
        self, work: Iterator[Work], on_event: Callable[[Result | int], object]
    ) -> list[Work]:
        """Do work until there is none left.

        Args:
            work: cells and objects, taken one by one, when the worker can begin the next.
            on_event: called with each result, and with numbers of tiles that have been finished.

        Returns:
            What the worker was doing when it died (``ended`` says how); nothing if all is done.

        Raises:
            StoppedError: the disk is full.
        """
        in_progress: dict[str, Work] = {}
        try:
            self._running.send((_process,))
            while (answer := self._running.receive()) is not None:
                if isinstance(answer, BaseException):
                    raise answer
                if isinstance(answer, _Ready):
                    following = next(work, None)
                    if following is not None:
                        in_progress[following.name] = following
                    self._running.send(following)
                    continue
                if not isinstance(answer, int):
                    del in_progress[answer.work.name]
                on_event(answer)
        except ChildDiedError as error:
            self.ended = str(error)
        return list(in_progress.values())

    def stop(self) -> None:
        """End the process at once."""
        if self._child is not None:
            self._child.kill()

    @property
    def _running(self) -> ChildProcess:
        if self._child is None:
            raise ValueError("start comes before a request")
        return self._child

    def _request(self, *request: object, progress: Progress = SILENT) -> Any:
        try:
            self._running.send(request)
            while isinstance(answer := self._running.receive(), (_Reading, _At)):
                if isinstance(answer, _At):
                    progress.at(answer.stage, answer.done, answer.total)
                else:
                    self.reading = answer.names
        except ChildDiedError as error:
            raise WorkerError(
                f"a worker ended before its first cell: {error}"
                "; run it with -v, or with --in-process"
            ) from None
        if isinstance(answer, BaseException):
            raise answer
        return answer


def _serve(parent: ParentConnection, settings: Settings, level: int) -> None:
    """Answer requests: a function below and its arguments."""
    logs.configure(level)
    keep_heap()
    runner: CellRunner | None = None
    with gdal_settings():
        while True:
            function, *arguments = parent.receive()
            try:
                runner = runner or CellRunner(settings)
                parent.send(function(parent, runner, *arguments))
            except CapecamError as error:
                parent.send(error)


def _prepare(
    parent: ParentConnection, runner: CellRunner, city: City, previous: RunRecord | None
) -> RunConstants:
    return runner.prepare(
        city, previous, lambda names: parent.send(_Reading(names)), _SentProgress(parent)
    )


def _load_city(
    _: ParentConnection, runner: CellRunner, city: City, constants: RunConstants, known: ImageHashes
) -> None:
    runner.load_city(city, constants, known)


def _process(parent: ParentConnection, runner: CellRunner) -> None:
    """Do work that the parent sends when asked, until it sends None."""

    def work() -> Iterator[Work]:
        while True:
            parent.send(_Ready())
            following: Work | None = parent.receive()
            if following is None:
                return
            yield following

    try:
        for result in runner.process(work(), parent.send):
            parent.send(result)
    except DeviceError as error:
        log.error("%s", error)  # noqa: TRY400 -v shows the traceback already
        os._exit(1)
