"""The same work on several items at a time, in threads, as items come."""

from __future__ import annotations

import queue
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_lanes(
    function: Callable[[Item], Result], items: Iterable[Item], lanes: int
) -> Generator[Result, None, None]:
    """Yield the results of a function in the order in which they are ready.

    An item is taken, in the calling thread, when there is a lane for it. An error of the function
    is raised here; then, and when the generator is closed, calls that have begun end first.

    Args:
        function: called in several threads.
        items: taken one by one.
        lanes: number of calls at the same time.
    """
    ended: queue.SimpleQueue[Future[Result]] = queue.SimpleQueue()
    with ThreadPoolExecutor(lanes, thread_name_prefix="lane") as threads:
        running = 0
        for item in items:
            threads.submit(function, item).add_done_callback(ended.put)
            running += 1
            if running == lanes:
                yield ended.get().result()
                running -= 1
        for _ in range(running):
            yield ended.get().result()
