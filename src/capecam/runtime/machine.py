"""Resources of the machine that each system tells in another way, or not at all."""

from __future__ import annotations

import os
import sys

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use; macOS and Windows know only all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory_gb() -> float | None:
    """Return the largest resident memory of this process so far; None where nothing tells it."""
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes in macOS's getrusage(2), else KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
