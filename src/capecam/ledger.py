"""What is done: a cell's folder appears whole, and says what it was made from."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from capecam import __version__
from capecam.cell import CellReport, Job
from capecam.errors import OutputError
from capecam.grid import Cell

CELL_JSON = "cell.json"
WORK = ".work-"
"""Prefix of folders in the making, beside the finished cells."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """The folder OUT/cells."""

    folder: Path

    @classmethod
    def open(cls, out: Path) -> Ledger:
        """Make the folder and clear what an interrupted run left half-made.

        Raises:
            OutputError: it cannot be written.
        """
        folder = out / "cells"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for stale in folder.glob(f"{WORK}*"):
                shutil.rmtree(stale)
            (probe := folder / f"{WORK}probe").mkdir()
            probe.rmdir()
        except OSError as error:
            raise OutputError(
                f"cannot write to the output folder {out}: {error.strerror}"
            ) from error
        return cls(folder)

    def is_done(self, cell: Cell, basis: Mapping[str, Any]) -> bool:
        """Whether a cell is finished and was made from exactly this."""
        found = self.read(cell.name)
        return found is not None and found.get("basis") == json.loads(json.dumps(basis))

    def read(self, name: str) -> dict[str, Any] | None:
        """A cell's record, or None if it is not done."""
        try:
            record: dict[str, Any] = json.loads((self.folder / name / CELL_JSON).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return record

    def done(self) -> list[str]:
        """Names of all finished cells, sorted."""
        return sorted(path.parent.name for path in self.folder.glob(f"*/{CELL_JSON}"))

    @contextmanager
    def making(self, cell: Cell) -> Iterator[Path]:
        """A new folder to work in; nothing of it stays if the work fails."""
        work = self.folder / f"{WORK}{cell.name}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def commit(self, cell: Cell, work: Path, record: Mapping[str, Any]) -> None:
        """Put a finished folder in its place: in one step, with the record inside."""
        files = {path.name: _facts(path) for path in sorted(work.iterdir())}
        write_json(work / CELL_JSON, {**record, "files": files})
        final = self.folder / cell.name
        (final / CELL_JSON).unlink(missing_ok=True)  # from here on the old cell is not done
        shutil.rmtree(final, ignore_errors=True)
        work.replace(final)

    def discard(self, cell: Cell) -> None:
        """Remove products that are out of date, where they cannot be made again."""
        (self.folder / cell.name / CELL_JSON).unlink(missing_ok=True)
        shutil.rmtree(self.folder / cell.name, ignore_errors=True)


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def basis(cell: Cell, job: Job) -> dict[str, Any]:
    """Everything that a cell's pixels depend on; if it is the same, so are they."""
    settings = job.settings
    reach = settings.tiling.tiling.reach(cell.core)
    return {
        "capecam": __version__,
        "core": asdict(cell.core),
        "grid": {"anchor": job.mosaic.grid.anchor, "pixel": job.mosaic.grid.pixel},
        "images": {s.name: _stamp(s.header.path) for s in job.mosaic.touching(reach)},
        "checkpoint": job.engine.model.sha256,
        "precision": job.engine.precision,
        "model": settings.model.model_dump(mode="json"),
        "tiling": settings.tiling.model_dump(mode="json", include={"size", "overlap", "stride"}),
        "explain": settings.explain.model_dump(
            mode="json", include={"methods", "score", "where", "heatmap_dtype"}
        ),
        "calibration": job.calibration.tops,
    }


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def record(
    cell: Cell, report: CellReport, made_from: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """What cell.json says, beside its files."""
    return {
        "cell": cell.name,
        "image": cell.image,
        "status": "done",
        **asdict(report),
        "seconds": round(seconds, 3),
        "basis": made_from,
    }


def write_json(path: Path, tree: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` that takes its place when the block succeeds."""
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
