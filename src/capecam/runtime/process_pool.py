"""One function in several processes, for work that Python's lock would not let run in threads."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import Generic, Self, TypeVar

from capecam.errors import StoppedError
from capecam.runtime.child_process import ChildDiedError, ChildProcess, ParentConnection

Shared = TypeVar("Shared")
Task = TypeVar("Task")
Result = TypeVar("Result")

Worker = Callable[[Shared], AbstractContextManager[Callable[[Task], Result]]]
"""Called once in each process, with what all calls share; gives the function."""


class ProcessPool(Generic[Task, Result]):
    """Processes that wait for calls of one function. Its arguments and results are pickled."""

    def __init__(self, worker: Worker[Shared, Task, Result], shared: Shared, count: int) -> None:
        """Start the processes; ``worker`` must be a function of a module."""
        self._idle: queue.SimpleQueue[ChildProcess] = queue.SimpleQueue()
        self._files = ExitStack()
        self._threads = self._files.enter_context(ThreadPoolExecutor(count))
        for _ in range(count):
            child = ChildProcess(_answer_calls, worker, shared)
            self._files.callback(child.kill)
            self._idle.put(child)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def map(self, tasks: Iterable[Task]) -> Iterator[Result]:
        """Return the function's results, in the order of the tasks.

        Raises:
            StoppedError: a process died.
        """
        return self._threads.map(self._call, tasks)

    def _call(self, task: Task) -> Result:
        child = self._idle.get()
        try:
            child.send(task)
            result: Result | _Failure = child.receive()
        except ChildDiedError as error:
            raise StoppedError(
                f"a helper process died ({error}); the same command continues where it stopped"
            ) from error
        finally:
            self._idle.put(child)
        if isinstance(result, _Failure):
            raise result.error
        return result


class _Failure:
    """An exception of the function, to be raised in the parent."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _answer_calls(
    parent: ParentConnection, worker: Worker[Shared, Task, Result], shared: Shared
) -> None:
    """Answer calls until the parent ends the process."""
    with worker(shared) as function:
        while True:
            task = parent.receive()
            try:
                parent.send(function(task))
            except Exception as error:  # raised again in the parent
                parent.send(_Failure(error))
