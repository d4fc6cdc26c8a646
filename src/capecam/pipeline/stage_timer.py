"""Measure seconds by stage, in several threads and on the device."""

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

    On a GPU a stage of the main thread only queues work. Given the device, the time that the device
    took is measured instead, by events of its stream.
    """

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, stage: str, device: torch.device | None = None) -> Iterator[None]:
        """Time the body as a stage."""
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
        """Yield the items; the time to get each of them is a stage."""
        items = iter(items)
        while True:
            with self(stage):
                item = next(items, None)
            if item is None:
                return
            yield item

    def seconds(self) -> dict[str, float]:
        """Return seconds by stage, in the order of their first end; waits for the device."""
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
