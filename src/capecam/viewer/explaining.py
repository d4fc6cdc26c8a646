"""Explanations on a click, by a process with the run's own network, which stays warm.

The server itself loads no network. One explanation is computed at a time, since each takes all
cores; a few wait, and more are refused.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from capecam.errors import StoppedError, UsageError
from capecam.runtime.child_process import ChildDiedError, ChildProcess, ParentConnection
from capecam.runtime.heap import keep_heap
from capecam.store.run_folder import RunFolder
from capecam.viewer.target import Target

MAX_WAITING = 4
"""Requests that wait for another one; each takes seconds with a large network on a CPU."""

PATIENCE_S = 300.0
"""Time after which an explanation is given up: a network is loaded in less, on slow disks too."""

PATIENT_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Threads of PyTorch sleep instead of spinning while they wait for each other. With two threads on
two cores that other processes use, too (load 6), the sample network explains an object in .44 s
instead of 4.6, for .41 CPU-seconds instead of 2.2."""

MAX_OVERLAYS = 48
"""Pictures that are kept, of 0.2 MB each: those of the last 16 objects."""


class TooManyWaitingError(UsageError):
    """As many requests wait as may; try again when one is done."""


def explain_problem(run: RunFolder, imagery: str) -> str:
    """Return why nothing can be explained; "" if it can, as far as names of files tell.

    Args:
        run: the run.
        imagery: why its imagery cannot be shown.
    """
    checkpoint = run.settings.checkpoint
    if checkpoint is None:
        return f"the checkpoint is missing: {run.why_no_checkpoint}"
    if not checkpoint.exists():
        return f"the checkpoint is missing: {checkpoint}; bring it back to where the run found it"
    return imagery


class Explainer:
    """The process that explains, and the pictures that it has drawn.

    Args:
        outs: folders of the runs.
    """

    def __init__(self, outs: Sequence[Path]) -> None:
        self._outs = tuple(outs)
        self._child: ChildProcess | None = None
        self._is_closed = self._has_explained = False
        self._one_at_a_time = threading.Lock()
        self._places = threading.BoundedSemaphore(1 + MAX_WAITING)
        self._pictures: OrderedDict[str, bytes] = OrderedDict()

    def close(self) -> None:
        """End the process, and let no request that waits start another one."""
        self._is_closed = True
        if self._child is not None:
            self._child.kill()

    def warm_up(self, run: int) -> None:
        """Let the process load the network and the imagery of a run; do not wait for it."""
        with self._one_at_a_time:
            self._running().send(run)

    def rehearse(self, target: Target) -> None:
        """Let the process explain something once, since the first time takes a second longer with
        a large network; do not wait for it."""
        with self._one_at_a_time:
            if not self._has_explained:
                self._running().send(replace(target, is_rehearsal=True))
                self._has_explained = True

    def explain(self, target: Target) -> dict[str, Any]:
        """Return an explanation, as the page is sent it.

        Raises:
            TooManyWaitingError: too many wait.
            UsageError: it cannot be explained; the message is that of ``capecam explain``.
            StoppedError: the process ended.
        """
        if not self._places.acquire(blocking=False):
            raise TooManyWaitingError("too many explanations are waiting; try again in a moment")
        try:
            with self._one_at_a_time:
                answer = self._ask(target)
        finally:
            self._places.release()
        if isinstance(answer, str):
            raise UsageError(answer)
        overlays = [self._kept(target.run, *overlay) for overlay in answer.pop("overlays")]
        return {**answer, "overlays": overlays}

    def picture(self, token: str) -> bytes | None:
        """Return the picture of an overlay, or None if it is gone."""
        return self._pictures.get(token)

    def _ask(self, target: Target) -> Any:
        child = self._running()
        self._has_explained = True
        try:
            child.send(target)
            return child.receive(PATIENCE_S)
        except ChildDiedError as error:
            raise StoppedError(
                f"the process that explains ended ({error}); its messages are where capecam view "
                "was started"
            ) from error
        except TimeoutError as error:
            child.kill()
            raise StoppedError(
                f"no explanation within {PATIENCE_S:g} s; try again, or see capecam explain"
            ) from error

    def _running(self) -> ChildProcess:
        """Return the process, which is started if need be.

        Raises:
            StoppedError: the server has ended.
        """
        if self._is_closed:
            raise StoppedError("the server has ended; start capecam view again")
        if self._child is None or self._child.has_ended:
            self._child = ChildProcess(explain_requests, self._outs, environment=PATIENT_THREADS)
        return self._child

    def _kept(self, run: int, picture: bytes, about: dict[str, Any]) -> dict[str, Any]:
        token = secrets.token_hex(8)
        self._pictures[token] = picture
        while len(self._pictures) > MAX_OVERLAYS:
            self._pictures.popitem(last=False)
        return {**about, "url": f"run/{run}/overlay/{token}.png"}


def explain_requests(parent: ParentConnection, outs: Sequence[Path]) -> None:
    """Answer requests one after the other; this is the task of the process.

    A request is a :class:`Target`, or the number of a run to be loaded; that and a rehearsal have
    no answer. An answer is what the page is sent, with overlays as pairs of a picture and what is
    said of it; or a text: why there is none.
    """
    from capecam.viewer.explanations import RunExplanations  # noqa: PLC0415 loads PyTorch

    keep_heap()
    runs: dict[int, RunExplanations] = {}
    while True:
        request = parent.receive()
        number = request if isinstance(request, int) else request.run
        if number not in runs:
            runs[number] = RunExplanations(outs[number])
        if isinstance(request, int):
            runs[number].warm_up()
            continue
        answer = runs[number].answer(request)
        if not request.is_rehearsal:
            parent.send(answer)
