"""What ``capecam bench`` tells: a row a way, task and batch size, and the machine it ran on."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from capecam.analysis.benchmark import measure
from capecam.model.model import Model
from capecam.runtime.files import atomic_write

PACKAGES = ("torch", "numpy", "segmentation-models-pytorch", "grad-cam", "captum", "torchcam")

COLUMNS = {
    "way": "way", "task": "task", "maps": "maps", "batch": "batch", "tiles_per_s": "tiles/s",
    "times_notebook": "x notebook", "gflops": "GFLOP/s", "matrix_share": "of peak",
    "peak_mb": "MB", "compared": "compared", "corr_gradcam": "r cam", "corr_gradcampp": "r cam++",
    "corr_guided": "r guided", "max_difference": "max diff", "mean_difference": "mean diff",
    "argmax_agreement": "argmax",
}  # fmt: skip
"""What the terminal shows; the file has everything."""


@dataclass(frozen=True, slots=True)
class Row:
    """One way, one task, one batch size."""

    way: str
    task: str
    maps: int
    """How many of the task's maps a tile gets."""
    batch: int
    tiles_per_s: float
    times_notebook: float
    """How many times as fast as the notebook's way to the same maps; median over rounds."""
    gflop_per_tile: float
    gflops: float
    matrix_share: float
    """Of the float32 matrix rate measured on this device."""
    peak_mb: float | None
    compared: int
    """Maps of the first tiles whose reference is not empty."""
    corr_gradcam: float | None
    corr_gradcampp: float | None
    corr_guided: float | None
    """Correlation with the reference, of the class where it is lowest."""
    max_difference: float | None
    mean_difference: float | None
    """Of range-scaled maps."""
    argmax_agreement: float | None


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and with what it was measured."""

    device: str
    """cpu or cuda."""
    machine: str
    threads: int
    matrix_gflops: float
    versions: str
    network: str
    commit: str


def machine_of(model: Model, device: torch.device, matrix_gflops: float) -> Machine:
    """This device, and the versions of what runs on it."""
    return Machine(
        device.type,
        measure.machine(device),
        torch.get_num_threads(),
        matrix_gflops,
        " ".join(f"{name} {_version(name)}" for name in PACKAGES),
        model.architecture,
        commit(),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def commit() -> str:
    """Of the checkout that this code is run from; empty where there is none.

    Dirty is a change of code; the tables of results change while they are measured.
    """
    here = Path(__file__).parents[4]
    describe = ["git", "-C", str(here), "describe", "--always"]
    changed = ["git", "-C", str(here), "diff", "--quiet", "HEAD", "--", "src", "*.py"]
    try:
        found = subprocess.run(describe, capture_output=True, text=True, check=False)
        dirty = subprocess.run(changed, capture_output=True, check=False).returncode == 1
    except OSError:
        return ""
    return found.stdout.strip() + ("-dirty" if dirty else "")


def benchmark_table(rows: Sequence[Row], machine: Machine) -> str:
    """For a terminal."""
    heads = [*COLUMNS.values()]
    lines = [[_cell(getattr(row, name)) for name in COLUMNS] for row in rows]
    widths = [max(len(line[i]) for line in [heads, *lines]) for i in range(len(heads))]
    text = [
        "  ".join(
            value.ljust(width) if i < 2 else value.rjust(width)
            for i, (value, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [heads, *lines]
    ]
    where = ", ".join(f"{key}: {_cell(value)}" for key, value in asdict(machine).items())
    return "\n".join([*text, "", where])


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.5g}"


def write_csv(path: Path, rows: Sequence[Row], machine: Machine) -> None:
    """A line a row, each with machine, versions and commit; appears whole."""
    lines = [asdict(row) | asdict(machine) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_write(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.DictWriter(stream, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        for line in lines:
            writer.writerow(
                {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in line.items()}
            )
