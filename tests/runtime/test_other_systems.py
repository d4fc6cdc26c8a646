"""Commands where Python lacks what only Linux and macOS have, as on Windows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.cities import blobs, write_tif

WITHOUT = """
import os, signal, sys
sys.modules.update(dict.fromkeys(["fcntl", "grp", "pwd", "resource", "termios"]))  # ImportErrors
for name in ("getuid", "nice", "sched_getaffinity"):
    delattr(os, name)
del signal.SIGKILL
from capecam.cli import main
for line in sys.stdin.read().splitlines():
    sys.argv = ["capecam", *line.split("|")]
    try:
        main()
    except SystemExit as ended:
        print("exit code", ended.code)
"""


def elsewhere(*commands: list[object]) -> subprocess.CompletedProcess[str]:
    """Commands in one process of such a system; "exit code" and its number follow each."""
    lines = "\n".join("|".join(map(str, command)) for command in commands)
    return subprocess.run(
        [sys.executable, "-c", WITHOUT],
        input=lines, capture_output=True, text=True, timeout=200, check=True,
    )  # fmt: skip


def test_help_needs_nothing_of_posix_and_reading_images_says_what_it_needs(tmp_path: Path) -> None:
    write_tif(tmp_path / "a.tif", blobs(64, 64))
    done = elsewhere(["--help"], ["run", "--help"], ["inspect", tmp_path / "a.tif"])
    assert codes(done) == [0, 0, 2]
    assert done.stderr.endswith("on Windows WSL\n")


@pytest.mark.thorough
def test_checkpoints_and_checksums_are_read_and_what_writes_says_what_it_needs(city: Path) -> None:
    config, out = ["--config", city / "city.yaml"], city / "out"
    done = elsewhere(
        ["inspect", city / "model.pt", *config], ["verify", out], ["run", *config, "--out", out],
        ["finish", out],
    )  # fmt: skip
    assert codes(done) == [0, 0, 2, 2], done.stderr
    assert done.stderr.count("on Windows WSL\n") == 2


def codes(done: subprocess.CompletedProcess[str]) -> list[int]:
    """Exit codes of the commands."""
    return [int(code) for code in re.findall(r"^exit code (\d+)", done.stdout, re.MULTILINE)]
