"""Does the wheel install and work away from its source, with this Python and these versions?

Usage: check_install.py [--python PYTHON] [--torch VERSION] [--lowest] [--tests FILE ...]

Builds the wheel, looks for the files of the source tree in it, installs it into a fresh environment
in a temporary folder (TMPDIR; torch with its CUDA libraries takes gigabytes there), and runs the
sample city from an empty folder: demo, plan, run, verify, evaluate, panel, view. Nothing of the
source tree is on the path then. What it installs comes from pip's own index; at run time nothing is
downloaded. Ends with a row of versions for the table in docs/installing.md; everything is removed.
The exit code is 1 if a step fails.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SIZE_PX = 400
"""Of an image of the sample city: 25 tiles in all."""
VERSIONS = """
import platform, sys
from importlib.metadata import version
import rasterio
import capecam, capecam.api
assert capecam.__file__.startswith(sys.prefix), f"capecam comes from {capecam.__file__}"
names = "torch torchvision segmentation-models-pytorch numpy rasterio".split()
found = [platform.python_version(), *map(version, names), rasterio.__gdal_version__]
print("| Python |", *(f"{name} |" for name in names), "GDAL |")
print("|", *(f"{each} |" for each in found))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", default=sys.executable, help="else the one that runs this")
    parser.add_argument("--torch", metavar="VERSION", help="else the newest that pip finds")
    parser.add_argument(
        "--lowest", action="store_true", help="the oldest version of everything in pyproject.toml"
    )
    parser.add_argument(
        "--tests", nargs="+", metavar="FILE", default=[], help="then these tests of the source tree"
    )
    given = parser.parse_args()
    pins = lowest() if given.lowest else []
    if given.torch:
        pins = [pin for pin in pins if not pin.startswith("torch")]
        pins += [f"torch=={given.torch}"]
    with tempfile.TemporaryDirectory(prefix="capecam-install-") as folder:
        try:
            check(Path(folder), given.python, pins, given.tests)
        except subprocess.CalledProcessError as error:
            print(f"check_install: {told(error.cmd)} ended with {error.returncode}", flush=True)
            return 1
        except LookupError as error:
            print(f"check_install: {error}", flush=True)
            return 1
    print("check_install: it installs and works")
    return 0


def lowest() -> list[str]:
    """name==bound for every dependency that has a lower bound."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = [re.match(r"([\w-]+)>=([\w.]+)", line) for line in project["dependencies"]]
    return [f"{bound[1]}=={bound[2]}" for bound in bounds if bound]


def check(folder: Path, python: str, pins: list[str], tests: list[str]) -> None:
    """Every step; raises CalledProcessError of the first that fails."""
    wheels, venv, empty = folder / "wheels", folder / "venv", folder / "empty"
    empty.mkdir()
    say(empty, python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", wheels, ROOT)
    (wheel,) = wheels.glob("capecam-*.whl")
    print(f"{wheel.name}: {wheel.stat().st_size:,} bytes", flush=True)
    if missing := missing_from(wheel):
        raise LookupError(f"{wheel.name} lacks {', '.join(missing)}")
    say(empty, python, "-m", "venv", venv)
    inside = venv / "bin" / "python"
    say(empty, inside, "-m", "pip", "install", "-q", f"{wheel}[view]", *pins)
    capecam, config = venv / "bin" / "capecam", "demo/demo.yaml"
    say(empty, capecam, "--help", stdout=subprocess.DEVNULL)
    say(empty, capecam, "demo", "demo", "--size", SIZE_PX)
    sample = empty / config
    sample.write_text(sample.read_text().replace("calibration_tiles: 64", "calibration_tiles: 4"))
    say(empty, capecam, "plan", "--config", config)
    say(empty, capecam, "run", "--config", config, "--objects", 4)
    say(empty, capecam, "verify", "demo/out")
    say(empty, capecam, "evaluate", "demo/out", "--truth", "demo/truth.gpkg")
    say(empty, capecam, "panel", "demo/out", "--top", 1)
    say(empty, capecam, "view", "demo/out", "--export", "site")
    say(empty, inside, "-c", VERSIONS)
    if tests:
        extras = ["pytest", "pytest-timeout", "pytest-xdist", "hypothesis"]
        say(empty, inside, "-m", "pip", "install", "-q", f"{wheel}[bench]", *extras, *pins)
        files = [Path(test).resolve() for test in tests]
        say(ROOT, inside, "-m", "pytest", "-p", "no:cacheprovider", "-o", "timeout=900", *files)


def missing_from(wheel: Path) -> list[str]:
    """Files below src/ that a wheel lacks: code, page of the viewer, sample model, templates."""
    source = ROOT / "src"
    files = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    expected = {path.as_posix() for path in files if "__pycache__" not in path.parts}
    with zipfile.ZipFile(wheel) as archive:
        return sorted(expected - set(archive.namelist()))


def say(where: Path, *command: object, stdout: int | None = None) -> None:
    """Run a command in a folder; one line when it has ended, after its own.

    PYTHONPATH would put a source tree before the wheel.
    """
    started = time.monotonic()
    words = [str(word) for word in command]
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run(words, cwd=where, env=own, stdout=stdout, check=True)
    print(f"{time.monotonic() - started:6.1f} s  {told(words)}", flush=True)


def told(words: list[str]) -> str:
    """A command without the folders that it happens to lie in."""
    short = [Path(word).name if word.startswith("/") else word for word in words]
    return " ".join("VERSIONS" if "\n" in word else word for word in short)


if __name__ == "__main__":
    sys.exit(main())
