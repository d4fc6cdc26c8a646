"""Results of ``capecam bench``: one row per method, task and batch size, with the machine."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd
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
"""Columns of the table on a terminal, and their headings; the file has all columns."""


@dataclass(frozen=True, slots=True)
class Row:
    """Measurement of one method, task and batch size."""

    way: str
    """Name of the method."""
    task: str
    maps: int
    """Number of the task's maps per tile."""
    batch: int
    tiles_per_s: float
    times_notebook: float
    """Speed relative to the notebook's way of computing the same maps; median over rounds."""
    gflop_per_tile: float
    gflops: float
    matrix_share: float
    """Share of the float32 matrix rate measured on this device."""
    peak_mb: float | None
    compared: int
    """Number of maps of the first tiles whose reference is not empty."""
    corr_gradcam: float | None
    corr_gradcampp: float | None
    corr_guided: float | None
    """Correlation with the reference, of the class where it is lowest."""
    max_difference: float | None
    mean_difference: float | None
    """Difference of maps scaled by their range."""
    argmax_agreement: float | None


@dataclass(frozen=True, slots=True)
class Machine:
    """Device, versions and commit of a measurement."""

    device: str
    """cpu or cuda."""
    machine: str
    threads: int
    matrix_gflops: float
    versions: str
    network: str
    commit: str


def machine_of(model: Model, device: torch.device, matrix_gflops: float) -> Machine:
    """Return a description of this device and of the installed versions."""
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
    """Return the commit of the checkout that this code runs from; empty if there is none.

    It is marked dirty if code has changed; tables of results change while they are measured.
    """
    git = ["git", "-C", str(Path(__file__).parents[4])]
    changed = [*git, "diff", "--quiet", "HEAD", "--", "src", "*.py"]
    try:
        described = subprocess.run(
            [*git, "describe", "--always"], capture_output=True, text=True, check=False
        )
        dirty = subprocess.run(changed, capture_output=True, check=False).returncode == 1
    except OSError:
        return ""
    return described.stdout.strip() + ("-dirty" if dirty else "")


def benchmark_table(rows: Sequence[Row], machine: Machine) -> str:
    """Return the rows as text for a terminal, and below them the machine."""
    table = pd.DataFrame(map(asdict, rows))[[*COLUMNS]].rename(columns=COLUMNS).map(_cell)
    where = ", ".join(f"{key}: {_cell(value)}" for key, value in asdict(machine).items())
    return f"{table.to_string(index=False)}\n\n{where}"


def _cell(value: object) -> str:
    if value is None or value != value:  # noqa: PLR0124 not a number
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.2e}" if 0 < abs(value) < 1e-3 else f"{value:.5g}"


def write_csv(path: Path, rows: Sequence[Row], machine: Machine) -> None:
    """Write one line per row, each with machine, versions and commit."""
    table = pd.DataFrame([asdict(row) | asdict(machine) for row in rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
