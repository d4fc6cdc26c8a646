"""The process that measures evidence while cells are being made."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Self

from capecam.detections.early_evidence import measure_beside
from capecam.grid import Cell
from capecam.runtime.child_process import ChildDiedError, ChildProcess

log = logging.getLogger(__name__)

FEW = 10
"""Number of pending cells up to which no process is started: it takes longer than their objects."""

STOP_S = 30.0
"""Seconds for which its last cell is waited for; a cell with 3,000 objects takes as long."""


class EarlyEvidenceProcess:
    """Measures the evidence of objects beside the run, as soon as the cells near them are done.

    A context manager. Whatever is not measured here is measured after the last cell.

    Args:
        out: folder of the run, with its ``run.json``.
        cells: all cells of the run.
        pending: those that are still to be made.
        wanted: False if the run is to have no other processes.
    """

    def __init__(
        self, out: Path, cells: Sequence[Cell], pending: Collection[Cell], *, wanted: bool
    ) -> None:
        self._out, self._wanted = out, wanted
        self._cores = {cell.name: cell.core for cell in cells}
        self._pending = {cell.name for cell in pending}
        self._child: ChildProcess | None = None

    def settled(self, cell: Cell) -> None:
        """Note that a cell is done or has failed."""
        if self._child is None and self._wanted and len(self._pending) > FEW:
            self._child = ChildProcess(measure_beside, self._out, self._cores, self._pending)
        self._pending.discard(cell.name)
        if self._child is not None:
            try:
                self._child.send(cell.name)
            except ChildDiedError as error:
                self._give_up(str(error))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the process; after an exception at once."""
        if self._child is None:
            return
        if kind is None:
            try:
                self._child.send(None)
                if problem := self._child.receive(STOP_S):
                    self._give_up(problem)
            except TimeoutError:
                log.debug("the evidence of the last cells is measured again")
            except ChildDiedError as error:
                self._give_up(str(error))
        if self._child is not None:
            self._child.kill()

    def _give_up(self, reason: str) -> None:
        log.warning("evidence is measured after the last cell, and not before: %s", reason)
        if self._child is not None:
            self._child.kill()
        self._child, self._wanted = None, False
