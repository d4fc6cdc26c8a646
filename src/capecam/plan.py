"""What a run would do, and what it would cost; from headers alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from capecam.city import read_run
from capecam.grid import Cell
from capecam.run import anchor
from capecam.settings import PIXEL_METHODS, Settings
from capecam.sources import open_city

WRITE_MPX_S = {"classes": 2250.0, "noisy": 300.0}
"""Pixels encoded per CPU-second: the mask of classes; a noisy 8-bit band (DESIGN section 8)."""
BYTES_PER_PX = {"classes": 0.01, "noisy": 0.45}
"""On disk, per pixel and band: 20-70 MB a noisy band of 156 Mpx (DESIGN section 8)."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one product over the whole city."""

    product: str
    disk_gb: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What run would do."""

    cells: dict[str, int]
    """Name of each cell -> tiles, at most; windows without imagery are not run."""
    failures: dict[str, str]
    shifted: dict[str, tuple[float, float]]
    size: tuple[int, int]
    """Of the mosaic in pixels: width, height."""
    host_memory_gb: float
    costs: tuple[Cost, ...]
    tiles_per_second: float | None
    """Measured by an earlier run into the same folder; None if there was none."""

    @property
    def tiles(self) -> int:
        """Of all cells, at most."""
        return sum(self.cells.values())

    @property
    def seconds(self) -> float | None:
        """Wall time at the measured rate."""
        return self.tiles / self.tiles_per_second if self.tiles_per_second else None

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "tiles": self.tiles, "seconds": self.seconds}

    def to_text(self) -> str:
        """For people."""
        lines = [
            f"mosaic    {self.size[0]} x {self.size[1]} px",
            f"cells     {len(self.cells)}",
            f"tiles     at most {self.tiles} (those without imagery are not run)",
            f"memory    about {self.host_memory_gb:.1f} GB beside the network",
        ]
        lines += [
            f"product   {c.product:<18} about {c.disk_gb:.2f} GB, {c.cpu_seconds:.0f} CPU-seconds"
            for c in self.costs
        ]
        rate = self.tiles_per_second
        lines.append(
            f"time      about {self.seconds:.0f} s at {rate:.1f} tiles/s, as measured before"
            if rate
            else "time      unknown: nothing has been measured into this folder yet"
        )
        lines += [f"shifted   {name}: {dx}, {dy} px" for name, (dx, dy) in self.shifted.items()]
        lines += [f"unusable  {name}: {reason}" for name, reason in self.failures.items()]
        lines += [f"cell      {name}: {tiles} tiles" for name, tiles in self.cells.items()]
        return "\n".join(lines)


def make_plan(settings: Settings) -> Plan:
    """Read the headers and count.

    Raises:
        UsageError: there is no usable image.
    """
    before = (read_run(settings.out) if settings.out else None) or {}
    city = open_city(settings.sources, anchor(settings, before))
    tiling = settings.tiling.tiling
    cells = city.mosaic.cells(tiling, settings.tiling.cell_size)
    window = city.mosaic.grid.window
    stages = before.get("stages", {})
    rate = before["tiles"] / stages["cells"] if before.get("tiles") else None
    return Plan(
        {cell.name: tiling.count(cell.core) for cell in cells},
        city.failures,
        {s.name: s.shift_px for s in city.mosaic.sources if any(s.shift_px)},
        (window.width, window.height),
        max(_memory_gb(cell, settings) for cell in cells),
        _costs(cells, settings),
        rate,
    )


def _memory_gb(cell: Cell, settings: Settings) -> float:
    """Strips of one row of tiles, two rows of super-blocks of pixels, blocks being written."""
    tiling, classes = settings.tiling.tiling, len(settings.model.classes)
    width = tiling.reach(cell.core).width
    strips = tiling.size * width * 4 * 2 * (classes + 1 + classes)
    pixels = 2 * width * (tiling.step * 10 + tiling.overlap) * 4
    writing = 512 * width * 2 * (classes - 1)
    return (strips + pixels + writing) / 1e9


def _costs(cells: tuple[Cell, ...], settings: Settings) -> tuple[Cost, ...]:
    """From the measured facts; heatmaps of blocks are a hundredth of a full band."""
    pixels = sum(cell.core.width * cell.core.height for cell in cells)
    bands, block = len(settings.model.classes) - 1, settings.tiling.stride**2
    amounts = {"classes": ("classes", pixels), "probability": ("noisy", pixels * bands)}
    for method in settings.explain.methods:
        share = 1 if method in PIXEL_METHODS else block
        amounts[method] = ("noisy", pixels * bands // share)
    return tuple(
        Cost(name, BYTES_PER_PX[kind] * n / 1e9, n / 1e6 / WRITE_MPX_S[kind])
        for name, (kind, n) in amounts.items()
    )
