"""Work behind the main thread: in order, bounded, and never lost in silence."""

from __future__ import annotations

import threading

import pytest

from capecam.runtime.background import in_background


def test_everything_is_consumed_in_order_by_another_thread() -> None:
    seen: list[tuple[int, str]] = []
    with in_background(lambda n: seen.append((n, threading.current_thread().name))) as hand_over:
        for n in range(50):
            hand_over(n)
    assert seen == [(n, "behind") for n in range(50)]


def test_handing_over_waits_when_too_much_waits() -> None:
    may_go_on, handed = threading.Event(), []

    def give() -> None:
        with in_background(lambda _: may_go_on.wait(5), depth=2) as hand_over:
            for n in range(10):
                hand_over(n)
                handed.append(n)

    thread = threading.Thread(target=give)
    thread.start()
    thread.join(0.3)
    assert len(handed) == 3  # one in work, two waiting
    may_go_on.set()
    thread.join(5)
    assert len(handed) == 10


def test_an_error_behind_is_an_error_in_front() -> None:
    consumed = []

    def consume(n: int) -> None:
        consumed.append(n)
        if n == 3:
            raise OSError("disk full")

    def give(first: int, last: int) -> None:
        with in_background(consume) as hand_over:
            for n in range(first, last):
                hand_over(n)

    with pytest.raises(OSError, match="disk full"):
        give(0, 100)
    assert consumed == [0, 1, 2, 3]
    with pytest.raises(OSError, match="disk full"):
        give(3, 4)  # nothing follows: it is raised at the end


def test_an_error_in_front_drops_what_waits() -> None:
    started, may_go_on, consumed = threading.Event(), threading.Event(), []

    def consume(n: int) -> None:
        started.set()
        may_go_on.wait(5)
        consumed.append(n)

    def fail() -> None:
        with in_background(consume) as hand_over:
            hand_over(0)
            hand_over(1)
            started.wait(5)
            threading.Timer(0.2, may_go_on.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert consumed == [0]
