"""Work that goes on behind the main thread, in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def in_background(consume: Callable[[T], object], depth: int = 1) -> Iterator[Callable[[T], None]]:
    """A function that hands items to a thread, which consumes them one by one, in order.

    At most ``depth`` items wait; then handing over waits, too. What the consumer raises is raised
    by a later hand-over or at the end. After that, or if the body fails, what waits is dropped.
    """
    waiting: queue.Queue[tuple[T] | None] = queue.Queue(depth)
    errors: list[BaseException] = []
    dropping = threading.Event()

    def work() -> None:
        while (wrapped := waiting.get()) is not None:
            if dropping.is_set():
                continue
            try:
                consume(*wrapped)
            except BaseException as error:  # whatever it is, it belongs to the main thread
                errors.append(error)
                dropping.set()

    def hand_over(item: T) -> None:
        if errors:
            raise errors[0]
        waiting.put((item,))

    thread = threading.Thread(target=work, name="behind", daemon=True)
    thread.start()
    try:
        yield hand_over
    except BaseException:
        dropping.set()
        raise
    finally:
        waiting.put(None)
        thread.join()
    if errors:
        raise errors[0]
