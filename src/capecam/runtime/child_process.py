"""A task in a process of its own, and the messages between it and its parent."""

from __future__ import annotations

import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import Any

from capecam.errors import UsageError
from capecam.runtime import logs


class ChildDiedError(Exception):
    """A child process ended before it answered; the message says how, such as "exit code 1"."""


class ChildProcess:
    """A fresh interpreter that imports capecam alone, and runs one task.

    ``multiprocessing`` would import the user's script again in each process. Messages in both
    directions are pickled. The child ends with its parent, even if the parent is killed.
    """

    def __init__(
        self,
        task: Callable[..., object],
        *arguments: object,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start the process.

        Args:
            task: a function of a module, called with a :class:`ParentConnection` and the arguments;
                the process ends when it returns.
            arguments: of the task.
            environment: variables to set in addition to those of this process.

        Raises:
            UsageError: the system gives a child no open pipe.
        """
        if not hasattr(signal, "SIGKILL"):
            raise UsageError(
                "this system has no child processes of POSIX, in which images are read and cells "
                "computed; use Linux or macOS, and on Windows WSL"
            )
        self._connection, theirs = Pipe()
        with theirs:
            number = theirs.fileno()
            code = f"from capecam.runtime.child_process import serve; serve({number})"
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=2,  # standard output belongs to the main process alone
                pass_fds=[number],
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # Ctrl-C goes to the main process alone
            )
        with suppress(ChildDiedError):  # raised again by what follows
            self.send((task, arguments))

    def send(self, message: object) -> None:
        """Send a message.

        Raises:
            ChildDiedError: the process has ended.
        """
        try:
            self._connection.send(message)
        except OSError:
            raise ChildDiedError(self._how_it_ended()) from None

    def receive(self, timeout_s: float | None = None) -> Any:
        """Return the next message of the task.

        Raises:
            ChildDiedError: the process has ended.
            TimeoutError: no message came within the time.
        """
        if not self._connection.poll(timeout_s):
            raise TimeoutError
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            raise ChildDiedError(self._how_it_ended()) from None

    @property
    def has_ended(self) -> bool:
        """Return whether the process has ended."""
        return self._process.poll() is not None

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        if code >= 0:
            return f"exit code {code}"
        hint = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-code).name}{hint}"

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()


class ParentConnection:
    """The child's end of the connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._sending = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, message: object) -> None:
        """Send a message, from any thread."""
        with self._sending:
            self._connection.send(message)

    def receive(self) -> Any:
        """Return the parent's next message."""
        return self._messages.get()

    def received(self) -> list[Any]:
        """Return the parent's messages that have come already."""
        return [self._messages.get() for _ in range(self._messages.qsize())]

    def _listen(self) -> None:
        while True:
            try:
                self._messages.put(self._connection.recv())
            except (EOFError, OSError):  # the parent has ended, perhaps in the middle of a message
                os._exit(1)


def serve(descriptor: int) -> None:
    """Run the task that the parent sends first; this is the main function of the child.

    Signals to end are left to the parent, since a service manager sends them to every process.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    logs.configure(logging.WARNING)
    connection = Connection(descriptor)
    task, arguments = connection.recv()
    task(ParentConnection(connection), *arguments)
