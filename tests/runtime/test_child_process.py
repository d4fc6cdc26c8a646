"""Tasks in child processes: messages, errors, and the end of the child or of its parent."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from capecam.errors import StoppedError
from capecam.runtime.child_process import ChildDiedError, ChildProcess, ParentConnection
from capecam.runtime.process_pool import ProcessPool

TIMEOUT_S = 60
IMPORTABLE = {"PYTHONPATH": os.pathsep.join(sys.path)}
"""Environment in which a child finds the tasks below."""


def count_to(parent: ParentConnection, number: int) -> None:
    for n in range(number):
        print("printed by a library")
        os.write(1, b"printed by a C library\n")
        parent.send(n)
    parent.send(parent.receive())


def sleep(parent: ParentConnection) -> None:
    parent.send(os.getpid())
    time.sleep(1000)


def warn(parent: ParentConnection) -> None:
    warnings.warn("raw", RuntimeWarning, stacklevel=1)
    logging.getLogger("rasterio._env").warning("raw")
    parent.send(os.environ["CPL_LOG"])


def exit_with(_: ParentConnection, code: int) -> None:
    os._exit(code)


@contextmanager
def divide(dividend: int) -> Iterator[Callable[[int], float]]:
    def function(divisor: int) -> float:
        if divisor == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        return dividend / divisor

    yield function


def test_messages_arrive_in_order_whatever_is_printed(capfd) -> None:
    child = ChildProcess(count_to, 3, environment=IMPORTABLE)
    child.send("a message")
    assert [child.receive(TIMEOUT_S) for _ in range(3)] == [0, 1, 2]
    assert child.receive(TIMEOUT_S) == "a message"
    with pytest.raises(ChildDiedError, match=r"^exit code 0$"):
        child.receive(TIMEOUT_S)
    assert child.has_ended
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.count("printed by a library") == 3


def test_the_end_of_a_child_is_explained() -> None:
    child = ChildProcess(exit_with, 3, environment=IMPORTABLE)
    with pytest.raises(ChildDiedError, match=r"^exit code 3$"):
        child.receive(TIMEOUT_S)
    with pytest.raises(ChildDiedError, match=r"^exit code 3$"):
        child.send("too late")
    for number, message in [
        (signal.SIGSEGV, "^killed by SIGSEGV$"),
        (signal.SIGKILL, "^killed by SIGKILL, as the system does when memory runs out$"),
    ]:
        child = ChildProcess(sleep, environment=IMPORTABLE)
        os.kill(child.receive(TIMEOUT_S), number)
        with pytest.raises(ChildDiedError, match=message):
            child.receive(TIMEOUT_S)


def test_a_child_that_does_not_answer_can_be_killed() -> None:
    child = ChildProcess(sleep, environment=IMPORTABLE)
    pid = child.receive(TIMEOUT_S)
    os.kill(pid, signal.SIGTERM)  # left to the parent
    with pytest.raises(TimeoutError):
        child.receive(0.2)
    child.kill()
    assert not Path(f"/proc/{pid}").exists()


def test_a_child_ends_with_its_parent() -> None:
    code = (
        "import test_child_process as t; "
        "child = t.ChildProcess(t.sleep); print(child.receive(), flush=True); child.receive()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, **IMPORTABLE}, stdout=subprocess.PIPE
    ) as parent:
        pid = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + TIMEOUT_S
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_pool_returns_results_in_order_and_raises_errors(monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", IMPORTABLE["PYTHONPATH"])
    with ProcessPool(divide, 12, 2) as pool:
        assert list(pool.map([1, 2, 3, 4])) == [12, 6, 4, 3]
        with pytest.raises(ZeroDivisionError):
            list(pool.map([1, 0]))
        assert list(pool.map([6])) == [2]
        with pytest.raises(StoppedError, match=r"died \(killed by SIGKILL.*\); the same command"):
            list(pool.map([13]))


def test_warnings_of_libraries_stay_in_the_child(capfd) -> None:
    child = ChildProcess(warn, environment=IMPORTABLE)
    try:
        assert child.receive(TIMEOUT_S) == os.devnull
    finally:
        child.kill()
    assert capfd.readouterr().err == ""
