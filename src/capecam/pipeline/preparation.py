"""Find what all cells of a run have in common: value range, precision, batch size, calibration."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from capecam.attribution.autotune import auto_batch_size, auto_precision
from capecam.attribution.engine import Engine
from capecam.errors import UsageError
from capecam.model.model import Model
from capecam.mosaic.city import City
from capecam.mosaic.mosaic import Source
from capecam.mosaic.value_range import find_value_range
from capecam.pipeline.calibration import (
    OnReading,
    calibrate,
    load_calibration,
    sample_tiles,
    why_not_usable,
)
from capecam.pipeline.tiles import Tile, batches
from capecam.runtime.progress import SILENT, Progress
from capecam.settings import AboutSettings, Settings, ValueRange
from capecam.settings.capture_date import CaptureDate
from capecam.store.about import SOFTWARE, About, model_title
from capecam.store.provenance import recorded_value_range
from capecam.store.records import CalibrationRecord, CellInputs, CheckpointRecord, RunRecord
from capecam.store.staleness import Inputs

log = logging.getLogger(__name__)

PRECISION_TILES = 16
"""Number of tiles of the calibration's sample on which the precision is chosen."""

Sampler = Callable[[int], Iterator[Tile]]
"""Returns the first tiles of the run's sample, as many as given."""


@dataclass(frozen=True, slots=True)
class RunConstants:
    """Values that are chosen once for a run, so that they are the same wherever its cells run."""

    device: str
    precision: str
    batch_size: int
    scale: ValueRange | None
    """Pixel values that become 0 and 255; None if no image needs them, or none are given."""
    calibration: CalibrationRecord
    calibrated_s: float
    """Seconds that calibrating took."""
    checkpoint: CheckpointRecord

    def inputs(self, settings: Settings, city: City) -> Inputs:
        """Return what the pixels of all cells depend on."""
        return Inputs(city, settings, self.checkpoint.sha256, self.precision, self.calibration)

    def about(self, settings: Settings, inputs: CellInputs, image: Source) -> About:
        """Return the statement about the products of a cell, which are to be made.

        Args:
            settings: of the run.
            inputs: of the cell.
            image: the cell's own.
        """
        file = settings.checkpoint.name if settings.checkpoint else ""
        about = About(
            software=SOFTWARE,
            model=model_title(self.checkpoint.architecture, file),
            model_sha256=self.checkpoint.sha256,
            run=inputs.run,
        )
        return about.published(settings.about, captured(image, settings.about))


def prepare(
    engine: Engine,
    settings: Settings,
    city: City,
    previous: RunRecord | None,
    on_reading: OnReading = lambda _names: None,
    *,
    progress: Progress = SILENT,
) -> RunConstants:
    """Choose the constants of a run, or take them from an earlier run.

    Args:
        engine: with the run's network, at any precision.
        settings: of the run.
        city: its images.
        previous: record of an earlier run into the same folder.
        on_reading: called with the names of images before they are read, and with none after.
        progress: hears of the tiles with which heatmaps are calibrated.

    Raises:
        UsageError: no image can be sampled, or the calibration that is named does not fit.
    """
    if engine.model.doubt:  # here and not where it is loaded, which every worker does
        log.warning("%s", engine.model.doubt)
    scale = value_range(settings, city, previous, on_reading)
    city = city.with_value_range(scale)

    def sampler(tiles: int) -> Iterator[Tile]:
        return sample_tiles(city, settings.tiling.tiling, tiles, settings.explain.seed, on_reading)

    same_device = previous if previous and previous.device == engine.device.type else None
    engine = engine.at(_precision(settings, engine, sampler, same_device))
    batch_size = _batch_size(settings, engine, same_device)
    started = time.perf_counter()
    calibration = _calibration(settings, engine, sampler, batch_size, previous, progress=progress)
    return RunConstants(
        engine.device.type,
        engine.precision,
        batch_size,
        scale,
        calibration,
        time.perf_counter() - started,
        _describe(engine.model),
    )


def _describe(model: Model) -> CheckpointRecord:
    """Return the record of a network."""
    return CheckpointRecord(
        sha256=model.sha256,
        architecture=model.architecture,
        target_layer=model.target_layer,
        ignored=model.ignored,
        mean=model.normalisation.mean,
        std=model.normalisation.std,
        parameters=sum(parameter.numel() for parameter in model.network.parameters()),
        channels=1 if model.sigmoid else len(model.classes),
    )


def captured(image: Source, settings: AboutSettings) -> CaptureDate | None:
    """Return when an image was taken, if that is known."""
    return settings.date_of(image.name, image.header.metadata.captured)


def warn_of_names(images: Sequence[Source], settings: AboutSettings) -> None:
    """Log how many images have a name in which ``captured_pattern`` finds no date, in a line."""
    pattern = settings.captured_pattern
    if pattern is None:
        return
    undated = [image.name for image in images if CaptureDate.of_name(image.name, pattern) is None]
    if undated:
        log.warning(
            "about.captured_pattern finds no date in the names of %d of %d images, such as %s; "
            "their files' tags are taken, where they have a date",
            len(undated), len(images), undated[0],
        )  # fmt: skip


def value_range(
    settings: Settings,
    city: City,
    previous: RunRecord | None,
    on_reading: OnReading = lambda _names: None,
) -> ValueRange | None:
    """Return the known value range; percentiles that are not known yet are computed.

    Raises:
        UsageError: no image has a valid pixel to take percentiles of.
    """
    known = recorded_value_range(city.mosaic, settings, previous)
    if known is None or not known.percent:
        return known
    try:
        return find_value_range(
            city.mosaic, known, settings.explain.seed, on_reading, city.excluded
        )
    except UsageError as error:
        if len(city.mosaic.scaled) == len(city.mosaic.sources):
            raise
        log.warning("%s", error)  # cells that need the value range fail; the others do not
        return None


def _precision(
    settings: Settings, engine: Engine, sampler: Sampler, previous: RunRecord | None
) -> str:
    """Return the precision of the settings, an earlier run or a trial; float32 on a CPU."""
    if settings.compute.precision != "auto" or engine.device.type == "cpu":
        return engine.precision
    if previous is not None:
        return previous.precision
    batch = next(batches(sampler(PRECISION_TILES), PRECISION_TILES), None)
    return auto_precision(engine, batch.pixels, batch.valid) if batch else engine.precision


def _batch_size(settings: Settings, engine: Engine, previous: RunRecord | None) -> int:
    """Return the batch size of the settings, an earlier run (results depend on it) or a trial."""
    if settings.compute.batch_size != "auto":
        return settings.compute.batch_size
    if previous:
        return previous.batch_size
    return auto_batch_size(engine, settings.tiling.size, settings.compute.workers or 1)


def _calibration(
    settings: Settings,
    engine: Engine,
    sampler: Sampler,
    batch_size: int,
    previous: RunRecord | None,
    *,
    progress: Progress,
) -> CalibrationRecord:
    """Return the calibration that is named, or of an earlier run if it still fits, or a new one."""
    explain = settings.explain
    if explain.calibration:
        return load_calibration(explain.calibration, engine)
    if settings.run.recalibrate:
        previous = None
    if previous is not None and why_not_usable(previous.calibration, engine) is None:
        return previous.calibration
    count = explain.calibration_tiles

    def on_tiles(done: int) -> None:
        progress.at("calibration", done, count)

    on_tiles(0)
    return calibrate(sampler(count), settings.tiling.tiling, engine, batch_size, on_tiles)
