"""Work in a background thread, in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def in_background(consume: Callable[[T], object], depth: int = 1) -> Iterator[Callable[[T], None]]:
    """Yield a function that submits items to a thread, which consumes them in order.

    At most ``depth`` items wait; when the queue is full, submitting blocks. An error of the
    consumer is raised by a later submission or at the end. After an error, and if the body fails,
    the items that wait are dropped.
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
            except BaseException as error:  # of any kind: it is raised in the main thread
                errors.append(error)
                dropping.set()

    def submit(item: T) -> None:
        if errors:
            raise errors[0]
        waiting.put((item,))

    thread = threading.Thread(target=work, name="background", daemon=True)
    thread.start()
    try:
        yield submit
    except BaseException:
        dropping.set()
        raise
    finally:
        waiting.put(None)
        thread.join()
    if errors:
        raise errors[0]
