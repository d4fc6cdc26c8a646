"""Folders of cells: which are done or failed. A cell's folder appears whole, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from capecam.errors import OutputError, StoppedError
from capecam.grid import Cell
from capecam.store.records import (
    CellRecord,
    FailureRecord,
    FileFacts,
    ImageFacts,
    R,
    read_record,
)

CELL_JSON = "cell.json"
"""Written last: the cell is done."""
FAILED_JSON = "failed.json"
"""In place of products: why the cell has none."""
WORK = ".work-"
"""Prefix of the folders of cells in progress, beside the finished cells."""
PROBE_BYTES = 1 << 20
FULL = {errno.ENOSPC, errno.EDQUOT}
"""Codes of a full disk, or of one on which no more may be used."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """The folder OUT/cells."""

    folder: Path

    @classmethod
    def of(cls, out: Path) -> Ledger:
        """Return the ledger of an output folder, which may not exist yet."""
        return cls(out / "cells")

    @classmethod
    def open(cls, out: Path) -> Ledger:
        """Create the folder.

        Raises:
            OutputError: it cannot be written.
        """
        ledger = cls.of(out)
        try:
            ledger.folder.mkdir(parents=True, exist_ok=True)
            ledger._probe()
        except OSError as error:
            is_dangling = out.is_symlink() and not out.exists()
            reason = "it is a link that leads nowhere" if is_dangling else error.strerror
            raise OutputError(
                f"cannot write to the output folder {out}: {reason}"
                "; choose another --out, or fix its disk or permissions"
            ) from error
        return ledger

    def check_writable(self, failure: Exception | None = None) -> None:
        """Check, after a failure, that the disk was not its cause.

        Args:
            failure: the failure, if it is known: it may say itself that the disk is full, which a
                new file cannot tell where unnamed files have given back their space.

        Raises:
            StoppedError: it was, so there is no point in continuing.
        """
        try:
            if isinstance(failure, OSError) and failure.errno in FULL:
                raise failure
            self._probe()
        except OSError as error:
            raise StoppedError(
                f"cannot write to {self.folder.parent} any more: {error.strerror}; fix that, and "
                "the same command continues where it stopped"
            ) from error

    def _probe(self) -> None:
        probe = self.folder / f"{WORK}probe-{os.getpid()}"
        try:
            probe.write_bytes(bytes(PROBE_BYTES))
        finally:
            probe.unlink(missing_ok=True)

    def read(self, name: str) -> CellRecord | None:
        """Return the record of a cell, or None if it is not done, or its record is damaged."""
        return _read_or_none(self.folder / name / CELL_JSON, CellRecord)

    def read_failure(self, name: str) -> FailureRecord | None:
        """Return the record of a cell that failed, or None."""
        return _read_or_none(self.folder / name / FAILED_JSON, FailureRecord)

    def read_any(self, name: str) -> CellRecord | FailureRecord | None:
        """Return the record of a cell that is done or failed, or None."""
        return self.read(name) or self.read_failure(name)

    def lost_products(self, name: str, record: CellRecord) -> list[str]:
        """Return the products of a cell that are gone, or not as large as they were written."""
        folder = self.folder / name
        return [file for file, facts in record.files.items() if _size(folder / file) != facts.bytes]

    def done(self) -> list[str]:
        """Return the names of all finished cells, sorted."""
        return sorted(path.parent.name for path in self.folder.glob(f"*/{CELL_JSON}"))

    def names(self) -> set[str]:
        """Return the names of all cells that have a folder: done, failed or in progress."""
        return {path.name.removeprefix(WORK) for path in self.folder.iterdir() if path.is_dir()}

    def interrupted(self) -> set[str]:
        """Return the names of all cells that were in progress when a run was killed, or are now."""
        return {path.name.removeprefix(WORK) for path in self.folder.glob(f"{WORK}*/")}

    @contextmanager
    def work_folder(self, cell: Cell) -> Iterator[Path]:
        """Create a folder to work in, which is removed if the work fails.

        Raises:
            StoppedError: the work failed, and the disk is full.
        """
        work = self._work(cell.name)
        self.clear(cell)
        work.mkdir()
        try:
            yield work
        except Exception as error:  # of any kind: it is raised again, unless it is the disk's
            self.check_writable(error)  # before the folder is removed, which would free the disk
            raise
        finally:
            self.clear(cell)

    def commit(self, cell: Cell, work: Path, record: CellRecord) -> None:
        """Move a finished folder to its final name, in one step, with the record inside."""
        record.write(work / CELL_JSON)
        self.discard(cell.name)
        work.replace(self.folder / cell.name)

    def refresh(self, name: str, images: Mapping[str, ImageFacts]) -> None:
        """Record new times of images that were only touched, so that they are not hashed again."""
        record = self.read(name)
        if record is not None and record.images != images:
            record.model_copy(update={"images": images}).write(self.folder / name / CELL_JSON)

    def fail(self, cell: Cell, record: FailureRecord) -> None:
        """Replace the products of a cell, which are out of date, by the reason of its failure."""
        self.discard(cell.name)
        (self.folder / cell.name).mkdir()
        record.write(self.folder / cell.name / FAILED_JSON)

    def clear(self, cell: Cell) -> None:
        """Remove the folder of a cell in progress, which an interrupted run may have left."""
        shutil.rmtree(self._work(cell.name), ignore_errors=True)

    def remove(self, name: str) -> None:
        """Remove every folder of a cell."""
        shutil.rmtree(self._work(name), ignore_errors=True)
        self.discard(name)

    def discard(self, name: str) -> None:
        """Remove the products of a cell, or the record of its failure."""
        final = self.folder / name
        (final / CELL_JSON).unlink(missing_ok=True)  # from here on the old cell is not done
        shutil.rmtree(final, ignore_errors=True)

    def _work(self, name: str) -> Path:
        return self.folder / f"{WORK}{name}"


def products_in(folder: Path) -> dict[str, FileFacts]:
    """Return the size and checksum of every file in a folder, by name."""
    return {path.name: FileFacts.of(path) for path in sorted(folder.iterdir())}


def _read_or_none(path: Path, record: type[R]) -> R | None:
    try:
        return read_record(path, record)
    except (OSError, ValueError):
        return None


def _size(path: Path) -> int | None:
    """Return the bytes of a file, or None if it does not exist."""
    try:
        return path.stat().st_size
    except OSError:
        return None
