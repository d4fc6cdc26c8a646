"""Cells in worker processes: the same products whichever process dies, at any time."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from support.commands import (
    PATIENCE_S,
    capecam,
    done,
    in_the_making,
    same_products,
    started,
    wait_for,
    workers_of,
)


@pytest.mark.thorough
def test_a_worker_that_dies_once_costs_no_cell(city, tmp_path) -> None:
    out = tmp_path / "out"
    with started(city, out) as run:
        wait_for(lambda: done(out) and len(in_the_making(out)) >= 2)
        (victim, *_) = workers_of(run.pid)
        os.kill(victim, signal.SIGKILL)
        assert run.wait(2 * PATIENCE_S) == 0
    same_products(out, city / "out")


@pytest.mark.thorough
def test_other_workers_continue_without_one_that_does_not_start(city, tmp_path) -> None:
    out = tmp_path / "out"
    with started(city, out) as run:
        wait_for(lambda: len(workers_of(run.pid)) == 2)
        os.kill(workers_of(run.pid)[-1], signal.SIGKILL)  # while it loads the network
        assert run.wait(2 * PATIENCE_S) == 0
    assert "the other workers continue" in out.with_suffix(".log").read_text()
    same_products(out, city / "out")


@pytest.mark.parametrize(
    ("number", "options"),
    [
        pytest.param(signal.SIGTERM, (), marks=pytest.mark.thorough),
        (signal.SIGINT, ("--in-process",)),
    ],
)
def test_an_interrupted_run_ends_cleanly_within_seconds(city, tmp_path, number, options) -> None:
    out = tmp_path / "out"
    with started(city, out, *options) as run:
        wait_for(lambda: in_the_making(out))
        workers = workers_of(run.pid)
        run.send_signal(number)
        assert run.wait(10) == 130
    assert not in_the_making(out)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert "continues where it stopped" in out.with_suffix(".log").read_text()


@pytest.mark.thorough
def test_a_run_that_gives_up_stops_its_workers_first(city, tmp_path) -> None:
    out = tmp_path / "out"
    shutil.copytree(city / "images", tmp_path / "images")
    spoiled = tmp_path / "images" / "5.tif"
    spoiled.write_bytes(spoiled.read_bytes()[:4000])
    options = ("--max-failures", "0", "--out", out)
    capecam("run", tmp_path / "images", "--config", city / "city.yaml", *options, code=3)
    assert not in_the_making(out)


@pytest.mark.thorough
def test_workers_end_with_their_supervisor(city, tmp_path) -> None:
    out = tmp_path / "out"
    with started(city, out) as run:
        wait_for(lambda: in_the_making(out))
        workers = workers_of(run.pid)
        run.kill()
    assert workers
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert in_the_making(out)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_thirty_times_at_random(city, tmp_path) -> None:
    """The supervisor or one of the workers, at any moment from its start to its end."""
    out = tmp_path / "out"
    rng = random.Random(0)
    kills = 0
    while kills < 30:
        with started(city, out, "--retry-failed") as run:
            time.sleep(rng.uniform(0.5, 9))
            victims = [run.pid, *workers_of(run.pid)]
            if run.poll() is None:
                os.kill(rng.choice(victims), signal.SIGKILL)
                kills += 1
                time.sleep(rng.uniform(0, 1))
        if rng.random() < 0.2 and done(out):
            removed = rng.choice(list((out / "cells").glob("*/cell.json")))
            removed.unlink()  # so that there is always a cell to process
    capecam("run", "--config", city / "city.yaml", "--out", out, "--retry-failed")
    same_products(out, city / "out")
