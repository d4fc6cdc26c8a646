"""The heap of a process: memory that is freed is kept for the next batch."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of mallopt(3)."""


def keep_heap() -> None:
    """Let glibc keep freed memory, instead of giving it back and paging it in again.

    An explanation of a batch allocates and frees a gigabyte in tensors of up to 26 MB (FPN
    resnext50_32x4d, 4 tiles of 320 px): without this a tenth of its time is page faults
    (docs/performance.md). The process keeps its peak memory until it ends. Elsewhere than on Linux
    with glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, -1)
        mallopt(M_MMAP_MAX, 0)
