"""The runs that one server shows, with everything that it has open for them."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import pyproj
import shapely

from capecam.errors import UsageError
from capecam.runtime.lock import lock_file
from capecam.store.run_folder import RunFolder
from capecam.viewer.city import city_json, run_json
from capecam.viewer.explaining import Explainer, explain_problem
from capecam.viewer.files import RunFiles
from capecam.viewer.imagery import Imagery
from capecam.viewer.outlines import OUTLINES, QUEUE, PreparedDetections, read_outline
from capecam.viewer.queue import ReviewQueue
from capecam.viewer.target import Target
from capecam.viewer.verdicts import Verdicts

PREFIX, LOCK = "capecam-view-", ".lock"
"""Names of the temporary folders, and of the file in each that its server has locked."""

PATIENCE_S = 120.0
"""Time that a request waits for the files of the detections, which a city needs at the start."""

NOT_SERVED = "explaining on a click needs capecam view OUT, where the network is"
"""Why a page without a server explains nothing."""


class ServedRun:
    """One run.

    Args:
        out: its folder.
        number: its number on the page.
        folder: an empty folder for files that the server makes.
    """

    def __init__(self, out: Path, number: int, folder: Path) -> None:
        self.number, self.run = number, RunFolder.open_finished(out)
        self.run.detections()  # so that a run without them raises here
        folder.mkdir()
        self.prepared = PreparedDetections(out, folder)
        self.files = RunFiles(self.run)
        self.imagery = Imagery(self.run, folder / "imagery")
        self.imagery_problem = self.imagery.problem()
        self.verdicts = Verdicts(self.run, self.class_and_outline)
        self._opening = threading.Lock()

    @property
    def explain_problem(self) -> str:
        """Why nothing can be explained; "" if it can."""
        return explain_problem(self.run, self.imagery_problem)

    def close(self) -> None:
        """End what is being made."""
        self.prepared.close()
        self.imagery.close()

    @property
    def queue(self) -> ReviewQueue:
        """The review queue; waits until it is made."""
        with self._opening:
            return self._queue

    @cached_property
    def _queue(self) -> ReviewQueue:
        return ReviewQueue(self.prepared.path(QUEUE, PATIENCE_S))

    def row(self, id_: str) -> dict[str, Any]:
        """Return the row of the queue of a detection.

        Raises:
            UsageError: there is none.
        """
        row = self.queue.find(id_)
        if row is None:
            raise UsageError(f"there is no detection {id_[:60]!r}; an id is CLASS_COLUMN_ROW")
        return row

    def class_and_outline(self, id_: str) -> tuple[int, shapely.Geometry]:
        """Return the class of a detection, and its outline in the CRS of the run.

        Raises:
            UsageError: there is no such detection.
        """
        row = self.row(id_)
        path = self.prepared.path(OUTLINES, PATIENCE_S)
        return int(row["class_id"]), read_outline(path, id_, bounds_of(row))

    def target(
        self,
        *,
        id_: str | None = None,
        point: tuple[float, float] | None = None,
        class_id: int | None = None,
    ) -> Target:
        """Return what is to be explained: a detection, or a point in the CRS of the run.

        Raises:
            UsageError: there is no such detection or class.
        """
        if class_id is not None and not 0 < class_id < len(self.run.names):
            raise UsageError(f"class_id must be from 1 to {len(self.run.names) - 1}")
        path = self.prepared.path(OUTLINES, PATIENCE_S)
        if id_ is not None:
            return Target(self.number, path, bounds_of(self.row(id_)), id_, class_id)
        if point is None:
            raise UsageError("no detection and no place is named; give id, or x and y")
        return Target(self.number, path, (*point, *point), None, class_id)


def bounds_of(row: dict[str, Any]) -> tuple[float, float, float, float]:
    """Return west, south, east and north of a row of the queue."""
    return row["west"], row["south"], row["east"], row["north"]


class ServedRuns:
    """All runs of a server: one, or two to compare."""

    def __init__(self, runs: Sequence[ServedRun], explainer: Explainer) -> None:
        self.runs, self.explainer = tuple(runs), explainer

    @classmethod
    @contextmanager
    def open(cls, outs: Sequence[Path]) -> Iterator[ServedRuns]:
        """Open runs, with a temporary folder for what is made of them.

        Raises:
            OutputError: a folder holds no finished run.
            UsageError: two runs are the same, or in different CRSs.
        """
        if len({out.resolve() for out in outs}) < len(outs):
            raise UsageError(
                f"{outs[-1]}: is the same run twice; name another one, or leave it out"
            )
        _remove_leftovers()
        with ExitStack() as files:
            folder = Path(files.enter_context(TemporaryDirectory(prefix=PREFIX)))
            # Under another name until it is locked, or another start could take it for a leftover.
            lock = files.enter_context((folder / f"{LOCK}-new").open("w"))
            lock_file(lock)
            (folder / f"{LOCK}-new").rename(folder / LOCK)
            runs = []
            for number, out in enumerate(outs):
                run = ServedRun(out, number, folder / str(number))
                files.callback(run.close)
                runs.append(run)
            crs = [pyproj.CRS.from_wkt(served.run.grid.crs) for served in runs]
            if crs[0] != crs[-1]:
                raise UsageError(
                    f"{outs[-1]}: its CRS is {crs[-1].name}, that of {outs[0]} is {crs[0].name}; "
                    "open them one at a time"
                )
            explainer = Explainer(outs)
            files.callback(explainer.close)
            yield cls(runs, explainer)

    def city(self, *, served: bool = True) -> dict[str, Any]:
        """Return ``city.json``.

        Args:
            served: whether the page has a server behind it.
        """
        runs = [
            {
                **run_json(each.run, each.number, imagery=not each.imagery_problem),
                "verdicts_problem": each.verdicts.problem() if served else "",
                "explain_problem": each.explain_problem if served else NOT_SERVED,
            }
            for each in self.runs
        ]
        return {"served": served, **city_json(runs, self.runs[0].run)}


def _remove_leftovers() -> None:
    """Remove the folders of servers that were killed; the kernel has ended their locks."""
    for folder in Path(gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # of somebody else, of a server that runs, or not yet locked
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with (folder / LOCK).open("r+") as lock:
                lock_file(lock)
                shutil.rmtree(folder)
