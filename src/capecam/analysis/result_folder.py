"""The folder into which a command on a finished run writes its result."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from capecam.errors import OutputError

log = logging.getLogger(__name__)

READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}

NO_FOLDER = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
"""Errors of a folder that is a file, below a file, or behind a broken link."""


@contextmanager
def result_folder(out: Path, to: Path | None) -> Iterator[Path]:
    """Yield the folder for the files of a result, which is printed as well.

    Where the run's own folder turns out to be read-only, the block ends with a warning.

    Args:
        out: folder of the run.
        to: another folder, made if need be.

    Raises:
        OutputError: the other folder cannot be made or written.
    """
    if to is not None:
        try:
            to.mkdir(parents=True, exist_ok=True)
            yield to
        except OSError as error:
            if error.errno not in READ_ONLY | NO_FOLDER:
                raise
            raise OutputError(
                f"{to} cannot be made or written: {error.strerror}; name another folder with --to"
            ) from error
        return
    try:
        yield out
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        log.warning(
            "%s: %s, so the result is not saved; --to FOLDER saves it elsewhere",
            out, error.strerror,
        )  # fmt: skip
