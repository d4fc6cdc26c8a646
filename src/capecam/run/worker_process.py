"""A process that makes cells, seen from the supervisor (:class:`WorkerProcess`) and from within
(:func:`serve`): requests go in, answers come out, as pickles through pipes."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

from capecam.errors import CapecamError, DeviceError, WorkerError
from capecam.grid import Cell
from capecam.io.gdal import gdal_settings
from capecam.mosaic.city import City
from capecam.pipeline.cell_runner import CellResult, CellRunner
from capecam.pipeline.preparation import RunConstants
from capecam.runtime import logs
from capecam.settings import Settings
from capecam.store.records import RunRecord
from capecam.store.staleness import ImageHashes

log = logging.getLogger(__name__)

PATIENCE_S = 5.0
"""Until a worker that was asked to end is made to."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """What a worker says before it reads images that it may die of, and after."""

    names: tuple[str, ...]


class WorkerProcess:
    """A process that makes cells, and the pipe to it.

    Args:
        settings: of the run, ``compute.device`` its own.
        among: so many workers share the machine.
    """

    def __init__(self, settings: Settings, among: int) -> None:
        self._settings, self._among = settings, among
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self.reading: tuple[str, ...] = ()
        """Names of the images that it reads in order to answer."""

    def start(self) -> None:
        """Start the process; the network loads when it is first asked for something."""
        self._ready, self.reading = False, ()
        environment = dict(os.environ)
        if self._among > 1 and self._settings.compute.device == "cpu":
            environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // self._among))
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from capecam.run.worker_process import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C goes to the supervisor alone
        )
        self._send("settings", self._settings, log.getEffectiveLevel())

    def prepare(self, city: City, previous: RunRecord | None) -> RunConstants:
        """Have found out what a run needs; ``reading`` says of what the worker has died, if so.

        Raises:
            CapecamError: that of the worker; or WorkerError, if it dies of it.
        """
        prepared: RunConstants = self._ask("prepare", city, previous)
        return prepared

    def get_ready(self, city: City, prepared: RunConstants, known: ImageHashes) -> None:
        """Have a process that has taken the city, a new one where the old one has died.

        Raises:
            CapecamError: that of the worker; or WorkerError, if it dies of it.
        """
        if self._process is None or self._process.poll() is not None:
            self.start()
        if not self._ready:
            self._ask("take", city, prepared, known)
            self._ready = True

    def make(self, cell: Cell, told: Callable[[int], object]) -> CellResult:
        """Have a cell made; if the worker dies of it, that is how the cell failed.

        Raises:
            StoppedError: the disk is full.
        """
        try:
            self._send("make", cell)
            while isinstance(answer := self._receive(), int):
                told(answer)
        except (EOFError, BrokenPipeError):
            return CellResult(cell, None, f"its worker ended: {self._how()}")
        if isinstance(answer, BaseException):
            raise answer
        made: CellResult = answer
        return made

    def stop(self) -> None:
        """Now."""
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            self._pipe(self._process.stdin).close()  # it ends itself when it sees that
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, *request: Any) -> Any:
        try:
            self._send(*request)
            while isinstance(answer := self._receive(), _Reading):
                self.reading = answer.names
        except (EOFError, BrokenPipeError):
            raise WorkerError(
                f"a worker ended before its first cell: {self._how()}"
                "; run it with -v, or with --in-process"
            ) from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _how(self) -> str:
        code = self._process.wait() if self._process else 0
        if code >= 0:
            return f"exit code {code}"
        name = signal.Signals(-code).name
        return f"killed by {name}" + (
            ", as the system does when memory runs out" if name == "SIGKILL" else ""
        )

    def _send(self, *message: Any) -> None:
        if self._process is not None:
            pipe = self._pipe(self._process.stdin)
            pickle.dump(message, pipe)
            pipe.flush()

    def _receive(self) -> Any:
        if self._process is None:
            raise EOFError
        return pickle.load(self._pipe(self._process.stdout))

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        if pipe is None:
            raise ValueError("a worker has pipes")
        return pipe


Answer = Callable[[object], None]


def serve() -> None:
    """The worker's side, until the supervisor ends, however it does.

    Signals to end are the supervisor's affair, also where a service manager sends them to all.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    answer = _answers()
    requests: queue.Queue[tuple[Any, ...]] = queue.Queue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    _, settings, level = requests.get()
    logs.configure(level)
    runner: CellRunner | None = None
    with gdal_settings():
        while True:
            request = requests.get()
            try:
                runner = runner or CellRunner(settings)
                answer(_done(runner, request, answer))
            except CapecamError as error:
                answer(error)


def _answers() -> Answer:
    """Standard output for answers alone: what a library prints must not get between them."""
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def answer(message: object) -> None:
        pickle.dump(message, stream)
        stream.flush()

    return answer


def _listen(requests: queue.Queue[tuple[Any, ...]]) -> None:
    while True:
        try:
            requests.put(pickle.load(sys.stdin.buffer))
        except (EOFError, pickle.UnpicklingError):  # cut off, where the supervisor was killed
            os._exit(1)  # in the middle of a cell: what is half-made is cleared by the next run


def _done(runner: CellRunner, request: tuple[Any, ...], answer: Answer) -> object:
    match request:
        case "prepare", city, previous:
            return runner.prepare(city, previous, lambda names: answer(_Reading(names)))
        case "take", city, prepared, known:
            runner.load_city(city, prepared, known)
            return None
        case "make", cell:
            return _attempt(runner, cell, answer)
    raise ValueError(f"a worker does not know how to {request[0]}")


def _attempt(runner: CellRunner, cell: Cell, answer: Answer) -> CellResult:
    try:
        return runner.attempt(cell, answer)
    except DeviceError as error:
        log.error("%s", error)  # noqa: TRY400 -v shows the traceback already
        os._exit(1)
