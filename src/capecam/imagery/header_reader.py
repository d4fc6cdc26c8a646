"""Reading the headers of many image files."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise

from rasterio._err import CPLE_BaseError
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError

from capecam.errors import ImageError
from capecam.imagery.crs import crs_of_setting
from capecam.imagery.header import Header, header_of
from capecam.imagery.opening import Trust, check_image, open_image
from capecam.imagery.validation.file_type import damage_remedy, describe_damage
from capecam.io.gdal import gdal_settings
from capecam.io.paths import Location
from capecam.runtime import logs
from capecam.runtime.child_process import ChildDiedError, ChildProcess, ParentConnection
from capecam.runtime.machine import usable_cpus
from capecam.settings import ImagerySettings

DEFAULTS = ImagerySettings()

HEADER_THREADS = 16
"""Number of threads, since disks and networks answer slowly."""

DAMAGED = (RasterioError, CRSError, CPLE_BaseError, UnicodeDecodeError)
"""Errors that an open dataset raises when GDAL finds damage late: reading colour interpretation
opens a mask's directory, and the name of a CRS may not be text."""

HEADERS_A_PROCESS = 500
"""Number of files from which a second process is worth it. GDAL takes 4 ms to identify a CRS
without an EPSG code and holds Python's lock meanwhile, so that threads do not help; a process takes
0.6 s to start."""

HEADER_S = 300.0
"""Seconds after which a disk, a network or a decoder is not expected to answer any more."""

Answer = Header | ImageError
Item = tuple[int, Location]
"""Index of a file among all, and its path."""


@dataclass(frozen=True, slots=True)
class HeaderRules:
    """Options of reading headers."""

    imagery: ImagerySettings = DEFAULTS
    folders: tuple[str, ...] = ()
    """Real paths of the folders that the user has named."""
    apart: bool = False
    """Read in a child process, which a file may crash without harm to the rest."""
    align: str = "snap"
    """Treatment of images that are not on the grid, for the message on those that fail anyway."""

    @property
    def trust(self) -> Trust:
        """Rules for the files that may be opened."""
        return Trust(self.imagery.allow_vrt, self.folders)


def read_header(
    path: Location,
    settings: ImagerySettings = DEFAULTS,
    *,
    apart: bool = False,
    align: str = "snap",
) -> Header:
    """Check that a file can be used as it is, without decoding any pixel.

    Raises:
        ImageError: the file cannot be used; the message says why, and what to do.
    """
    (answer,) = read_headers([path], HeaderRules(settings, apart=apart, align=align))
    if isinstance(answer, ImageError):
        raise answer
    return answer


def read_headers(
    paths: Sequence[Location],
    rules: HeaderRules = HeaderRules(),
    on_read: Callable[[], object] = lambda: None,
) -> list[Answer]:
    """Read the headers of many files, in several processes if there are thousands.

    Args:
        paths: of the files.
        rules: for all of them.
        on_read: called after each file, from several threads.

    Returns:
        A header or an error for each path.

    Raises:
        SettingsError: the CRS to be assigned is not valid.
    """
    crs_of_setting(rules.imagery.crs)
    count = max(1, min(usable_cpus(), len(paths) // HEADERS_A_PROCESS))
    items = list(enumerate(paths))
    answers: dict[int, Answer] = {}
    if count == 1 and not rules.apart:

        def on_answer(index: int, answer: Answer) -> None:
            answers[index] = answer
            on_read()

        _read_here(items, rules, HEADER_THREADS, on_answer)
    else:
        edges = [len(items) * n // count for n in range(count + 1)]
        shares = [items[start:stop] for start, stop in pairwise(edges)]
        with ThreadPoolExecutor(count) as threads:
            for part in threads.map(lambda share: _read_apart(share, rules, on_read), shares):
                answers |= part
    return [answers[index] for index, _ in items]


def _read_here(
    items: Sequence[Item],
    rules: HeaderRules,
    threads: int,
    on_answer: Callable[[int, Answer], object],
    on_start: Callable[[int], object] = lambda _index: None,
) -> None:
    """Read headers in threads of this process."""

    def read(item: Item) -> None:
        index, path = item
        on_start(index)
        on_answer(index, _answer(path, rules))

    with warnings.catch_warnings(), gdal_settings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        list(pool.map(read, items))


def _answer(path: Location, rules: HeaderRules) -> Answer:
    try:
        check_image(path, rules.trust)
        with open_image(path) as dataset:
            return header_of(path, dataset, rules.imagery, rules.align)
    except DAMAGED as error:
        remedy = damage_remedy(error) or "deliver it again, or check its path"
        return ImageError(
            f"{path}: not a readable GeoTIFF ({describe_damage(path, error)}); {remedy}"
        )
    except ImageError as error:
        return error
    except OSError as error:
        return ImageError(
            f"{path}: cannot be read ({error.strerror or error}); try again, or check its disk"
        )


def _read_apart(
    items: Sequence[Item],
    rules: HeaderRules,
    on_read: Callable[[], object],
    threads: int = HEADER_THREADS,
) -> dict[int, Answer]:
    """Read headers in a child process; a file that crashes it fails alone.

    The files that were being read at the crash are read again one after the other, so that it is
    known which of them crashes the process.
    """
    answers: dict[int, Answer] = {}
    rest = list(items)
    while rest:
        reading = _Reading()
        reading.run(rest, rules, threads, on_read)
        answers |= reading.answers
        suspects = [item for item in rest if item[0] in reading.started]
        if len(suspects) > 1 and threads > 1 and not reading.is_late:
            answers |= _read_apart(suspects, rules, on_read, 1)
        elif reading.failure:  # without suspects it is not the files
            answers |= {i: ImageError(f"{p}: {reading.failure}") for i, p in suspects or rest}
        rest = [item for item in rest if item[0] not in answers]
    return answers


@dataclass(slots=True)
class _Reading:
    """The messages of one child process that reads headers."""

    answers: dict[int, Answer] = field(default_factory=dict)
    started: dict[int, float] = field(default_factory=dict)
    """Times (s) at which the files were begun that have no answer yet."""
    failure: str = ""
    """Reason why the process did not answer for all files."""
    is_late: bool = False
    """It was stopped, since the files in ``started`` took too long."""

    def run(
        self,
        items: Sequence[Item],
        rules: HeaderRules,
        threads: int,
        on_read: Callable[[], object],
    ) -> None:
        """Start the process and take its messages until all files have an answer.

        It is not waited for, since a decoder may hang when the process ends.
        """
        child = ChildProcess(_serve, items, rules, threads)
        try:
            while len(self.answers) < len(items):
                now = time.monotonic()
                oldest = min(self.started.values(), default=now)
                try:
                    index, answer = child.receive(max(0.1, oldest + HEADER_S - now))
                except TimeoutError:
                    limit = max(oldest, time.monotonic() - HEADER_S)
                    # Empty if the process hangs before it reads any file.
                    self.started = {i: t for i, t in self.started.items() if t <= limit}
                    self.is_late = True
                    self.failure = (
                        f"gives no answer within {HEADER_S:.0f} s; check its disk or network"
                    )
                    return
                if answer is None:
                    self.started[index] = time.monotonic()
                else:
                    self.started.pop(index, None)
                    self.answers[index] = answer
                    on_read()
        except ChildDiedError as error:
            self.failure = f"the decoder crashed ({error}); deliver it again"
        finally:
            child.kill()


def _serve(
    parent: ParentConnection, items: Sequence[Item], rules: HeaderRules, threads: int
) -> None:
    """Send ``(index, None)`` when a file is begun, and ``(index, answer)`` when it is read."""
    logs.configure(logging.INFO)
    _read_here(
        items,
        rules,
        threads,
        on_start=lambda index: parent.send((index, None)),
        on_answer=lambda index, answer: parent.send((index, answer)),
    )
