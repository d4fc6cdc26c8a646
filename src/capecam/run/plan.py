"""``capecam plan``: the cells, time, memory and disk space of a run, from headers alone."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from capecam.attribution.device import pick_device
from capecam.errors import CapecamError
from capecam.grid import Cell
from capecam.io.gdal import gdal_settings
from capecam.model.checkpoint import checkpoint_sha256
from capecam.mosaic.city import City, city_of, find_cells
from capecam.mosaic.diagnostics import (
    DiagnosticGroup,
    summarize_diagnostics,
    summarize_failures,
)
from capecam.pipeline.calibration import read_calibration
from capecam.run.applied_calibration import read_for
from capecam.run.supervisor import anchor, share
from capecam.run.text_table import text_table
from capecam.run.trial import Trial, try_network
from capecam.runtime.progress import SILENT, Progress, duration
from capecam.settings import PIXEL_METHODS, Settings
from capecam.store.file_names import OBJECTS
from capecam.store.ledger import Ledger
from capecam.store.provenance import recorded_value_range
from capecam.store.records import RunRecord
from capecam.store.run_folder import read_run
from capecam.store.staleness import NEW, CellState, ImageHashes, Inputs, by_cause, check_cells

WRITE_MPX_S = {"classes": 2250.0, "noisy": 300.0, "guided": 300.0}
"""Pixels encoded per CPU-second: the mask of classes; a noisy 8-bit band (docs/performance.md)."""
BYTES_PER_PX = {"classes": 0.01, "noisy": 0.45, "guided": 0.15}
"""On disk, per pixel and band: 20-70 MB a noisy band of 156 Mpx; up to 23 MB a band of a guided
map, most of whose pixels are 0 (docs/method.md#the-scale-of-guided-maps)."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one product of the whole city."""

    product: str
    disk_gb: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """Plan of a run."""

    cells: dict[str, int]
    """Maximum number of tiles by cell of this shard; tiles without imagery are skipped."""
    todo: dict[str, str]
    """Reasons by cell that the run would process."""
    by_cause: str
    """Phrase that says how many of these there are for which cause."""
    failures: dict[str, str]
    """Reasons by image that cannot be used, or cell that failed and would be skipped."""
    shifted: dict[str, tuple[float, float]]
    diagnostics: tuple[DiagnosticGroup, ...]
    """Diagnostics of the images, unusable images first."""
    size: tuple[int, int]
    """Width and height of the mosaic in pixels."""
    host_memory_gb: float
    costs: tuple[Cost, ...]
    tiles_per_second: float | None
    """Measured by an earlier run into the same folder, or by a trial; None without both."""
    calibration_tiles: int
    """Number of tiles that are processed before the first cell, for the colour scale."""
    trial: Trial | None
    """Measurement of a few tiles, where nothing has run into the folder yet."""
    why_no_trial: str
    """Why nothing was measured; empty if nothing was to be."""
    free_gb: float | None
    """Free space on the disk of the output folder."""

    @property
    def tiles(self) -> int:
        """Largest possible number of tiles that the run would process."""
        return sum(self.cells[name] for name in self.todo)

    @property
    def seconds(self) -> float | None:
        """Wall time at the measured rate, without explaining the objects, which are not known."""
        if not self.tiles_per_second:
            return None
        return (self.tiles + self.calibration_tiles) / self.tiles_per_second

    def to_json(self) -> dict[str, object]:
        """Return the plan as ``--json`` prints it."""
        tree = {**asdict(self), "tiles": self.tiles, "seconds": self.seconds}
        del tree["by_cause"]  # a summary of ``todo``, for people
        del tree["diagnostics"]
        tree["unusual"] = [group.to_json() for group in self.diagnostics]
        return tree

    def to_text(self) -> str:
        """Return the plan as text."""
        measured_gb = self.trial.memory_gb if self.trial else None
        lines = [
            f"mosaic    {self.size[0]} x {self.size[1]} px",
            f"cells     {len(self.cells)}, of which {len(self.todo)} are to be made"
            + (f" ({self.by_cause})" if self.todo else ""),
            f"tiles     at most {self.tiles} (those without imagery are not run)",
            f"memory    about {self.host_memory_gb:.1f} GB beside the network"
            + (f", which takes {measured_gb:.1f} GB (measured)" if measured_gb else ""),
            f"disk      about {_disk_size(sum(cost.disk_gb for cost in self.costs))}"
            + (f"; {_disk_size(self.free_gb)} are free" if self.free_gb is not None else ""),
        ]
        lines += [
            f"product   {c.product:<18} about {_disk_size(c.disk_gb)}, "
            f"{c.cpu_seconds:.0f} CPU-seconds"
            for c in self.costs
        ]
        lines.append(f"time      {self._time()}")
        lines += ["", diagnostics_table(self.diagnostics), ""]
        lines += [f"make      {n}: {self.cells[n]} tiles; {why}" for n, why in self.todo.items()]
        return "\n".join(lines).rstrip()

    def _time(self) -> str:
        """Return the time in words, and how it is known."""
        if self.seconds is None:
            return f"unknown: {self.why_no_trial or 'nothing has run into this folder yet'}"
        text = f"about {duration(self.seconds)} at {self.tiles_per_second:.3g} tiles/s, as measured"
        if self.trial is None:
            return f"{text} before"
        return (
            f"{text} now: the network on {self.trial.tiles} tiles, {self.trial.device}, "
            f"{self.trial.precision}; with {self.calibration_tiles} tiles for the colour scale, "
            "without explaining objects"
        )


def _disk_size(gb: float) -> str:
    return f"{gb:.1f} GB" if gb >= 1 else f"{1000 * gb:.0f} MB"


def make_plan(
    settings: Settings, progress: Progress = SILENT, *, measure: bool | None = False
) -> Plan:
    """Read the headers, compare with what is done, and count.

    Args:
        settings: of a run.
        progress: hears how far it is.
        measure: run a few tiles through the network if no run has measured its speed; None: only
            on a CPU.

    Raises:
        UsageError: no image can be used, or a calibration does not fit.
    """
    read_for(settings)
    previous = read_run(settings.out) if settings.out else None
    city = city_of(settings, anchor(settings, previous), progress=progress)
    tiling = settings.tiling.tiling
    cells = share(find_cells(city, settings.tiling), settings.run.shard)
    states = _states(settings, city, cells, previous)
    todo, failed = (
        {cell.name: s.reason for cell, s in states.items() if s.state == kind}
        for kind in ("todo", "failed")
    )
    window = city.mosaic.grid.window
    rate = previous.tiles / previous.stages["cells"] if previous and previous.tiles else None
    trial, why_no_trial = None, ""
    if measure is not False and rate is None and settings.checkpoint is not None and todo:
        try:
            if measure is None and pick_device(settings.compute.device).type != "cpu":
                why_no_trial = "a GPU is left alone; give --measure to run a few tiles on it"
            else:
                with gdal_settings():
                    trial = try_network(settings, city, progress)
        except CapecamError as error:
            why_no_trial = str(error)
    is_calibrated = previous is not None or settings.explain.calibration is not None
    return Plan(
        cells={cell.name: city.interest.count(tiling, cell.core) for cell in cells},
        todo=todo,
        by_cause=by_cause(state.cause for state in states.values()),
        failures=city.failures | failed,
        shifted={s.name: s.shift_px for s in city.mosaic.sources if any(s.shift_px)},
        diagnostics=(
            *summarize_failures(city.failures),
            *summarize_failures(failed),
            *summarize_diagnostics(city, settings),
        ),
        size=(window.width, window.height),
        host_memory_gb=max((_memory_gb(cell, settings) for cell in cells), default=0.0),
        costs=_costs([cell for cell in cells if cell.name in todo], settings),
        tiles_per_second=trial.tiles_per_second if trial else rate,
        calibration_tiles=0 if is_calibrated else settings.explain.calibration_tiles,
        trial=trial,
        why_no_trial=why_no_trial,
        free_gb=_free_gb(settings.out) if settings.out else None,
    )


def _free_gb(out: Path) -> float:
    """Return the free space on the disk of a folder, which may not exist yet."""
    nearest = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    return shutil.disk_usage(nearest).free / 1e9


def _states(
    settings: Settings, city: City, cells: Sequence[Cell], previous: RunRecord | None
) -> dict[Cell, CellState]:
    """Return what a run would find about each cell."""
    if settings.out is None or previous is None:
        return dict.fromkeys(cells, CellState("todo", "new", NEW))
    city = city.with_value_range(recorded_value_range(city.mosaic, settings, previous))
    inputs = _inputs(settings, city, previous)
    return check_cells(cells, inputs, Ledger.of(settings.out), ImageHashes())


def _inputs(settings: Settings, city: City, previous: RunRecord) -> Inputs:
    """Return what a run would find out, as far as it follows from the previous run."""
    calibration, checkpoint = previous.calibration, previous.checkpoint.sha256
    if settings.explain.calibration:
        calibration = read_calibration(settings.explain.calibration)
    if settings.checkpoint:
        checkpoint = checkpoint_sha256(settings.checkpoint)
    precision = settings.compute.precision
    return Inputs(
        city,
        settings,
        checkpoint,
        previous.precision if precision == "auto" else precision,
        calibration,
    )


def _memory_gb(cell: Cell, settings: Settings) -> float:
    """Return the size of a row of tiles, of two rows of blocks of pixels, of blocks to write."""
    tiling, classes = settings.tiling.tiling, len(settings.model.classes)
    width = tiling.window_read(cell.core).width
    strips = tiling.size * width * 4 * 2 * (classes + 1 + classes)
    pixels = 2 * width * (tiling.step * 10 + tiling.overlap) * 4
    writing = 512 * width * 2 * (classes - 1)
    return (strips + pixels + writing) / 1e9


def _costs(cells: Sequence[Cell], settings: Settings) -> tuple[Cost, ...]:
    """Return the cost of each product; heatmaps of blocks are a hundredth of a full band."""
    pixels = sum(cell.core.width * cell.core.height for cell in cells)
    bands, block_px = len(settings.model.classes) - 1, settings.tiling.stride**2
    amounts = {"classes": ("classes", pixels), "probability": ("noisy", pixels * bands)}
    for method in settings.explain.methods:
        if method in PIXEL_METHODS:
            amounts[method] = ("guided", pixels * bands)
        else:
            amounts[method] = ("noisy", pixels * bands // block_px)
    if settings.objects.explain != "none":
        amounts[OBJECTS] = ("noisy", pixels * bands // block_px)
    return tuple(
        Cost(name, BYTES_PER_PX[kind] * n / 1e9, n / 1e6 / WRITE_MPX_S[kind])
        for name, (kind, n) in amounts.items()
    )


def diagnostics_table(groups: Sequence[DiagnosticGroup]) -> str:
    """Return a table of what is unusual about images."""
    rows = [
        (group.diagnostic.finding, group.image_names, group.diagnostic.action) for group in groups
    ]
    if not rows:
        return "nothing unusual"
    return text_table(("unusual", "images", "what the run does"), rows)
