"""Work in lanes: taken lazily, yielded as it ends, and never left running."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from capecam.runtime.lanes import map_in_lanes

PATIENCE_S = 60


def test_results_come_as_they_end_and_items_are_taken_when_there_is_a_lane() -> None:
    first_is_released, taken = threading.Event(), []

    def items() -> Iterator[int]:
        for n in range(4):
            taken.append(n)
            yield n

    def work(n: int) -> int:
        if n == 0:
            assert first_is_released.wait(PATIENCE_S)
        return n

    results = map_in_lanes(work, items(), 2)
    assert next(results) == 1
    assert taken == [0, 1]
    first_is_released.set()
    assert sorted(results) == [0, 2, 3]


def test_an_error_is_raised_when_the_other_lane_has_ended() -> None:
    others, raised = [], threading.Event()

    def work(n: int) -> None:
        if n == 0:
            raised.set()
            raise RuntimeError("broken")
        assert raised.wait(PATIENCE_S)
        others.append(n)

    with pytest.raises(RuntimeError, match="broken"):
        list(map_in_lanes(work, [0, 1], 2))
    assert others == [1]
