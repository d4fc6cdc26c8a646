"""One run at a time in an output folder."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from capecam.errors import OutputError

log = logging.getLogger(__name__)

NAME = ".lock"
UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


@contextmanager
def output_lock(out: Path, shard: tuple[int, int] | None = None) -> Iterator[None]:
    """Hold an output folder, or a share of it beside other shards.

    The kernel holds the lock for as long as the process lives, so that of a dead run is free.

    Raises:
        OutputError: another run has it; it says which.
    """
    with ExitStack() as stack:
        _lock(
            stack.enter_context((out / NAME).open("a+")), fcntl.LOCK_SH if shard else fcntl.LOCK_EX
        )
        if shard:
            share = out / f"{NAME}-{shard[0]}-of-{shard[1]}"
            _lock(stack.enter_context(share.open("a+")), fcntl.LOCK_EX)
        yield


def _lock(file: IO[str], kind: int) -> None:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        who, folder = file.read().strip() or "another run", Path(file.name).parent
        raise OutputError(
            f"{folder} is in use by {who}; wait until it ends, or choose another --out"
        ) from None
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        log.warning("%s: this filesystem knows no locks; start no second run here", file.name)
    holder = {"host": platform.node(), "pid": os.getpid(), "since": time.strftime("%F %T")}
    file.seek(0)
    file.truncate()
    file.write(json.dumps(holder) + "\n")
    file.flush()
