"""The heap of a process: memory that is freed is kept for the next batch."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of mallopt(3)."""

TRIM_S = 30.0
"""Seconds between two trims: one takes a tenth of a second, and the next batch pages in again."""


def keep_heap() -> None:
    """Let glibc keep freed memory, instead of giving it back and paging it in again.

    An explanation of a batch allocates and frees a gigabyte in tensors of up to 26 MB (FPN
    resnext50_32x4d, 4 tiles of 320 px): without this a tenth of its time is page faults
    (docs/performance.md). Batches of many sizes leave gaps that none of the next fits into, so
    that the heap would grow for hours; a thread gives all of it back now and then. Elsewhere than
    on Linux with glibc nothing happens.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    mallopt, trim = (getattr(libc, name, None) for name in ("mallopt", "malloc_trim"))
    if mallopt is None or trim is None:
        return
    mallopt(M_TRIM_THRESHOLD, -1)
    mallopt(M_MMAP_MAX, 0)
    threading.Thread(target=_trim_again_and_again, args=(trim,), daemon=True).start()


def _trim_again_and_again(trim: Callable[[int], object]) -> None:
    while True:
        time.sleep(TRIM_S)
        trim(0)
