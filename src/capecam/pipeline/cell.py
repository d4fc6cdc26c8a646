"""One cell, start to finish: the way of the data as a straight line. Read this file first.

``windows -> batches -> engine -> maps -> stitcher -> rows -> rasters and pieces``
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from capecam.attribution.engine import Engine
from capecam.attribution.maps import check_finite
from capecam.detections.measurement import write_pieces
from capecam.detections.tracing import Tracer
from capecam.grid import Cell
from capecam.io.cog import LEVELS, NODATA, CogSet, Product
from capecam.mosaic.aoi import AreaOfInterest
from capecam.mosaic.mosaic import Mosaic
from capecam.mosaic.reader import Reader
from capecam.pipeline.stage_timer import StageTimer
from capecam.pipeline.stitching import FinishedRows, Stitcher, StitchPlan
from capecam.pipeline.tiles import Tile, batches, read_tiles
from capecam.runtime.background import in_background
from capecam.settings import PIXEL_METHODS, ClassSettings, Settings
from capecam.store.file_names import PIECES
from capecam.store.records import CalibrationRecord


@dataclass(frozen=True, slots=True)
class Job:
    """What all cells of a run have in common."""

    mosaic: Mosaic
    interest: AreaOfInterest
    engine: Engine
    calibration: CalibrationRecord
    settings: Settings
    batch_size: int
    """Tiles that go through the network together; part of what makes results identical."""


@dataclass(frozen=True, slots=True)
class CellReport:
    """What came of a cell."""

    tiles: int
    """Windows that were run, those shared with neighbours included."""
    valid_px: int
    """Pixels of the core with imagery."""
    detections: int
    """Unfiltered pieces."""
    singular: int
    """Grad-CAM++ entries left out because their denominator vanishes."""
    batch_size: int
    """Tiles that went through the network at once: fewer, once the device had no memory left."""
    unreadable: dict[str, str]
    """Neighbouring images of which blocks in reach are nodata, and why."""
    stages: dict[str, float]
    """Seconds. The main thread reads (waits for pixels, that is), runs the engine, stitches, and in
    the end finishes the rasters; behind it each raster is written, and polygons are traced."""


def process(cell: Cell, job: Job, folder: Path, progress: Callable[[int], object]) -> CellReport:
    """Make all products of a cell in a folder.

    Args:
        cell: the pixels to cover.
        job: imagery, network, colour scale, settings.
        folder: exists and is empty.
        progress: told the number of tiles of each finished batch.

    Raises:
        ImageError: an image that the cell needs cannot be decoded.
        NotFiniteError: the network's gradients overflowed.
    """
    engine, tiling, grid = job.engine, job.settings.tiling.tiling, job.mosaic.grid.crop(cell.core)
    clock, unreadable = StageTimer(), dict[str, str]()
    stitcher = Stitcher(_scheme(job), cell, engine.device)
    tracer = Tracer(cell.core.col, cell.image)
    count, (singular, broken) = 0, torch.zeros(2, dtype=torch.int64, device=engine.device)

    with (
        closing(_read(cell, job, unreadable)) as tiles,
        CogSet(folder, grid, grid.coarsen(tiling.stride), products(job)) as cogs,
    ):
        with _sink(cogs, tracer, clock) as hand_over:
            for batch in clock.each("read", batches(tiles, engine.tiles_per_call(job.batch_size))):
                with clock("engine", engine.device):
                    maps = engine(batch.pixels, batch.valid)
                with clock("stitch", engine.device):
                    finished = list(stitcher.add(batch, maps))
                hand_over(finished)
                singular += maps.singular
                broken += maps.broken
                count += len(batch.windows)
                progress(len(batch.windows))
            hand_over(stitcher.finish())
        check_finite(broken, engine.precision)
        with clock("finish"):
            cogs.finish()

    pieces = tracer.finish()
    write_pieces(pieces, grid, [c.name for c in engine.model.classes], folder / PIECES)
    return CellReport(
        count,
        int(stitcher.valid_px),
        len(pieces),
        int(singular),
        min(job.batch_size, engine.max_tiles),
        unreadable,
        clock.seconds(),
    )


def _read(cell: Cell, job: Job, unreadable: dict[str, str]) -> Generator[Tile, None, None]:
    """The tiles of a cell. To be closed where it is not read to its end: its threads go on reading,
    and the garbage collector, which may run in one of them, would close files under the others.
    """
    return read_tiles(
        partial(Reader, job.mosaic, cell.image, unreadable),
        job.settings.tiling.tiling,
        cell.core,
        interest=job.interest,
        readers=job.settings.compute.readers,
        device=job.engine.device,
    )


@contextmanager
def _sink(
    cogs: CogSet, tracer: Tracer, clock: StageTimer
) -> Iterator[Callable[[Iterable[FinishedRows]], None]]:
    """Where finished rows go: into every raster and through the tracer, each in its own thread."""

    def write(name: str, rows: FinishedRows) -> None:
        values = rows.arrays().get(name)
        if values is None:
            return  # a few pixel rows, in which no row of blocks starts
        with clock(f"write {name}"):
            cogs.writers[name].write(values)

    def trace(rows: FinishedRows) -> None:
        arrays = rows.arrays()
        with clock("trace"):
            tracer.add(rows.row, arrays["classes"][0], arrays["probability"])

    with ExitStack() as stack:
        consumers: list[Callable[[FinishedRows], None]] = [
            partial(write, name) for name in cogs.writers
        ]
        threads = [stack.enter_context(in_background(consume)) for consume in (*consumers, trace)]

        def hand_over(finished: Iterable[FinishedRows]) -> None:
            for rows in finished:
                for thread in threads:
                    thread(rows)

        yield hand_over


def _scheme(job: Job) -> StitchPlan:
    explain, model = job.settings.explain, job.engine.model
    return StitchPlan(
        job.settings.tiling.tiling,
        explain.methods,
        len(model.foreground),
        job.calibration.scale_max if explain.heatmap_dtype == "uint8" else None,
        explain.where == "detected",
        model.sigmoid,
    )


def products(job: Job) -> list[Product]:
    """The rasters of a cell (DESIGN section 5)."""
    explain, classes = job.settings.explain, job.engine.model.classes
    names = tuple(c.name for c in classes[1:])
    levels = Product("probability", names, "uint8", NODATA, scale=1 / LEVELS)
    raw = Product("", names, "float32", float("nan"))
    heat = levels if explain.heatmap_dtype == "uint8" else raw
    return [
        Product("classes", ("class",), "uint8", NODATA, palette=_palette(classes)),
        levels,
        *(
            replace(heat, name=name, tags=_heat_tags(name, job), coarse=name not in PIXEL_METHODS)
            for name in explain.methods
        ),
    ]


def _palette(classes: Sequence[ClassSettings]) -> dict[int, tuple[int, int, int]]:
    return {index: entry.rgb for index, entry in enumerate(classes)}


def _heat_tags(method: str, job: Job) -> tuple[dict[str, str], ...]:
    """By band, what a reader needs to get raw values back; ``none`` marks an empty class."""
    return tuple(
        {
            "CAPECAM_CALIBRATION": "none" if top is None else repr(top),
            "CAPECAM_METHOD": method,
            "CAPECAM_SCORE": job.settings.explain.score,
            "CAPECAM_TARGET_LAYER": job.engine.model.target_layer,
        }
        for top in job.calibration.scale_max[method]
    )
