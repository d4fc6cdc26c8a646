"""How much memory a piece of code takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def at_most(megabytes: int) -> Iterator[None]:
    """Fail where the body takes more resident memory at its peak than there was before.

    The kernel forgets the peak that other tests of this process left (proc(5), clear_refs).
    """
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_kb()
    yield
    taken = (_peak_kb() - before) / 1000
    assert taken < megabytes, f"{taken:.0f} MB"


def _peak_kb() -> int:
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])
