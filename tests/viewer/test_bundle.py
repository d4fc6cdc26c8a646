"""The viewer's page as it is in the package: built from its sources, small, and locked."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from viewer.page_server import PAGE

SOURCES = Path(__file__).parents[2] / "viewer"
MAX_KB = 450
"""Of all files together, in gzip."""


def test_the_bundle_is_small_and_asks_for_nothing() -> None:
    files = {path.name: path.read_bytes() for path in PAGE.iterdir()}
    assert set(files) == {"index.html", "viewer.js", "viewer.css", "licences.txt"}
    assert sum(len(gzip.compress(data)) for data in files.values()) < MAX_KB * 1000
    page = files["index.html"].decode()
    assert re.findall(r"<script(?![^>]* src=)|<style| style=| on\w+=|https?:", page) == []
    assert re.findall(rb"@import|url\((?!data:)", files["viewer.css"]) == []
    for banned in (rb"\beval\(", rb"new Function\b", rb"WebAssembly", rb"new Worker\b"):
        assert not re.search(banned, files["viewer.js"])


def test_all_packages_are_locked_and_their_licences_are_there() -> None:
    wanted = json.loads((SOURCES / "package.json").read_text())
    lock = json.loads((SOURCES / "package-lock.json").read_text())["packages"]
    licences = (PAGE / "licences.txt").read_text()
    for name, version in wanted["dependencies"].items():
        assert lock[f"node_modules/{name}"]["version"] == version
        assert f"{name} {version} (" in licences
    assert not any("resolved" in entry for entry in lock.values()), "no registry is named"
    assert all(entry.get("integrity") for path, entry in lock.items() if path)


@pytest.mark.thorough
def test_the_bundle_is_that_of_the_sources(tmp_path) -> None:
    for program in ("node", "npm"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not there; apt-get install nodejs npm")
    copy = tmp_path / "viewer"
    shutil.copytree(SOURCES, copy, ignore=shutil.ignore_patterns("node_modules"))
    subprocess.run(["npm", "ci", "--ignore-scripts"], cwd=copy, check=True, capture_output=True)
    subprocess.run(["npm", "run", "check"], cwd=copy, check=True)  # else: npm run format
    subprocess.run(["node", "build.mjs", tmp_path / "page"], cwd=copy, check=True)
    for path in PAGE.iterdir():
        built = (tmp_path / "page" / path.name).read_bytes()
        assert built == path.read_bytes(), f"{path.name}: make viewer builds another one"
