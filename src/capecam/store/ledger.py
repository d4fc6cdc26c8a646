"""What is done and what failed: a cell's folder appears whole, and says what it was made from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capecam.errors import OutputError, StoppedError
from capecam.grid import Cell
from capecam.runtime.files import file_facts, write_json
from capecam.store.schemas import Done, Failure, read_record

CELL_JSON = "cell.json"
"""Written last: the cell is done."""
FAILED_JSON = "failed.json"
"""Instead of products: why there are none."""
WORK = ".work-"
"""Prefix of folders in the making, beside the finished cells."""
PROBE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Ledger:
    """The folder OUT/cells."""

    folder: Path

    @classmethod
    def of(cls, out: Path) -> Ledger:
        """That of an output folder, which may not be there yet."""
        return cls(out / "cells")

    @classmethod
    def open(cls, out: Path) -> Ledger:
        """Make the folder.

        Raises:
            OutputError: it cannot be written.
        """
        ledger = cls.of(out)
        try:
            ledger.folder.mkdir(parents=True, exist_ok=True)
            ledger._probe()
        except OSError as error:
            raise OutputError(
                f"cannot write to the output folder {out}: {error.strerror}"
                "; choose another --out, or mend its disk or permissions"
            ) from error
        return ledger

    def check_writable(self) -> None:
        """After a failure: was it the disk?

        Raises:
            StoppedError: it was, so there is no point in going on.
        """
        try:
            self._probe()
        except OSError as error:
            raise StoppedError(
                f"cannot write to {self.folder.parent} any more: {error.strerror}; mend that, and "
                "the same command goes on where it stopped"
            ) from error

    def _probe(self) -> None:
        probe = self.folder / f"{WORK}probe-{os.getpid()}"
        try:
            probe.write_bytes(bytes(PROBE_BYTES))
        finally:
            probe.unlink(missing_ok=True)

    def clear(self, cell: Cell) -> None:
        """Remove what an interrupted run left of a cell half-made."""
        shutil.rmtree(self._work(cell), ignore_errors=True)

    def read(self, name: str) -> dict[str, Any] | None:
        """A cell's record, or None if it is not done."""
        return _read_json(self.folder / name / CELL_JSON, Done)

    def read_failure(self, name: str) -> dict[str, Any] | None:
        """The record of a cell that failed, or None."""
        return _read_json(self.folder / name / FAILED_JSON, Failure)

    def lost(self, name: str, record: Mapping[str, Any]) -> list[str]:
        """Products of a cell that are gone, or not as large as they were written."""
        files: Mapping[str, Mapping[str, Any]] = record.get("files", {})  # none of a failed one
        return [f for f, was in files.items() if _size(self.folder / name / f) != was["bytes"]]

    def done(self) -> list[str]:
        """Names of all finished cells, sorted."""
        return sorted(path.parent.name for path in self.folder.glob(f"*/{CELL_JSON}"))

    def names(self) -> set[str]:
        """Of all cells that have a folder: done, failed or half-made."""
        return {path.name.removeprefix(WORK) for path in self.folder.iterdir() if path.is_dir()}

    def half_made(self) -> set[str]:
        """Of all cells that were in the making when a run was killed, or are now."""
        return {path.name.removeprefix(WORK) for path in self.folder.glob(f"{WORK}*/")}

    @contextmanager
    def making(self, cell: Cell) -> Iterator[Path]:
        """A new folder to work in; nothing of it stays if the work fails.

        Raises:
            StoppedError: the work failed, and the disk is full.
        """
        work = self._work(cell)
        self.clear(cell)
        work.mkdir()
        try:
            yield work
        except Exception:  # of whatever kind, it is raised again, unless the disk was the reason
            self.check_writable()  # as long as what was made is there: without it there is room
            raise
        finally:
            self.clear(cell)

    def commit(self, cell: Cell, work: Path, record: Mapping[str, Any]) -> None:
        """Put a finished folder in its place: in one step, with the record inside."""
        files = {path.name: file_facts(path) for path in sorted(work.iterdir())}
        write_json(work / CELL_JSON, {**record, "files": files})
        self.discard(cell.name)
        work.replace(self.folder / cell.name)

    def refresh(self, name: str, images: Mapping[str, Any]) -> None:
        """Keep new times of images that were only touched, so that they are not read again."""
        record = self.read(name)
        if record is not None and record["images"] != images:
            write_json(self.folder / name / CELL_JSON, {**record, "images": images})

    def fail(self, cell: Cell, record: Mapping[str, Any]) -> None:
        """Remove products, which are out of date and cannot be made again, and say why."""
        self.discard(cell.name)
        (self.folder / cell.name).mkdir()
        write_json(self.folder / cell.name / FAILED_JSON, record)

    def remove(self, name: str) -> None:
        """Everything that there is of a cell, half-made or whole."""
        shutil.rmtree(self.folder / f"{WORK}{name}", ignore_errors=True)
        self.discard(name)

    def discard(self, name: str) -> None:
        """Remove the products of a cell, or the reason why there are none."""
        final = self.folder / name
        (final / CELL_JSON).unlink(missing_ok=True)  # from here on the old cell is not done
        shutil.rmtree(final, ignore_errors=True)

    def _work(self, cell: Cell) -> Path:
        return self.folder / f"{WORK}{cell.name}"


def _read_json(path: Path, shape: type[Done | Failure]) -> dict[str, Any] | None:
    """None, if there is none, or it is damaged: then the cell is made again."""
    try:
        return read_record(path, shape)
    except (OSError, ValueError):
        return None


def _size(path: Path) -> int | None:
    """In bytes; None of a file that is not there."""
    try:
        return path.stat().st_size
    except OSError:
        return None
