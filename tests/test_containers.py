"""The recipes of the images for containers: what they install, copy and start."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile with their arguments, each on one line."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines) if name]


DOCKER = instructions()


def section(name: str) -> str:
    """A section of the Apptainer recipe, without its indent."""
    text = (ROOT / "apptainer.def").read_text()
    (found,) = re.findall(rf"^%{name}\n((?:    .*\n|\n)*)", text, re.MULTILINE)
    return re.sub("^    ", "", found.strip("\n"), flags=re.MULTILINE)


def of_docker(name: str) -> list[str]:
    return [rest for each, rest in DOCKER if each == name]


def test_both_recipes_have_the_same_arguments() -> None:
    arguments = dict(line.split("=", 1) for line in of_docker("ARG"))
    assert arguments == dict(line.split("=", 1) for line in section("arguments").split())
    assert set(arguments["EXTRAS"].split(",")) <= set(PROJECT["optional-dependencies"])
    text = (ROOT / "docs/installing.md").read_text()
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", text, re.MULTILINE)) == set(arguments)


def test_both_recipes_run_the_same_commands() -> None:
    """But for the empty package, which only layers need."""
    docker = re.sub(r"\$\{?([A-Z_]+)\}?", r"{{ \1 }}", " && ".join(of_docker("RUN")))
    parts = [" ".join(part.split()) for part in re.split(r"&&|;", docker)]
    layers = ("mkdir", "touch", "pip install --no-deps")
    apptainer = re.split(r"[;\n]", section("post"))
    own = ("export PATH", "cd /opt/source", "rm -rf /opt/source")
    assert [part for part in parts if not part.startswith(layers)] == [
        " ".join(part.split()) for part in apptainer if not part.startswith(own)
    ]


def test_what_is_copied_is_there_and_reaches_the_build() -> None:
    copied = {word for line in of_docker("COPY") for word in line.split()[:-1]}
    assert copied == {line.split()[0] for line in section("files").splitlines()}
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert allowed[0] == "*"
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}" in allowed
    assert {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml", "src"} <= copied


def test_the_image_starts_the_command_as_an_ordinary_user() -> None:
    ((entry,), command) = (json.loads(of_docker(n)[0]) for n in ("ENTRYPOINT", "CMD"))
    assert entry in PROJECT["scripts"]
    assert command == ["--help"]
    assert not of_docker("USER")[-1].startswith(("0", "root"))
    order = [name for name, _ in DOCKER]
    assert order.index("USER") > max(i for i, name in enumerate(order) if name == "RUN")


@pytest.mark.parametrize(
    ("arguments", "passed"), [([], ["--help"]), (["run", "a b"], ["run", "a b"])]
)
def test_the_apptainer_image_starts_the_command(
    arguments: list[str], passed: list[str], tmp_path: Path
) -> None:
    stand_in = tmp_path / "capecam"
    stand_in.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stand_in.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", section("runscript"), "runscript", *arguments],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == passed
