"""Where cells are made: in this process, or in others that may die without harm to the rest."""

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
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any, Protocol, Self

import torch

from capecam import logs
from capecam.cell import CellReport
from capecam.changes import Contents
from capecam.errors import CapecamError, StoppedError
from capecam.grid import Cell
from capecam.maker import Maker, Prepared
from capecam.model import Model
from capecam.raster import gdal_settings
from capecam.settings import Settings
from capecam.sources import City

log = logging.getLogger(__name__)

PATIENCE_S = 5.0
"""Until a worker that was asked to end is made to."""


@dataclass(frozen=True, slots=True)
class Made:
    """How it went with a cell."""

    cell: Cell
    report: CellReport | None
    """None: it failed."""
    reason: str = ""
    """Why it failed."""


class Workshop(Protocol):
    """Makes the cells of one run; a context manager."""

    count: int
    """How many cells are made at the same time."""

    def prepare(self, city: City, before: Mapping[str, Any]) -> Prepared:
        """Once, before any cell."""

    def make(
        self, cells: Iterable[Cell], known: Contents, tick: Callable[[int], object]
    ) -> Generator[Made, None, None]:
        """All cells, in the order in which they end; ``tick`` is told of finished tiles."""

    def __enter__(self) -> Self:
        """Get ready."""

    def __exit__(self, *_: object) -> None:
        """Stop at once what is still going on."""


class InProcess:
    """One cell after the other in this process: for notebooks, debugging and loaded models."""

    count = 1

    def __init__(self, settings: Settings, model: Model | None = None) -> None:
        self._maker = Maker(settings, model)
        self._city: City | None = None
        self._prepared: Prepared | None = None

    def prepare(self, city: City, before: Mapping[str, Any]) -> Prepared:
        """See :class:`Workshop`."""
        prepared = self._maker.prepare(city, before)
        self._city, self._prepared = city, prepared
        return prepared

    def make(
        self, cells: Iterable[Cell], known: Contents, tick: Callable[[int], object]
    ) -> Generator[Made, None, None]:
        """See :class:`Workshop`."""
        if self._city is None or self._prepared is None:
            raise ValueError("prepare comes before make")
        self._maker.take(self._city, self._prepared, known)
        for cell in cells:
            try:
                yield Made(cell, self._maker.make(cell, tick))
            except Exception as error:  # whatever one image does, the night goes on; exit code 3
                log.debug("cell %s failed", cell.name, exc_info=True)
                if is_of_the_device(error):
                    raise StoppedError(
                        f"the GPU failed at {cell.name}: {reason_of(error)}; the same command goes "
                        "on where it stopped"
                    ) from error
                yield Made(cell, None, reason_of(error))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing runs on its own."""


def reason_of(error: BaseException) -> str:
    """One line for people."""
    return str(error) if isinstance(error, CapecamError) else repr(error)


def is_of_the_device(error: Exception) -> bool:
    """After an error of CUDA, the process cannot use the GPU any more; out of memory is none."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)


class _Shelf:
    """Cells for several workers to take, each once; one that could not start puts its cell back."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self.returned: list[Cell] = []
        self._cells = iter(cells)
        self._lock = threading.Lock()

    def take(self) -> Cell | None:
        with self._lock:
            return self.returned.pop() if self.returned else next(self._cells, None)

    def put_back(self, cell: Cell) -> None:
        with self._lock:
            self.returned.append(cell)


class Processes:
    """Cells in worker processes, one a device. One that dies fails its cell and is replaced.

    Args:
        settings: of the run.
        devices: of each worker, as in ``compute.device``.
    """

    def __init__(self, settings: Settings, devices: Sequence[str]) -> None:
        self._closing = False
        self.count = len(devices)
        self._workers = [_Worker(_on_device(settings, d), len(devices)) for d in devices]
        self._city: City | None = None
        self._prepared: Prepared | None = None

    def prepare(self, city: City, before: Mapping[str, Any]) -> Prepared:
        """See :class:`Workshop`; the first worker does it."""
        self._city = city
        while self._prepared is None:
            worker = self._workers[0]
            worker.start()
            try:
                self._prepared = worker.ask("prepare", city, before)
            except StoppedError:
                if not worker.reading:
                    raise
                log.warning(
                    "a worker died while it read %s; the sample is taken without",
                    ", ".join(worker.reading),
                )
                city = replace(city, shunned=city.shunned.union(worker.reading))
        return self._prepared

    def make(
        self, cells: Iterable[Cell], known: Contents, tick: Callable[[int], object]
    ) -> Generator[Made, None, None]:
        """See :class:`Workshop`."""
        shelf = _Shelf(cells)
        events: queue.Queue[Made | int | BaseException | None] = queue.Queue()

        def work(worker: _Worker) -> None:
            try:
                while not self._closing and (cell := shelf.take()) is not None:
                    if not worker.alive:
                        try:
                            worker.start()
                            worker.ask("take", self._city, self._prepared, known)
                        except StoppedError:
                            shelf.put_back(cell)
                            raise
                    events.put(worker.make(cell, events.put))
            except BaseException as error:  # it belongs to the main thread
                events.put(error)
            else:
                events.put(None)

        for worker in self._workers[:1]:
            worker.ask("take", self._city, self._prepared, known)
        threads = [threading.Thread(target=work, args=(w,), daemon=True) for w in self._workers]
        for thread in threads:
            thread.start()
        working = len(threads)
        lost: StoppedError | None = None
        while working:
            event = events.get()
            if isinstance(event, Made):
                yield event
            elif isinstance(event, int):
                tick(event)
            elif event is None:
                working -= 1
            elif isinstance(event, StoppedError):
                working -= 1
                lost = event
                if working:
                    log.warning("%s; the other workers go on", event)
            else:
                raise event
        if lost is not None and shelf.returned:
            raise lost

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Workers finish nothing: what they were making will be made again."""
        self._closing = True
        for worker in self._workers:
            worker.stop()


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


@dataclass(frozen=True, slots=True)
class _Reading:
    """What a worker says before it reads images that it may die of, and after."""

    names: tuple[str, ...]


class _Worker:
    """A process that makes cells, and the pipe to it. Messages are pickles."""

    def __init__(self, settings: Settings, among: int) -> None:
        self._settings, self._among = settings, among
        self._process: subprocess.Popen[bytes] | None = None
        self.reading: tuple[str, ...] = ()
        """Names of the images that it reads in order to answer."""

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process; the network loads when it is first asked for something."""
        self.reading = ()
        environment = dict(os.environ)
        if self._among > 1 and self._settings.compute.device == "cpu":
            environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // self._among))
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from capecam.workers import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C goes to the supervisor alone
        )
        self._send("settings", self._settings, log.getEffectiveLevel())

    def ask(self, *request: Any) -> Any:
        """Have something done.

        Raises:
            CapecamError: that of the worker; or StoppedError, if it dies of it.
        """
        try:
            self._send(*request)
            while isinstance(answer := self._receive(), _Reading):
                self.reading = answer.names
        except (EOFError, BrokenPipeError):
            raise StoppedError(
                f"a worker ended before its first cell: {self._how()}"
                "; run it with -v, or with --in-process"
            ) from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def make(self, cell: Cell, told: Callable[[int], object]) -> Made:
        """Have a cell made; if the worker dies of it, that is how the cell failed."""
        try:
            self._send("make", cell)
            while isinstance(answer := self._receive(), int):
                told(answer)
        except (EOFError, BrokenPipeError):
            return Made(cell, None, f"its worker ended: {self._how()}")
        if isinstance(answer, BaseException):
            raise answer
        made: Made = answer
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


def serve() -> None:
    """The worker's side: requests in, answers out, until the supervisor ends, however it does.

    Signals to end are the supervisor's affair, also where a service manager sends them to all.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    requests: queue.Queue[tuple[Any, ...]] = queue.Queue()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers

    def listen() -> None:
        while True:
            try:
                requests.put(pickle.load(sys.stdin.buffer))
            except (EOFError, pickle.UnpicklingError):  # cut off, where the supervisor was killed
                os._exit(1)  # in the middle of a cell: what is half-made is cleared by the next run

    def answer(message: object) -> None:
        pickle.dump(message, answers)
        answers.flush()

    threading.Thread(target=listen, daemon=True).start()
    _, settings, level = requests.get()
    logs.begin(level)
    maker: Maker | None = None
    with gdal_settings():
        while True:
            name, *arguments = requests.get()
            try:
                maker = maker or Maker(settings)
                if name == "make":
                    (cell,) = arguments
                    answer(_make(maker, cell, answer))
                elif name == "prepare":
                    city, before = arguments
                    answer(maker.prepare(city, before, lambda names: answer(_Reading(names))))
                else:
                    answer(getattr(maker, name)(*arguments))
            except CapecamError as error:
                answer(error)


def _make(maker: Maker, cell: Cell, tick: Callable[[int], object]) -> Made:
    try:
        return Made(cell, maker.make(cell, tick))
    except Exception as error:  # whatever one image does, the night goes on; exit code 3
        log.debug("cell %s failed", cell.name, exc_info=True)
        if is_of_the_device(error):
            raise  # ends the process; another one takes the next cell
        return Made(cell, None, reason_of(error))
