"""Reading what many image files say about themselves."""

from __future__ import annotations

import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from rasterio._err import CPLE_BaseError
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError

from capecam.errors import ImageError
from capecam.imagery.crs import crs_of_setting
from capecam.imagery.header import Header, header_of
from capecam.imagery.opening import Trust, check_image, open_image
from capecam.imagery.validation.file_type import describe_damage
from capecam.io.gdal import gdal_settings
from capecam.io.paths import Location
from capecam.runtime import logs
from capecam.settings import ImagerySettings

AS_IS = ImagerySettings()
"""The defaults."""

HEADER_THREADS = 16
"""Disks and networks answer slowly."""

DAMAGED = (RasterioError, CRSError, CPLE_BaseError, UnicodeDecodeError)
"""What an open dataset raises when GDAL finds damage late: reading colour interpretation opens a
mask's directory, and a CRS may have a name that is no text."""

HEADERS_A_PROCESS = 500
"""To make out a CRS without an EPSG code takes GDAL 4 ms, under Python's lock, so that threads do
not help; a process takes 0.6 s to start."""

HEADER_S = 300.0
"""After that long, a disk, a network or a decoder gives no answer any more."""

Answer = Header | ImageError


@dataclass(frozen=True, slots=True)
class HeaderRules:
    """How headers are read."""

    imagery: ImagerySettings = AS_IS
    folders: tuple[str, ...] = ()
    """Real paths of the folders that the user has named."""
    apart: bool = False
    """In a process that may die of a file without harm to the rest."""

    @property
    def trust(self) -> Trust:
        """What may be opened."""
        return Trust(self.imagery.allow_vrt, self.folders)


def read_header(
    path: Location, settings: ImagerySettings = AS_IS, *, apart: bool = False
) -> Header:
    """Check that a file can be used as it is, without decoding any pixel.

    Raises:
        ImageError: what was found instead, and what to do.
    """
    (found,) = read_headers([path], HeaderRules(settings, apart=apart))
    if isinstance(found, ImageError):
        raise found
    return found


def read_headers(paths: Sequence[Location], rules: HeaderRules = HeaderRules()) -> list[Answer]:
    """Those of many files, or why they cannot be used; in processes where there are thousands.

    Raises:
        SettingsError: the CRS to be assigned is none.
    """
    crs_of_setting(rules.imagery.crs)
    count = max(1, min(os.cpu_count() or 1, len(paths) // HEADERS_A_PROCESS))
    items = list(enumerate(paths))
    if count == 1 and not rules.apart:
        here: list[Any] = [None] * len(items)
        _read_here(items, rules, HEADER_THREADS, here.__setitem__)
        return here
    edges = [len(items) * n // count for n in range(count + 1)]
    shares = [items[start:stop] for start, stop in pairwise(edges)]
    found: dict[int, Answer] = {}
    with ThreadPoolExecutor(count) as threads:
        for part in threads.map(lambda share: _read_apart(share, rules), shares):
            found |= part
    return [found[index] for index, _ in items]


Item = tuple[int, Location]


def _read_here(
    items: Sequence[Item], rules: HeaderRules, threads: int, tell: Callable[[int, Any], object]
) -> None:
    """``tell`` hears None when a file is begun, and then its answer."""

    def read(item: Item) -> None:
        index, path = item
        tell(index, None)
        tell(index, _answer(path, rules))

    with warnings.catch_warnings(), gdal_settings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        list(pool.map(read, items))


def _answer(path: Location, rules: HeaderRules) -> Answer:
    try:
        check_image(path, rules.trust)
        with open_image(path) as dataset:
            return header_of(path, dataset, rules.imagery)
    except DAMAGED as error:
        return ImageError(
            f"{path}: not a readable GeoTIFF ({describe_damage(path, error)}); deliver it again, "
            "or check its path"
        )
    except ImageError as error:
        return error
    except OSError as error:
        return ImageError(
            f"{path}: cannot be read ({error.strerror or error}); try again, or check its disk"
        )


def _read_apart(
    items: Sequence[Item], rules: HeaderRules, threads: int = HEADER_THREADS
) -> dict[int, Answer]:
    """In a process of its own; one of which it dies fails alone.

    Those that were being read when it died are then read one after the other, so that the guilty
    one is known.
    """
    found: dict[int, Answer] = {}
    rest = list(items)
    while rest:
        child = _Child(rest, rules, threads)
        found |= child.run()
        suspects = [item for item in rest if item[0] in child.reading]
        if len(suspects) > 1 and threads > 1 and not child.late:
            found |= _read_apart(suspects, rules, 1)
        elif child.how:  # without suspects it is not the files
            found |= {i: ImageError(f"{path}: {child.how}") for i, path in suspects or rest}
        rest = [item for item in rest if item[0] not in found]
    return found


@dataclass(slots=True)
class _Child:
    """A process that reads headers, and what it said before it ended."""

    items: Sequence[Item]
    rules: HeaderRules
    threads: int
    reading: dict[int, float] = field(default_factory=dict)
    """Since when (s) those are being read that have no answer yet."""
    how: str = ""
    """Why it ended before its time."""
    late: bool = False
    """It did not end by itself: those in ``reading`` have had their time."""

    def run(self) -> dict[int, Answer]:
        """All answers that it gives."""
        found: dict[int, Answer] = {}
        with subprocess.Popen(
            [sys.executable, "-c", "from capecam.imagery.header_reader import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C goes to the main process alone
        ) as process:
            messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
            listener = threading.Thread(target=self._listen, args=(process, messages), daemon=True)
            listener.start()
            try:
                self._talk(process, messages, found)
            finally:
                process.kill()
                listener.join()  # before its pipe is closed
        return found

    def _talk(
        self,
        process: subprocess.Popen[bytes],
        messages: queue.SimpleQueue[Any],
        found: dict[int, Answer],
    ) -> None:
        # Until the last answer, and not until the process has ended: a decoder may hang there, too.
        while len(found) < len(self.items) and (message := self._next(messages)) is not None:
            index, answer = message
            if answer is None:
                self.reading[index] = time.monotonic()
            else:
                self.reading.pop(index, None)
                found[index] = answer
        if len(found) < len(self.items) and not self.how:
            self.how = f"the decoder crashed ({_ending(process.wait())}); deliver it again"

    def _next(self, messages: queue.SimpleQueue[Any]) -> Any:
        """None: no more come, or one file has had its time."""
        while True:
            oldest = min(self.reading.values(), default=time.monotonic())
            try:
                return messages.get(timeout=max(0.1, oldest + HEADER_S - time.monotonic()))
            except queue.Empty:
                limit = time.monotonic() - HEADER_S
                overdue = {index: since for index, since in self.reading.items() if since <= limit}
                if overdue or not self.reading:  # it may hang before it reads any
                    self.reading, self.late = overdue, True
                    self.how = f"gives no answer within {HEADER_S:.0f} s; check its disk or network"
                    return None

    def _listen(self, process: subprocess.Popen[bytes], messages: queue.SimpleQueue[Any]) -> None:
        """In a thread: a pipe cannot be asked for a while only."""
        try:
            with process.stdin as pipe:  # type: ignore[union-attr]
                pickle.dump((self.items, self.rules, self.threads), pipe)
            while True:
                messages.put(pickle.load(process.stdout))  # type: ignore[arg-type]
        except (EOFError, OSError, pickle.UnpicklingError):
            messages.put(None)


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def serve() -> None:
    """The child's side: ``(index, None)`` when a file is begun, then ``(index, answer)``."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    items, rules, threads = pickle.load(sys.stdin.buffer)
    logs.configure(logging.INFO)
    lock = threading.Lock()

    def tell(index: int, answer: Answer | None) -> None:
        with lock:
            pickle.dump((index, answer), answers)
            answers.flush()

    _read_here(items, rules, threads, tell)
