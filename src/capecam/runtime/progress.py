"""Progress of a command: bars on a terminal, lines in a log, JSON for machines."""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Never, Self, TextIO

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

STAGES = {
    "start": ("starting", ""),
    "headers": ("reading headers", "image"),
    "network": ("loading the network", ""),
    "calibration": ("calibrating", "tile"),
    "check": ("comparing with finished cells", ""),
    "cells": ("processing cells", "tile"),
    "statements": ("updating licence and date", "cell"),
    "joining": ("joining objects", ""),
    "evidence": ("measuring evidence", "object"),
    "explanation": ("explaining", "object"),
    "layers": ("writing the city's layers", ""),
    "report": ("writing the report", ""),
    "panels": ("drawing panels", "panel"),
    "audit": ("auditing", "detection"),
    "trial": ("measuring the network", "tile"),
}
"""Title, and unit of what is counted, by stage."""

LINE_S, JSON_S, BAR_S = 60.0, 5.0, 1.0
"""Seconds between lines in a log, lines of JSON, and new times in a bar, whether or not anything
is finished meanwhile."""


@dataclass(frozen=True, slots=True)
class Moment:
    """State of a stage."""

    stage: str
    """One of ``STAGES``."""
    done: int
    total: int | None
    """Largest possible number; None if nothing is counted."""
    elapsed_s: float

    @property
    def per_s(self) -> float | None:
        """Mean rate since the stage began; None before anything is done."""
        return self.done / self.elapsed_s if self.done and self.elapsed_s else None

    @property
    def left_s(self) -> float | None:
        """Time until the stage ends at that rate; None if unknown."""
        if self.total is None or self.per_s is None:
            return None
        return max(0, self.total - self.done) / self.per_s

    def to_json(self) -> dict[str, object]:
        """Return the fields of docs/operations.md."""
        return {
            "stage": self.stage,
            "done": self.done,
            "total": self.total,
            "unit": STAGES[self.stage][1] or None,
            "per_s": self.per_s and round(self.per_s, 3),
            "elapsed_s": round(self.elapsed_s, 1),
            "left_s": None if self.left_s is None else round(self.left_s, 1),
            "text": str(self),
        }

    def __str__(self) -> str:
        """Return a line for people."""
        title, unit = STAGES[self.stage]
        if self.total is None:
            return f"{title}, for {duration(self.elapsed_s)}" if self.elapsed_s >= 1 else title
        parts = [f"{title}: {self.done:,} of {self.total:,} {unit}s"]
        if self.per_s is not None and self.left_s is not None:
            parts += [f"{self.per_s:.3g} {unit}s/s", f"about {duration(self.left_s)} left"]
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """Return a duration in words: 40 s, 12 min, 3 h 20 min, 61 days."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    hours = round(seconds / 3600)
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{seconds / 86400:.0f} days"


class Progress:
    """Hears how far a command is; this one shows nothing, for notebooks and tests.

    A context manager, which ends what is shown.
    """

    def at(self, stage: str, done: int = 0, total: int | None = None) -> None:
        """Note the stage and how far it is; another stage than before begins now.

        Args:
            stage: one of ``STAGES``.
            done: number that is done.
            total: number of all, or the largest possible one.
        """

    def advance(self, count: int) -> None:
        """Note that more is done in this stage."""

    def skip(self, count: int) -> None:
        """Note that the stage has less to do than its total says."""

    def cell(self, name: str, outcome: str, ended: int, cells: int) -> None:
        """Note that a cell has ended, as the n-th of all."""

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


SILENT = Progress()
"""Shows nothing."""


class ShownProgress(Progress):
    """Base class of what is shown; calls from several threads come one after the other.

    Args:
        stream: file that is written to.
        every_s: seconds after which the state is shown again.
    """

    def __init__(self, stream: TextIO, every_s: float) -> None:
        self._stream, self._every_s = stream, every_s
        self._stage, self._done, self._began = "", 0, 0.0
        self._total: int | None = None
        self._lock, self._ended = threading.RLock(), threading.Event()
        self._clock = threading.Thread(target=self._tick, daemon=True)

    @property
    def moment(self) -> Moment:
        """State of the stage."""
        return Moment(self._stage, self._done, self._total, time.monotonic() - self._began)

    def at(self, stage: str, done: int = 0, total: int | None = None) -> None:
        """See :class:`Progress`."""
        with self._lock:
            is_new, self._done, self._total = stage != self._stage, done, total
            if is_new:
                self._stage, self._began = stage, time.monotonic()
                self.begin(Moment(stage, done, total, elapsed_s=0))
            self.change(self.moment)

    def advance(self, count: int) -> None:
        """See :class:`Progress`."""
        with self._lock:
            self._done += count
            self.change(self.moment)

    def skip(self, count: int) -> None:
        """See :class:`Progress`."""
        with self._lock:
            self._total = None if self._total is None else self._total - count
            self.change(self.moment)

    def cell(self, name: str, outcome: str, ended: int, cells: int) -> None:
        """See :class:`Progress`."""
        self.write(f"[{ended}/{cells}] {name}: {outcome}")

    def write(self, line: str) -> None:
        """Write a whole line."""
        self._stream.write(f"{line}\n")
        self._stream.flush()

    def begin(self, moment: Moment) -> None:
        """Show that a stage begins."""

    def change(self, moment: Moment) -> None:
        """Show new numbers, if that is not left to :meth:`repeat`."""

    def repeat(self, moment: Moment) -> None:
        """Show the state again."""

    def _tick(self) -> None:
        while not self._ended.wait(self._every_s):
            with self._lock:
                if self._stage:
                    self.repeat(self.moment)

    def __enter__(self) -> Self:
        """Start the clock."""
        self._clock.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self._ended.set()
        self._clock.join()


class ProgressLines(ShownProgress):
    """Lines in a log: one a stage, one a cell, and one a minute."""

    def begin(self, moment: Moment) -> None:
        """Print the stage."""
        self.write(str(moment))

    def repeat(self, moment: Moment) -> None:
        """Print the state."""
        self.write(str(moment))


class ProgressJson(ShownProgress):
    """One JSON object a line (docs/operations.md)."""

    def begin(self, moment: Moment) -> None:
        """Print the stage."""
        self._print("stage", moment.to_json())

    def repeat(self, moment: Moment) -> None:
        """Print the state."""
        self._print("progress", moment.to_json())

    def cell(self, name: str, outcome: str, ended: int, cells: int) -> None:
        """Print the cell."""
        self._print("cell", {"cell": name, "outcome": outcome, "ended": ended, "cells": cells})

    def _print(self, event: str, fields: dict[str, object]) -> None:
        self.write(json.dumps({"event": event, **fields}))


class ProgressBar(ShownProgress):
    """A bar on a terminal, which log messages do not tear."""

    def __init__(self, stream: TextIO, every_s: float) -> None:
        super().__init__(stream, every_s)
        self._bar: tqdm[Never] | None = None
        self._redirected = ExitStack()

    def begin(self, moment: Moment) -> None:
        """Replace the bar of the stage before."""
        self._close()
        title, unit = STAGES[moment.stage]
        self._bar = tqdm(
            total=moment.total, desc=title, unit=f" {unit}s", leave=False, file=self._stream,
            smoothing=0.1, dynamic_ncols=True,
            bar_format=None if moment.total is not None else "{desc} [{elapsed}]",
        )  # fmt: skip

    def change(self, moment: Moment) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.total = moment.total
            self._bar.update(moment.done - self._bar.n)

    def repeat(self, moment: Moment) -> None:
        """Show the time."""
        self.change(moment)
        if self._bar is not None:
            self._bar.refresh()

    def write(self, line: str) -> None:
        """Write a line above the bar."""
        tqdm.write(line, file=self._stream)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Self:
        """Redirect log messages to lines above the bar."""
        self._redirected.enter_context(logging_redirect_tqdm())
        return super().__enter__()

    def __exit__(self, *_: object) -> None:
        """Remove the bar."""
        super().__exit__()
        self._close()
        self._redirected.close()


def progress_of(kind: str, *, quiet: bool) -> Progress:
    """Return the progress that is asked for.

    Args:
        kind: ``auto`` for people, or ``json``.
        quiet: show nothing to people.
    """
    if kind == "json":
        return ProgressJson(sys.stderr, JSON_S)
    if quiet:
        return Progress()
    if sys.stderr.isatty():
        return ProgressBar(sys.stderr, BAR_S)
    return ProgressLines(sys.stderr, LINE_S)
