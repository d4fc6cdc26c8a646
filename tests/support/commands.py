"""capecam as it is typed, also while it runs and is killed."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest

from capecam.cli import main

PATIENCE_S = 60


@dataclass(frozen=True, slots=True)
class Typed:
    """What a command printed."""

    stdout: str
    stderr: str


def capecam(*arguments: object, code: int = 0, **environment: str) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, "-c", "from capecam.cli import main; main()", *map(str, arguments)],
        capture_output=True, text=True, timeout=200, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def typed(*arguments: object, code: int = 0) -> Typed:
    """capecam in this process, where the network's libraries are loaded already."""
    out, err = io.StringIO(), io.StringIO()
    polite, level = signal.getsignal(signal.SIGTERM), logging.getLogger("capecam").level
    try:
        with (
            redirect_stdout(out), redirect_stderr(err),
            patch.object(sys, "argv", ["capecam", *map(str, arguments)]),
            pytest.raises(SystemExit) as ended,
        ):  # fmt: skip
            main()
    finally:
        signal.signal(signal.SIGTERM, polite)
        logging.getLogger("capecam").setLevel(level)
    assert ended.value.code == code, err.getvalue()
    return Typed(out.getvalue(), err.getvalue())


@contextmanager
def started(city: Path, out: Path, *options: str) -> Iterator[subprocess.Popen]:
    """A run going on; killed at the end if it still does."""
    command = [sys.executable, "-m", "capecam", "run", "--config", str(city / "city.yaml")]
    log = out.with_suffix(".log").open("w")
    with log, subprocess.Popen([*command, "--out", str(out), *options], stderr=log) as process:
        try:
            yield process
        finally:
            process.kill()


def workers_of(pid: int) -> list[int]:
    """Processes that it started, from whichever of its threads, in that order.

    Their numbers are not in that order: they begin again after 32,768, threads counted.
    """
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    try:
        found = [int(child) for children in lists for child in children.read_text().split()]
        return sorted(found, key=_began)
    except (FileNotFoundError, ProcessLookupError):
        return []


def _began(pid: int) -> int:
    """When it started, in the system's ticks (proc(5): field 22, after a name in brackets)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def wait_for(condition) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def in_the_making(out: Path) -> list[str]:
    return [path.name for path in (out / "cells").glob(".work-*") if path.is_dir()]


def done(out: Path) -> int:
    return len(list((out / "cells").glob("[!.]*/cell.json")))  # not those in the making


def same_products(out: Path, expected: Path) -> None:
    compared = 0
    for path in sorted(expected.rglob("*")):
        if path.suffix in (".tif", ".vrt", ".qml", ".parquet", ".csv"):
            assert (out / path.relative_to(expected)).read_bytes() == path.read_bytes(), path
            compared += 1
    assert compared >= 9 * 4
