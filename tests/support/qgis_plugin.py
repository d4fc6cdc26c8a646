"""QGIS with the plugin, which tests drive."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.qgis_editing import PYTHON, require_qgis


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


@contextmanager
def qgis_with_plugin(plugin: Path, folder: Path) -> Iterator[Qgis]:
    """Start QGIS with a plugin that is installed from its zip.

    Args:
        plugin: the zip.
        folder: an empty one, for plugins and settings.
    """
    require_qgis("gui")
    with zipfile.ZipFile(plugin) as archive:
        archive.extractall(folder / "plugins")
    with subprocess.Popen(
        [PYTHON, Path(__file__).with_name("in_qgis.py"), folder / "plugins"],
        env={**os.environ, "QGIS_CUSTOM_CONFIG_PATH": str(folder / "profile")},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    ) as process:  # fmt: skip
        yield Qgis(process)
        process.stdin.close()
