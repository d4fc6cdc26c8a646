"""An operator's day, ``scripts/operators_day.py``: its nights here, all of it with ``-m slow``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "operators_day.py"


def day(folder: Path, *options: str) -> list[str]:
    command = [sys.executable, SCRIPT, folder / "day", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.timeout(600)
@pytest.mark.thorough
def test_a_city_survives_a_dead_machine_and_a_broken_image(tmp_path: Path) -> None:
    lines = day(tmp_path, "--core")
    assert len(lines) == 8
    assert "the same byte for byte" in lines[-2]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_of_the_day(tmp_path: Path) -> None:
    lines = day(tmp_path)
    assert len(lines) == 20
    assert "the same byte for byte" in lines[-2]


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "name a new folder" in done.stderr
    assert not list(tmp_path.iterdir())
