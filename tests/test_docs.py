"""Documents that must say what the code does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from capecam import attribution
from capecam.configfile import load
from capecam.demo import write_demo
from capecam.settings import METHODS

ROOT = Path(__file__).parents[1]


def test_configuration_page_is_the_settings_tree() -> None:
    spec = importlib.util.spec_from_file_location("docs", ROOT / "scripts/configuration_docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs/configuration.md").read_text() == module.page(), (
        "run scripts/configuration_docs.py"
    )


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
