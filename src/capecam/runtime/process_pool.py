"""One function in processes of their own: for work that Python's lock would not let run together.

``multiprocessing`` would import the user's script again in each; these import capecam alone.
"""

from __future__ import annotations

import pickle
import queue
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from importlib import import_module
from typing import Any, Self

from capecam.errors import StoppedError

Worker = Callable[[Any], AbstractContextManager[Callable[[Any], Any]]]
"""Called once in each process, with what all calls share; gives the function."""


class ProcessPool:
    """Processes that wait for calls. Everything that goes to and fro is pickled."""

    def __init__(self, worker: Worker, shared: object, count: int) -> None:
        """Start them; ``worker`` must be a function of a module."""
        command = "from capecam.runtime.process_pool import serve; serve()"
        self._files = ExitStack()
        self._free: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._threads = self._files.enter_context(ThreadPoolExecutor(count))
        for _ in range(count):
            child = subprocess.Popen(
                [sys.executable, "-c", command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C goes to the main process alone
            )
            self._files.callback(_end, child)
            _send(child.stdin, (worker.__module__, worker.__qualname__, shared))
            self._free.put(child)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def map(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """The function's results, in the order of the tasks.

        Raises:
            StoppedError: a process died.
        """
        return self._threads.map(self._call, tasks)

    def _call(self, task: object) -> Any:
        child = self._free.get()
        try:
            _send(child.stdin, task)
            done, result = pickle.load(child.stdout)  # type: ignore[arg-type]
        except (EOFError, BrokenPipeError) as error:
            raise StoppedError(
                "a helper process died (out of memory?); the same command goes on"
            ) from error
        finally:
            self._free.put(child)
        if not done:
            raise result
        return result


def _send(stream: Any, value: object) -> None:
    pickle.dump(value, stream, pickle.HIGHEST_PROTOCOL)
    stream.flush()


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.communicate()


def serve() -> None:
    """The child's side: calls come until the pipe is closed."""
    calls, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # what a library prints must not come between the answers
    module, name, shared = pickle.load(calls)
    with getattr(import_module(module), name)(shared) as function:
        while True:
            try:
                task = pickle.load(calls)
            except EOFError:
                return
            try:
                answer = (True, function(task))
            except Exception as error:  # raised again in the parent
                answer = (False, error)
            _send(answers, answer)
