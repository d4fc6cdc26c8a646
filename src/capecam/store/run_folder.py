"""What a run has left in its folder, for all that comes after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from capecam.errors import OutputError
from capecam.grid import Grid, Window
from capecam.io.heat_layer import HeatLayer
from capecam.io.vrt import Layer, VrtTile
from capecam.mosaic.mosaic import Mosaic
from capecam.settings import METHODS, PIXEL_METHODS, Settings
from capecam.store.file_names import RUN_JSON
from capecam.store.ledger import Ledger
from capecam.store.provenance import imagery_of, settings_of
from capecam.store.schemas import Run, read_record


def read_run(out: Path) -> dict[str, Any] | None:
    """The record of the run in a folder, or None.

    Raises:
        OutputError: it is there and cannot be read.
    """
    path = out / RUN_JSON
    if not path.exists():
        return None
    try:
        return read_record(path, Run)
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{path} cannot be read ({str(error)[:200]}); remove it to start afresh"
        ) from error


def known_run(out: Path) -> dict[str, Any]:
    """The record of the run in a folder.

    Raises:
        OutputError: it holds none, or one that cannot be read.
    """
    record = read_run(out)
    if record is None:
        raise OutputError(f"{out}: holds no {RUN_JSON}; start with capecam run")
    return record


def product(out: Path, name: str) -> Path:
    """A city product of the run in a folder.

    Raises:
        OutputError: it has not been made.
    """
    path = out / name
    if not path.exists():
        raise OutputError(f"{out}: holds no {name}; make it with capecam finish")
    return path


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run whose cells are done, at least some of them."""

    out: Path
    record: Mapping[str, Any]
    """``run.json``."""
    settings: Settings
    """Of the run."""
    cells: Mapping[str, dict[str, Any]]
    """``cell.json`` of every finished cell that belongs to the run, by name."""

    @classmethod
    def open(cls, out: Path) -> Self:
        """That of a folder.

        Raises:
            OutputError: it holds no run, or no finished cell.
        """
        record, ledger = known_run(out), Ledger.of(out)
        settings = settings_of(out, record)
        wanted = set(record["cells"])
        read = {name: ledger.read(name) for name in ledger.done() if name in wanted}
        cells = {name: cell for name, cell in read.items() if cell}  # what is damaged is not done
        if not cells:
            raise OutputError(f"{out}: no cell is finished; start with capecam run")
        return cls(out, record, settings, cells)

    @property
    def grid(self) -> Grid:
        """Of the mosaic."""
        return grid_from_json(self.record)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all classes, 0 first."""
        return tuple(entry.name for entry in self.settings.model.classes)

    @property
    def products(self) -> list[str]:
        """File names of the rasters of which there are some."""
        files = {file for cell in self.cells.values() for file in cell["files"]}
        return sorted(file for file in files if file.endswith(".tif"))

    def core(self, cell: str) -> Window:
        """The pixels that a cell covers."""
        return Window(**self.cells[cell]["basis"]["core"])

    def path(self, cell: str, file: str) -> Path:
        """Of a file of a cell."""
        return Ledger.of(self.out).folder / cell / file

    def stride(self, product: str) -> int:
        """Edge of a raster's blocks, in pixels of the imagery."""
        method = Path(product).stem
        coarse = method in METHODS and method not in PIXEL_METHODS
        return self.settings.tiling.stride if coarse else 1

    def layer(self, product: str) -> Layer:
        """Where the cells' rasters of one product lie."""
        stride = self.stride(product)
        tiles = [
            VrtTile(self.path(name, product), window, cell["files"][product]["sha256"])
            for name, cell in self.cells.items()
            if product in cell["files"] and (window := self.core(name).blocks(stride)) is not None
        ]
        return Layer.over(self.grid.coarsen(stride) or self.grid, tiles)

    @property
    def raw(self) -> bool:
        """Whether heatmaps are stored as raw values, and not as levels of the city's scale."""
        return self.settings.explain.heatmap_dtype == "float32"

    def scale_max(self, method: str) -> tuple[float | None, ...]:
        """By foreground class, the raw value that is the end of the city's scale; None where no
        value is positive."""
        return tuple(self.record["calibration"]["tops"][method])

    def heat(self, method: str) -> HeatLayer:
        """The rasters of a heatmap."""
        product = f"{method}.tif"
        layer = self.layer(product) if product in self.products else None
        return HeatLayer(
            method, layer, self.stride(method), self.scale_max(method) if self.raw else None
        )

    def imagery(self) -> Mosaic:
        """All images that can be used now, on the run's lattice.

        Raises:
            UsageError: there is none.
        """
        return imagery_of(self.record, self.settings)


def stage_seconds(work: Mapping[str, float]) -> dict[str, float]:
    """Seconds inside cells by stage, where every raster has a "write" of its own, as recorded."""
    found: dict[str, float] = {}
    for name, seconds in work.items():
        stage = name.split()[0]
        found[stage] = found.get(stage, 0.0) + seconds
    return found


def grid_to_json(grid: Grid) -> dict[str, Any]:
    """As kept in run.json: ``anchor`` and ``grid``."""
    w = grid.window
    window = {"row": w.row, "col": w.col, "height": w.height, "width": w.width}
    return {
        "anchor": grid.anchor,
        "grid": {"crs": grid.crs, "pixel": grid.pixel, "window": window},
    }


def grid_from_json(run: Mapping[str, Any]) -> Grid:
    """The inverse of :func:`grid_to_json`."""
    (x, y), (dx, dy) = run["anchor"], run["grid"]["pixel"]
    return Grid(run["grid"]["crs"], (x, y), (dx, dy), Window(**run["grid"]["window"]))
