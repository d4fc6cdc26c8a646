"""Cells on Ray: two nodes (real processes of one machine), one of them killed in mid-run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
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
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PORT = 6399


def ray(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", *arguments],
        check=True, capture_output=True, timeout=120,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
    )  # fmt: skip


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start a cluster of two nodes with a CPU each; return its address."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # or its nodes ask each other for a token
    address = f"127.0.0.1:{PORT}"
    common = (
        "--num-cpus=1",
        "--node-ip-address=127.0.0.1",
        "--object-store-memory=100000000",
        "--disable-usage-stats",
    )
    ray("start", "--head", f"--port={PORT}", "--include-dashboard=false", *common)
    ray("start", f"--address={address}", *common)
    yield address
    ray("stop", "--force")


def raylets() -> list[int]:
    """Return the process of each node, the head's first."""
    found = subprocess.run(["pgrep", "-x", "raylet"], capture_output=True, text=True, check=False)
    return sorted(map(int, found.stdout.split()))


def test_a_cluster_of_its_own(city: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    capecam("run", "--config", city / "city.yaml", "--out", out, "--cluster", "local-ray")
    same_products(out, city / "out")


def test_a_node_that_dies_costs_nothing_but_time(city: Path, cluster: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with started(city, out, "--cluster", cluster) as run:
        wait_for(lambda: done(out) and len(in_the_making(out)) == 2)
        os.kill(raylets()[-1], signal.SIGKILL)
        assert run.wait(4 * PATIENCE_S) == 0
    assert done(out) == 9
    same_products(out, city / "out")


def test_a_run_that_gives_up_stops_its_workers_first(
    city: Path, cluster: str, tmp_path: Path
) -> None:
    out, images = tmp_path / "out", tmp_path / "images"
    shutil.copytree(city / "images", images)
    spoiled = images / "5.tif"
    spoiled.write_bytes(spoiled.read_bytes()[:4000])
    options = ("--max-failures", "0", "--out", out, "--cluster", cluster)
    capecam("run", images, "--config", city / "city.yaml", *options, code=3)
    assert not in_the_making(out)
    assert done(out) < 8


def test_no_cluster_is_an_error(city: Path, tmp_path: Path) -> None:
    arguments = ["--config", city / "city.yaml", "--out", tmp_path, "--cluster", "127.0.0.1:9"]
    assert "--cluster 127.0.0.1:9" in capecam("run", *arguments, code=2).stderr
