"""What is shown of a command's progress, on a terminal, in a log and for machines."""

from __future__ import annotations

import io
import json
import time

import pytest

from capecam.runtime.progress import (
    Moment,
    ProgressBar,
    ProgressJson,
    ProgressLines,
    ShownProgress,
    duration,
)


def shown(kind: type[ShownProgress], every_s: float = 0.02) -> str:
    """What a large cell shows while it takes three times as long as lines are apart."""
    stream = io.StringIO()
    with kind(stream, every_s) as progress:
        progress.at("headers", 0, 2)
        progress.advance(2)
        progress.at("network")
        progress.at("cells", 0, 100)
        progress.advance(20)
        time.sleep(3.5 * every_s)
        progress.skip(30)
        progress.cell("a", "done", 1, 2)
    return stream.getvalue()


def test_a_log_has_lines_inside_a_cell() -> None:
    lines = shown(ProgressLines).splitlines()
    assert lines[:3] == [
        "reading headers: 0 of 2 images", "loading the network", "processing cells: 0 of 100 tiles",
    ]  # fmt: skip
    assert lines[-1] == "[1/2] a: done"
    inside = lines[3:-1]
    assert inside
    for line in inside:
        assert line.startswith("processing cells: 20 of 100 tiles, ")
        assert line.endswith(" s left")


def test_machines_get_an_object_a_line() -> None:
    events = [json.loads(line) for line in shown(ProgressJson).splitlines()]
    assert [e["stage"] for e in events if e["event"] == "stage"] == ["headers", "network", "cells"]
    inside = [event for event in events if event["event"] == "progress"]
    assert inside
    for event in inside:
        assert (event["done"], event["total"], event["unit"]) == (20, 100, "tile")
        assert event["text"].startswith("processing cells: 20 of 100 tiles, ")
        assert event["left_s"] == pytest.approx(4 * event["elapsed_s"], abs=0.3)
    assert events[-1] == {
        "event": "cell", "cell": "a", "outcome": "done", "ended": 1, "cells": 2,
    }  # fmt: skip


def test_a_terminal_has_a_bar_a_stage() -> None:
    text = shown(ProgressBar)
    for title in ("reading headers", "loading the network [", "processing cells:  20%", "[1/2] a"):
        assert title in text


def test_times_are_in_words() -> None:
    assert [duration(s) for s in (40, 725, 12_000, 5_270_400)] == [
        "40 s", "12 min", "3 h 20 min", "61 days",
    ]  # fmt: skip
    assert str(Moment("cells", 0, 9, 70)) == "processing cells: 0 of 9 tiles"
    assert str(Moment("network", 0, None, 70)) == "loading the network, for 70 s"
