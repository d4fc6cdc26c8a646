"""Commands where Python lacks what only Linux and macOS have, as on Windows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.cities import blobs, write_tif

WITHOUT = """
import os, sys
sys.modules.update(dict.fromkeys(["fcntl", "grp", "pwd", "resource", "termios"]))  # ImportErrors
for name in ("getuid", "nice", "sched_getaffinity"):
    delattr(os, name)
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


def test_help_and_inspect_need_nothing_of_posix(tmp_path: Path) -> None:
    write_tif(tmp_path / "a.tif", blobs(64, 64))
    done = elsewhere(["--help"], ["run", "--help"], ["inspect", tmp_path / "a.tif"])
    assert done.stdout.count("exit code 0") == 3
    assert "nothing unusual" in done.stdout


@pytest.mark.thorough
def test_what_reads_works_and_what_writes_says_that_there_are_no_locks(city: Path) -> None:
    config, out = city / "city.yaml", city / "out"
    run = ["--config", config, "--out", out]
    done = elsewhere(["plan", *run], ["verify", out], ["run", *run])
    codes = [line for line in done.stdout.splitlines() if line.startswith("exit code")]
    assert codes == ["exit code 0", "exit code 0", "exit code 2"], done.stderr
    assert done.stderr.splitlines()[-1].endswith("on Windows WSL")
