"""Work in a background thread: in order, bounded, and with its errors raised."""

from __future__ import annotations

import threading
import time

import pytest

from capecam.runtime.background import in_background

PATIENCE_S = 60
"""Longest wait for another thread; only a test that fails waits so long."""


def test_everything_is_consumed_in_order_by_another_thread() -> None:
    seen: list[tuple[int, str]] = []
    with in_background(lambda n: seen.append((n, threading.current_thread().name))) as submit:
        for n in range(50):
            submit(n)
    assert seen == [(n, "background") for n in range(50)]


def test_the_caller_waits_when_the_queue_is_full() -> None:
    resume, full, handed = threading.Event(), threading.Event(), []

    def produce() -> None:
        with in_background(lambda _: resume.wait(PATIENCE_S), depth=2) as submit:
            for n in range(10):
                submit(n)
                handed.append(n)
                if len(handed) == 3:
                    full.set()

    thread = threading.Thread(target=produce)
    thread.start()
    assert full.wait(PATIENCE_S)
    time.sleep(0.1)  # time for a fourth, if the queue were not bounded
    assert len(handed) == 3  # one at work, two in the queue
    resume.set()
    thread.join(PATIENCE_S)
    assert len(handed) == 10


def test_an_error_of_the_consumer_reaches_the_caller() -> None:
    consumed = []

    def consume(n: int) -> None:
        consumed.append(n)
        if n == 3:
            raise OSError("disk full")

    def give(first: int, last: int) -> None:
        with in_background(consume) as submit:
            for n in range(first, last):
                submit(n)

    with pytest.raises(OSError, match="disk full"):
        give(0, 100)
    assert consumed == [0, 1, 2, 3]
    with pytest.raises(OSError, match="disk full"):
        give(3, 4)  # nothing follows: it is raised at the end


def test_an_error_in_the_caller_drops_the_queue() -> None:
    started, resume, consumed = threading.Event(), threading.Event(), []

    def consume(n: int) -> None:
        started.set()
        resume.wait(PATIENCE_S)
        consumed.append(n)

    def fail() -> None:
        with in_background(consume) as submit:
            submit(0)
            submit(1)
            assert started.wait(PATIENCE_S)
            threading.Timer(1.0, resume.set).start()  # by then the error has been seen
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert consumed == [0]
