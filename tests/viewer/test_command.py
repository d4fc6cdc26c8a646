"""The command line of the viewer."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

import pytest
from support.commands import typed

from capecam.runtime import extras


def test_a_missing_package_is_named_with_the_remedy(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    said = typed("view", out, "--no-browser", code=2).stderr
    assert said.startswith("capecam: uvicorn is not installed")
    assert "pip install 'capecam[view]'" in said
    said = typed("view", tmp_path, "--single", tmp_path / "a.html", code=2).stderr
    assert "run.json" in said, "without a server, it is not needed"


def test_what_cannot_be_served_is_said(out: Path, tmp_path: Path) -> None:
    assert "run.json" in typed("view", tmp_path, "--no-browser", code=2).stderr
    for option in (["--port", 5], ["--no-browser"]):
        said = typed("view", out, "--export", tmp_path / "site", *option, code=2).stderr
        assert "serve nothing" in said
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert "give another --port" in typed("view", out, "--port", port, code=2).stderr
    said = typed("view", out, "--host", "192.0.2.1", "--no-browser", code=2).stderr
    assert "--host" in said


def test_an_export_is_told_in_a_sentence(out: Path, tmp_path: Path) -> None:
    said = typed("view", out, "--export", tmp_path / "site").stdout
    assert said.startswith(f"{tmp_path / 'site'}: ")
    assert "imagery at 1/1" in said
    assert typed("view", out, "--export", tmp_path / "quiet", "--quiet").stdout == ""
