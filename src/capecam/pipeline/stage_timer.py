"""Where the time goes: seconds by stage, of several threads and of the device."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")


class StageTimer:
    """Adds up the seconds of named stages.

    On a GPU a stage of the main thread only queues work; given the device, its time is what the
    device took, by events of the stream.
    """

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, stage: str, device: torch.device | None = None) -> Iterator[None]:
        """Time what is inside."""
        if device is not None and device.type == "cuda":
            start, end = _event(), _event()
            start.record()
            yield
            end.record()
            self._events.append((stage, start, end))
            return
        started = time.perf_counter()
        try:
            yield
        finally:
            self._add(stage, time.perf_counter() - started)

    def each(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """The items; the time until each of them is there counts."""
        items = iter(items)
        while True:
            with self(stage):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def seconds(self) -> dict[str, float]:
        """By stage, in the order of their first end; waits for the device."""
        for stage, start, end in self._events:
            end.synchronize()
            self._add(stage, start.elapsed_time(end) / 1000)
        self._events.clear()
        return dict(self._seconds)

    def _add(self, stage: str, seconds: float) -> None:
        with self._lock:
            self._seconds[stage] += seconds


def _event() -> torch.cuda.Event:
    event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    return event
