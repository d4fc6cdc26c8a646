"""QGIS with the plugin that ``make plugin`` builds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.qgis_editing import PYTHON, require_qgis

import capecam

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def plugin_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    command = [sys.executable, ROOT / "scripts/plugin_zip.py", tmp_path_factory.mktemp("dist")]
    return Path(subprocess.check_output(command, text=True).strip())


class Qgis:
    """A process of QGIS; calls are methods of ``Steps`` of in_qgis.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert self._answer() == "started"

    def __call__(self, step: str, **given: Any) -> Any:
        self._process.stdin.write(json.dumps([step, given], default=str) + "\n")
        return self._answer()

    def _answer(self) -> Any:
        line = self._process.stdout.readline()
        assert line, f"QGIS ended: {self._process.wait()}"
        return json.loads(line)


@pytest.fixture(scope="module")
def qgis(plugin_zip: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Qgis]:
    require_qgis("gui")
    folder = tmp_path_factory.mktemp("qgis")
    with zipfile.ZipFile(plugin_zip) as archive:
        archive.extractall(folder / "plugins")
    with subprocess.Popen(
        [PYTHON, Path(__file__).with_name("in_qgis.py"), folder / "plugins"],
        env={**os.environ, "QGIS_CUSTOM_CONFIG_PATH": str(folder / "profile")},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    ) as process:  # fmt: skip
        yield Qgis(process)
        process.stdin.close()


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program capecam, as an environment has it, but with the code that is tested."""
    path = tmp_path_factory.mktemp("bin") / "capecam"
    source = Path(capecam.__file__).parents[1]
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{source}" exec "{sys.executable}" -m capecam "$@"\n')
    path.chmod(0o755)
    return path
