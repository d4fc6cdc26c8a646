"""Statements about their origin in the files of finished cells, brought up to date.

The licence, attribution and capture date of a run may change; its pixels do not. The rasters of a
cell then get other tags, and the bytes that they would have if they had been made with these.
"""

from __future__ import annotations

import logging
import struct
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pyarrow import ArrowException

from capecam.imagery.header_reader import DAMAGED
from capecam.io.cog import copy_with_tags
from capecam.io.parquet_texts import OLD_COMPRESSION, copy_with_texts
from capecam.runtime.files import atomic_write
from capecam.runtime.machine import usable_cpus
from capecam.runtime.progress import SILENT, Progress
from capecam.store.about import About
from capecam.store.ledger import CELL_JSON
from capecam.store.records import CellRecord, FileFacts
from capecam.store.run_folder import RunFolder

log = logging.getLogger(__name__)

UNREADABLE = (*DAMAGED, ArrowException, LookupError, OSError, ValueError, struct.error)
"""Errors of copying a damaged file."""


def update_statements(run: RunFolder, progress: Progress = SILENT) -> RunFolder:
    """Write what holds now into the files of every cell that says something else.

    A cell with a damaged file stays as it is, so that ``capecam verify`` still finds the damage.

    Args:
        run: with all finished cells.
        progress: hears how many cells are done.
    """
    outdated = {
        name: about
        for name, cell in run.cells.items()
        if (about := run.about_cell(name)) != cell.about
    }
    if not outdated:
        return run
    log.info("%d cells get new statements (licence, capture date ...)", len(outdated))
    progress.at("statements", 0, len(outdated))

    def update(name: str) -> CellRecord:
        record = _update(run, name, outdated[name])
        progress.advance(1)
        return record

    with ThreadPoolExecutor(usable_cpus()) as threads:
        records = list(threads.map(update, outdated))
    return replace(run, cells={**run.cells, **dict(zip(outdated, records, strict=True))})


def _update(run: RunFolder, name: str, about: About) -> CellRecord:
    """Rewrite the files of a cell, and return its new record."""
    record = run.cells[name]
    for file, facts in record.files.items():
        path = run.path(name, file)
        if not facts.are_of(path) and not _said_otherwise(path, facts, record.about):
            log.warning("%s: is not as it was written; its licence and date stay as they are", path)
            return record
    with ExitStack() as files:
        written = {}
        for file, facts in record.files.items():
            path = run.path(name, file)
            copy = files.enter_context(atomic_write(path))
            _copy(path, copy, about)
            new = FileFacts.of(copy)
            written[file] = new.model_copy(update={"content": facts.version})
    record = record.model_copy(update={"files": written, "about": about})
    record.write(run.path(name, CELL_JSON))
    return record


def _said_otherwise(path: Path, facts: FileFacts, about: About | None) -> bool:
    """Return whether a file is as it was written if it gets the statements of its record again.

    It has others after an interruption before they were recorded.
    """
    with TemporaryDirectory(dir=path.parent, prefix=".said-") as folder:
        copy = Path(folder, path.name)
        try:
            _copy(path, copy, about)
        except UNREADABLE:
            return False
        return facts.are_of(copy)


def _copy(path: Path, copy: Path, about: About | None) -> None:
    """Write a copy with other statements; None: as version 0.1 wrote it, which knew none."""
    if path.suffix == ".tif":
        copy_with_tags(path, copy, about.tiff_tags() if about else {})
    elif about:
        copy_with_texts(path, copy, about.texts())
    else:
        copy_with_texts(path, copy, {}, OLD_COMPRESSION)
