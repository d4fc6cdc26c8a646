"""Process one cell from start to finish. Read this file first.

``windows -> batches -> engine -> maps -> stitcher -> rows -> rasters and pieces``
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
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
from capecam.mosaic.border_probe import BorderProbe
from capecam.mosaic.city import City
from capecam.mosaic.reader import Reader
from capecam.pipeline.preparation import RunConstants
from capecam.pipeline.stage_timer import StageTimer
from capecam.pipeline.stitching import FinishedRows, Stitcher, StitchPlan
from capecam.pipeline.tiles import Tile, batches, read_tiles, with_first
from capecam.runtime.background import in_background
from capecam.settings import PIXEL_METHODS, Settings
from capecam.store.about import About
from capecam.store.file_names import PIECES

OnTiles = Callable[[int], object]
"""Called with the number of tiles of each finished batch."""


@dataclass(frozen=True, slots=True)
class Job:
    """Inputs that all cells of a run share."""

    city: City
    constants: RunConstants
    settings: Settings
    engine: Engine
    turn: threading.Lock
    """Held while the engine runs a cell: the next one may be read meanwhile, but not run."""


@dataclass(frozen=True, slots=True)
class CellReport:
    """Numbers about a finished cell."""

    tiles: int
    """Number of windows that were run, including those shared with neighbours."""
    valid_px: int
    """Number of pixels of the core with imagery."""
    border_share: float
    """Share of them in a nearly black or white border that is not marked as nodata."""
    blank: bool
    """None of them, nor of the tiles' other pixels, is of the cell's own image."""
    detections: int
    """Number of unfiltered pieces."""
    singular: int
    """Number of Grad-CAM++ entries skipped because their denominator vanishes."""
    batch_size: int
    """Tiles that went through the network at once; lowered when the device runs out of memory."""
    unreadable: dict[str, str]
    """Neighbouring images with unreadable blocks, which became nodata, and why."""
    stages: dict[str, float]
    """Seconds by stage. One thread waits for pixels (``read``), runs the engine, stitches, waits
    for those that write each raster and trace polygons (``wait``), and finishes the rasters."""


def process(cell: Cell, job: Job, folder: Path, about: About, on_tiles: OnTiles) -> CellReport:
    """Write all products of a cell into a folder.

    Args:
        cell: the pixels to cover.
        job: imagery, network, calibration and settings.
        folder: exists and is empty.
        about: statement about their origin, for each of them.
        on_tiles: called with the number of tiles of each finished batch.

    Raises:
        ImageError: an image that the cell needs cannot be decoded.
        NotFiniteError: the network's gradients overflowed.
    """
    engine, tiling = job.engine, job.settings.tiling.tiling
    grid, batch_size = job.city.mosaic.grid.crop(cell.core), job.constants.batch_size
    timer, border = StageTimer(), BorderProbe(cell)
    unreadable, with_pixels = dict[str, str](), set[str]()
    open_reader = partial(Reader, job.city.mosaic, cell.image, unreadable, with_pixels)
    stitcher = Stitcher(_stitch_plan(job), cell, engine.device)
    tracer = Tracer(cell.core.col, cell.image)
    count, (singular, broken) = 0, torch.zeros(2, dtype=torch.int64, device=engine.device)

    with (
        closing(_read(cell, job, open_reader, border)) as tiles,
        CogSet(
            folder, grid, grid.coarsen(tiling.stride), _products(job), about.tiff_tags()
        ) as cogs,
    ):
        with _consumers(cogs, tracer, timer) as consume:
            tile_batches = batches(tiles, engine.tiles_per_call(batch_size))
            ready = with_first(timer.each("read", tile_batches))
            with job.turn:
                for batch in ready:
                    with timer("engine", engine.device):
                        maps = engine(batch.pixels, batch.valid)
                    with timer("stitch", engine.device):
                        finished = list(stitcher.add(batch, maps))
                    with timer("wait"):
                        consume(finished)
                    singular += maps.singular
                    broken += maps.broken
                    count += len(batch.windows)
                    on_tiles(len(batch.windows))
                consume(stitcher.finish())
        check_finite(broken, engine.precision)
        with timer("finish"):
            cogs.finish()

    with timer("trace"):
        pieces = tracer.finish()
        names = [entry.name for entry in engine.model.classes]
        write_pieces(pieces, grid, names, folder / PIECES, about.texts())
    return CellReport(
        count,
        int(stitcher.valid_px),
        round(border.share(), 4),
        cell.image not in with_pixels,
        len(pieces),
        int(singular),
        min(batch_size, engine.max_tiles),
        unreadable,
        timer.seconds(),
    )


def _read(
    cell: Cell, job: Job, open_reader: Callable[[], Reader], border: BorderProbe
) -> Generator[Tile, None, None]:
    """Read the tiles of a cell.

    The generator has to be closed if it is not exhausted: its threads would continue to read, and
    the garbage collector, which may run in one of them, would close files that others use.
    """
    return read_tiles(
        open_reader,
        job.settings.tiling.tiling,
        cell.core,
        image=job.city.mosaic.source(cell.image),
        interest=job.city.interest,
        readers=job.settings.compute.readers,
        device=job.engine.device,
        on_read=border.add,
    )


@contextmanager
def _consumers(
    cogs: CogSet, tracer: Tracer, timer: StageTimer
) -> Iterator[Callable[[Iterable[FinishedRows]], None]]:
    """Return a function that passes rows to every raster and the tracer, each in its own thread."""

    def write(name: str, rows: FinishedRows) -> None:
        values = rows.arrays().get(name)
        if values is None:
            return  # pixel rows in which no row of blocks starts
        with timer(f"write {name}"):
            cogs.writers[name].write(values)

    def trace(rows: FinishedRows) -> None:
        arrays = rows.arrays()
        with timer("trace"):
            tracer.add(rows.row, arrays["classes"][0], arrays["probability"])

    with ExitStack() as stack:
        writers: list[Callable[[FinishedRows], None]] = [
            partial(write, name) for name in cogs.writers
        ]
        threads = [stack.enter_context(in_background(consume)) for consume in (*writers, trace)]

        def consume(finished: Iterable[FinishedRows]) -> None:
            for rows in finished:
                for thread in threads:
                    thread(rows)

        yield consume


def _stitch_plan(job: Job) -> StitchPlan:
    explain, model = job.settings.explain, job.engine.model
    calibration = job.constants.calibration
    return StitchPlan(
        job.settings.tiling.tiling,
        explain.methods,
        len(model.foreground),
        calibration.scale_max if explain.heatmap_dtype == "uint8" else None,
        explain.where == "detected",
        model.sigmoid,
        calibration.floor,
    )


def _products(job: Job) -> list[Product]:
    """Return the rasters of a cell (docs/outputs.md)."""
    explain, classes = job.settings.explain, job.engine.model.classes
    names = tuple(c.name for c in classes[1:])
    levels = Product("probability", names, "uint8", NODATA, scale=1 / LEVELS)
    raw = Product("", names, "float32", float("nan"))
    heat = levels if explain.heatmap_dtype == "uint8" else raw
    palette = {index: entry.rgb for index, entry in enumerate(classes)}
    return [
        Product("classes", ("class",), "uint8", NODATA, palette=palette),
        levels,
        *(
            replace(heat, name=name, tags=_heat_tags(name, job), coarse=name not in PIXEL_METHODS)
            for name in explain.methods
        ),
    ]


def _heat_tags(method: str, job: Job) -> tuple[dict[str, str], ...]:
    """Return the tags of each band, which give raw values back; ``none`` marks an empty class."""
    calibration = job.constants.calibration
    tops = calibration.scale_max[method]
    tags = [
        {
            "CAPECAM_CALIBRATION": _raw(top),
            "CAPECAM_METHOD": method,
            "CAPECAM_SCORE": job.settings.explain.score,
            "CAPECAM_TARGET_LAYER": job.engine.model.target_layer,
        }
        for top in tops
    ]
    if calibration.is_by_root(method) and job.settings.explain.heatmap_dtype == "uint8":
        for band, floor in zip(tags, calibration.floor[method], strict=True):
            band |= {"CAPECAM_TRANSFER": "sqrt", "CAPECAM_FLOOR": _raw(floor)}
    return tuple(tags)


def _raw(value: float | None) -> str:
    return "none" if value is None else repr(value)
