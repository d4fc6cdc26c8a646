"""The folder of a run, for everything that works on its results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from capecam.errors import OutputError, UsageError
from capecam.grid import Grid, Window
from capecam.io.heat_layer import HeatLayer
from capecam.io.vrt import Layer, VrtTile
from capecam.mosaic.aoi import AreaOfInterest, read_aoi
from capecam.mosaic.mosaic import Mosaic, Source
from capecam.settings import METHODS, PIXEL_METHODS, Settings
from capecam.settings.capture_date import CaptureDate
from capecam.store.about import SOFTWARE, About, model_title
from capecam.store.file_names import DETECTIONS, OBJECTS, RUN_JSON, check_is_run
from capecam.store.ledger import Ledger
from capecam.store.provenance import imagery_of, settings_of
from capecam.store.records import CalibrationRecord, CellRecord, FileFacts, RunRecord, read_record
from capecam.store.staleness import ImageHashes


def read_run(out: Path) -> RunRecord | None:
    """Return the record of the run in a folder, or None.

    Raises:
        OutputError: it exists and cannot be read.
    """
    return _read(out / RUN_JSON) if (out / RUN_JSON).exists() else None


def _read(path: Path) -> RunRecord:
    try:
        return read_record(path, RunRecord)
    except (OSError, ValueError) as error:
        raise OutputError(
            f"{path} cannot be read ({str(error)[:200]}); remove it to start afresh"
        ) from error


def known_run(out: Path) -> RunRecord:
    """Return the record of the run in a folder.

    Raises:
        OutputError: the folder holds none, or one that cannot be read.
    """
    check_is_run(out)
    return _read(out / RUN_JSON)


def product(out: Path, name: str) -> Path:
    """Return the path of a city product of the run in a folder.

    Raises:
        OutputError: it does not exist.
    """
    path = out / name
    if not path.exists():
        raise OutputError(f"{out}: holds no {name}; make it with capecam finish")
    return path


@dataclass(frozen=True)
class RunFolder:
    """A run, its finished cells, and its imagery."""

    out: Path
    record: RunRecord
    settings: Settings
    """The run's, with paths that lead to its files from here."""
    cells: Mapping[str, CellRecord]
    """Finished cells that belong to the run, by name."""

    @classmethod
    def open(cls, out: Path) -> Self:
        """Read the records of a run.

        Raises:
            OutputError: the folder holds no run.
        """
        record, ledger = known_run(out), Ledger.of(out)
        names = set(record.cells).intersection(ledger.done())
        cells = {
            name: cell
            for name in sorted(names)
            if (cell := ledger.read(name)) and _has_levels_of(cell, record.calibration)
        }
        return cls(out, record, settings_of(out, record), cells)

    @classmethod
    def open_finished(cls, out: Path) -> Self:
        """Read the records of a run that has at least one finished cell.

        Raises:
            OutputError: the folder holds no run, or no finished cell.
        """
        run = cls.open(out)
        if not run.cells:
            raise OutputError(f"{out}: no cell is finished; start with capecam run")
        return run

    @property
    def grid(self) -> Grid:
        """The mosaic's grid."""
        return self.record.pixel_grid

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all classes, 0 first."""
        return tuple(entry.name for entry in self.settings.model.classes)

    @property
    def products(self) -> list[str]:
        """File names of the rasters that at least one cell has."""
        files = {file for name in self.cells for file in self.files(name)}
        return sorted(file for file in files if file.endswith(".tif"))

    def files(self, cell: str) -> dict[str, FileFacts]:
        """Return the files of a cell: its own, and the raster of objects that reach into it."""
        objects = self.record.objects.get(cell)
        return {**self.cells[cell].files, **({f"{OBJECTS}.tif": objects} if objects else {})}

    @property
    def why_no_checkpoint(self) -> str:
        """Return why a run that names no checkpoint has none, and the remedy."""
        network = self.record.checkpoint
        return (
            f"its network ({network.architecture}, sha256 {network.sha256}) was given in memory; "
            "adapt it again, and give it as model to Results.open or explain_object "
            "(docs/networks.md)"
        )

    @property
    def raw(self) -> bool:
        """Return whether heatmaps are stored as raw values, not as levels of the scale."""
        return self.settings.explain.heatmap_dtype == "float32"

    @cached_property
    def mosaic(self) -> Mosaic:
        """All images that can be used now, on the run's grid, also those outside of its area of
        interest or shard.

        Raises:
            UsageError: no image can be used.
        """
        return imagery_of(self.record, self.settings)

    def interest(self) -> AreaOfInterest:
        """Return the part of the mosaic that the run has worked on.

        Raises:
            UsageError: the file that defines it cannot be read.
        """
        return read_aoi(self.settings.mosaic, self.mosaic.grid)

    @cached_property
    def about(self) -> About:
        """Statement about the products of the city."""
        cells = self.cells.values()
        about = About(
            software=SOFTWARE,
            model=self._model_title,
            model_sha256=self.record.checkpoint.sha256,
            run=" ".join(sorted({cell.inputs.run for cell in cells})),
        )
        dates = [self.captured(cell.image) for cell in cells]
        return about.published(self.settings.about, CaptureDate.over(dates))

    def about_cell(self, cell: str) -> About:
        """Return the statement about the products of a cell: its own, with what holds now of the
        publisher's, and the name that the same network has now."""
        record = self.cells[cell]
        about = record.about or self._about_unknown(record)
        if about.model_sha256 == self.record.checkpoint.sha256:
            about = about.model_copy(update={"model": self._model_title})
        return about.published(self.settings.about, self.captured(record.image))

    def _about_unknown(self, cell: CellRecord) -> About:
        """Return what is known of a cell that a version without statements has made."""
        inputs = cell.inputs
        return About(software="capecam", model_sha256=inputs.checkpoint, run=inputs.run)

    @property
    def _model_title(self) -> str:
        """Name of the run's network."""
        file = self.settings.checkpoint
        return model_title(self.record.checkpoint.architecture, file.name if file else "")

    def captured(self, image: str) -> CaptureDate | None:
        """Return when an image was taken, if that is known."""
        text = self.record.captured.get(image)
        return CaptureDate(text) if text else None

    def core(self, cell: str) -> Window:
        """Return the pixels that a cell covers."""
        return self.cells[cell].inputs.core

    def path(self, cell: str, file: str) -> Path:
        """Return the path of a file of a cell."""
        return Ledger.of(self.out).folder / cell / file

    def stride(self, product: str) -> int:
        """Return the edge of a raster's blocks, in pixels of the imagery."""
        method = Path(product).stem
        coarse = method in {OBJECTS, *METHODS} and method not in PIXEL_METHODS
        return self.settings.tiling.stride if coarse else 1

    def layer(self, product: str) -> Layer:
        """Return the cells' rasters of one product, with their windows."""
        stride = self.stride(product)
        tiles = [
            VrtTile(self.path(name, product), window, files[product].sha256, files[product].version)
            for name in self.cells
            if product in (files := self.files(name))
            and (window := self.core(name).blocks(stride)) is not None
        ]
        return Layer.over(self.grid.coarsen(stride) or self.grid, tiles)

    def heat(self, method: str) -> HeatLayer:
        """Return the rasters of a heatmap."""
        product = f"{method}.tif"
        layer = self.layer(product) if product in self.products else None
        scale_max = self.scale_max(method) if self.raw else None
        return HeatLayer(method, layer, self.stride(method), scale_max, self.is_by_root(method))

    def scale_max(self, method: str) -> tuple[float | None, ...]:
        """Return, by foreground class, the raw value at the top of the city's scale; None where no
        value is positive."""
        return self.record.calibration.scale_max[method]

    def is_by_root(self, method: str) -> bool:
        """Return whether a heatmap is stored and drawn by the square root of its values."""
        return self.record.calibration.is_by_root(method)

    def detections(self) -> Path:
        """Return the path of the city's detections.

        Raises:
            OutputError: it does not exist.
        """
        return product(self.out, DETECTIONS)

    @property
    def detections_version(self) -> str | None:
        """Checksum of the city's detections, by which outdated results are recognised."""
        facts = self.record.products.get(DETECTIONS)
        return facts.version if facts else None

    def check_images(self, names: Iterable[str]) -> None:
        """Check that images still exist.

        Raises:
            UsageError: naming those that do not.
        """
        gone = sorted(set(names) - {source.name for source in self.mosaic.sources})
        if gone:
            raise UsageError(
                f"images of these detections are gone or cannot be used: {', '.join(gone)}; bring "
                "them back to where the run found them, or run again without them"
            )

    def check_unchanged(self, images: Sequence[Source], *, whole: bool) -> None:
        """Check that a tile is what it was when the run read it.

        Args:
            images: those that touch it, at least one.
            whole: all of its pixels are valid, so that no image can be missing.

        Raises:
            UsageError: naming an image that has changed, or is gone.
        """
        tiling, hashes, by_name = self.settings.tiling, ImageHashes(), {i.name: i for i in images}
        existing = {source.name for source in self.mosaic.sources}
        for cell in Mosaic(self.mosaic.grid, tuple(images)).cells(tiling.tiling, tiling.cell_size):
            if (record := Ledger.of(self.out).read(cell.name)) is None or not record.images:
                continue
            image, recorded = by_name[cell.image], record.images
            hashes.learn(recorded)
            if hashes.of_neighbour(image).sha256 != recorded[image.name].sha256:
                raise UsageError(
                    f"{image.header.path}: has changed since the run, which therefore saw "
                    "something else; run again, or bring the old one back"
                )
            gone = sorted(name for name in recorded.keys() - existing if recorded[name].sha256)
            if gone and not whole:
                raise UsageError(
                    f"images beside {image.name} are gone, and may have been in the same tile: "
                    f"{', '.join(gone)}; bring them back to where the run found them"
                )


def _has_levels_of(cell: CellRecord, calibration: CalibrationRecord) -> bool:
    """Return whether the levels of a cell mean what the run's do.

    Those of version 0.1 do not, until the cell is processed again.
    """
    if cell.inputs.explain.get("heatmap_dtype") == "float32":
        return True
    stored = {method for method in PIXEL_METHODS if f"{method}.tif" in cell.files}
    return stored & cell.inputs.floor.keys() == stored & calibration.floor.keys()


def stage_seconds(work: Mapping[str, float]) -> dict[str, float]:
    """Return seconds by stage, with the stages "write RASTER" added up as "write"."""
    total: dict[str, float] = {}
    for name, seconds in work.items():
        stage = name.split()[0]
        total[stage] = total.get(stage, 0.0) + seconds
    return total
