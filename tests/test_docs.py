"""Documents that must say what the code does."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from capecam import attribution
from capecam.configfile import load
from capecam.demo import write_demo
from capecam.settings import METHODS

ROOT = Path(__file__).parents[1]


def script(name: str) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["configuration", "errors"])
def test_pages_that_are_made_are_up_to_date(page: str) -> None:
    made = script(f"{page}_docs").page()
    assert (ROOT / f"docs/{page}.md").read_text() == made, f"run scripts/{page}_docs.py"


def test_every_message_says_what_to_do() -> None:
    entries = [entry for _, entry in script("errors_docs").entries()]
    assert len(entries) > 250
    assert [entry.message for entry in entries if not entry.cure] == []


def test_a_message_and_its_cure_are_told_apart() -> None:
    docs = script("errors_docs")
    kind = docs.Kind(2, "look it up")
    found = docs.entry_of("*path*: is a folder; name a file", kind, "UsageError")
    assert found == docs.Entry("is a folder", "name a file", "2")
    assert docs.entry_of("must be 1; got *value*", kind, "UsageError").cure == "look it up"
    assert docs.entry_of("*path*: *reason*", kind, "UsageError") is None


def test_method_names_are_the_formulas() -> None:
    assert (*attribution.CAMS, attribution.GUIDED, attribution.SHARED) == METHODS


@pytest.mark.parametrize("name", ["capetown", "demo"])
def test_shipped_configurations_are_valid(name: str) -> None:
    settings = load(ROOT / "configs" / f"{name}.yaml")
    assert [c.name for c in settings.model.classes][1:] == [
        "solar panel", "water heater", "pool heater",
    ]  # fmt: skip


def test_the_readme_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """As it stands, on a sample city small enough for a test."""
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    write_demo(Path("demo"), seed=3, size=400)
    path = Path("demo/demo.yaml")
    tree = yaml.safe_load(path.read_text())
    tree["explain"]["calibration_tiles"] = 2
    tree["tiling"] = {"overlap": 0}
    path.write_text(yaml.safe_dump(tree))
    exec(compile(example, "README.md", "exec"), {})
    assert "torch.Size([2, 4, 320, 320]) torch.Size([2, 3, 10, 10])" in capsys.readouterr().out
