"""Locks of files, and of an output folder: one run at a time."""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from capecam.errors import OutputError, UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

NAME = ".lock"
UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


def lock_file(file: IO[str] | int, *, shared: bool = False, wait: bool = False) -> None:
    """Lock an open file; the kernel releases the lock when the file is closed or the process ends.

    Args:
        file: the file, or its descriptor.
        shared: allow other shared locks beside this one.
        wait: wait until other locks are released.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the filesystem has no locks.
        UsageError: the system has none.
    """
    if fcntl is None:
        raise UsageError(
            "this system has no POSIX file locks, which keep two commands from writing to one "
            "place; use Linux or macOS, and on Windows WSL"
        )
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    fcntl.flock(file, kind if wait else kind | fcntl.LOCK_NB)


@contextmanager
def output_lock(out: Path, shard: tuple[int, int] | None = None) -> Iterator[None]:
    """Lock an output folder, or one shard of it.

    The kernel releases the lock when the process ends, however it does.

    Args:
        out: the folder.
        shard: number of the shard and of all shards; they can run at the same time.

    Raises:
        OutputError: another run holds the lock; the message names it.
        UsageError: the system has no locks.
    """
    with ExitStack() as stack:
        file = stack.enter_context((out / NAME).open("a+"))
        _lock(file, shared=shard is not None)
        if shard:
            path = out / f"{NAME}-{shard[0]}-of-{shard[1]}"
            _lock(stack.enter_context(path.open("a+")))
        yield


def _lock(file: IO[str], *, shared: bool = False) -> None:
    try:
        lock_file(file, shared=shared)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another run"
        raise OutputError(
            f"{Path(file.name).parent} is in use by {holder}; wait until it ends, "
            "or choose another --out"
        ) from None
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        log.warning("%s: this filesystem has no locks; start no second run here", file.name)
    this_run = {"host": platform.node(), "pid": os.getpid(), "since": time.strftime("%F %T")}
    file.seek(0)
    file.truncate()
    file.write(json.dumps(this_run) + "\n")
    file.flush()
