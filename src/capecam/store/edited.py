"""Copies of the files in a run's folder that people have edited, before they are replaced."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from capecam.errors import OutputError
from capecam.io.geopackage import copy_geopackage
from capecam.runtime.files import atomic_write, file_digest
from capecam.store.file_names import SUMMARY
from capecam.store.records import FileFacts

log = logging.getLogger(__name__)

FOLDER = "edited"
"""Folder in the run's own for what people wrote; nothing in it is ever overwritten."""

SMALL = ("*.qml", SUMMARY)
"""Files of the city that are written again even where nothing has changed, since ``capecam verify``
compares them."""


def is_edited(path: Path, written: Mapping[str, FileFacts]) -> bool:
    """Return whether there is a file, and not as capecam last wrote it; a folder is none."""
    facts = written.get(path.name)
    return path.is_file() and not (facts and facts.are_of(path))


def keep_edited(out: Path, written: Mapping[str, FileFacts]) -> None:
    """Keep copies of the styles and the summary of a city that somebody has edited."""
    for path in sorted(path for pattern in SMALL for path in out.glob(pattern)):
        if path.name in written and is_edited(path, written):
            set_aside(path)


def set_aside(path: Path) -> None:
    """Copy a file into the folder for edited ones, unless it is there already, and say so.

    Raises:
        OutputError: there is something else in place of the folder.
    """
    folder = path.parent / FOLDER
    try:
        folder.mkdir(exist_ok=True)
    except FileExistsError as error:
        raise OutputError(
            f"{folder}: is no folder, so that {path.name}, which is not as capecam wrote it, "
            "cannot be kept there; move it elsewhere"
        ) from error
    if file_digest(path) in map(file_digest, folder.glob(f"{path.stem}-*{path.suffix}")):
        return
    names = (folder / f"{path.stem}-{n}{path.suffix}" for n in count(1))
    copy = next(name for name in names if not name.exists())
    with atomic_write(copy) as temporary:
        (copy_geopackage if path.suffix == ".gpkg" else shutil.copy2)(path, temporary)
    log.warning("%s is not as capecam wrote it; it is written again, and kept as %s", path, copy)
