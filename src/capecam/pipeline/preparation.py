"""What is found out once for a run: scale of pixels, precision, batch size, scale of heatmaps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from capecam.attribution.autotune import auto_batch_size, auto_precision
from capecam.attribution.engine import Engine
from capecam.errors import UsageError
from capecam.mosaic.city import City
from capecam.mosaic.value_range import find_value_range
from capecam.pipeline.calibration import (
    Told,
    calibrate,
    load_calibration,
    sample_tiles,
    why_not_usable,
)
from capecam.pipeline.tiles import Tile, batches
from capecam.settings import Settings, ValueRange
from capecam.store.provenance import recorded_value_range
from capecam.store.records import CalibrationRecord, RunRecord
from capecam.store.staleness import Inputs

log = logging.getLogger(__name__)

PRECISION_TILES = 16
"""Of the calibration's sample, on which the precision is chosen."""


Sampled = Callable[[int], Iterator[Tile]]
"""The first so many tiles of the run's sample."""


@dataclass(frozen=True, slots=True)
class RunConstants:
    """What is found out once for a run, so that it is the same wherever its cells are made."""

    device: str
    precision: str
    batch_size: int
    scale: ValueRange | None
    """Values that become 0 and 255; None where no image needs it, or none is given."""
    calibration: CalibrationRecord
    calibrated_s: float
    """Seconds that it took."""
    checkpoint: str
    """sha256."""
    architecture: str
    target_layer: str
    ignored: tuple[str, ...]

    def inputs(self, settings: Settings, city: City) -> Inputs:
        """What cells depend on."""
        return Inputs(
            city.mosaic.grid,
            city.interest,
            settings,
            self.checkpoint,
            self.precision,
            self.calibration.scale_max,
            self.scale,
        )


def prepare(
    engine: Engine,
    settings: Settings,
    city: City,
    previous: RunRecord | None,
    told: Told = lambda _names: None,
) -> RunConstants:
    """Choose what a run needs, or take over what the run before has chosen.

    Args:
        engine: with the run's network, at any precision.
        settings: of the run.
        city: its images.
        previous: record of an earlier run into the same folder.
        told: hears which images are being read.

    Raises:
        UsageError: no image can be sampled, or the calibration that is named does not fit.
    """
    reusable = None if settings.run.recalibrate else previous
    scale = _scale(settings, city, reusable, told)
    city = city.with_value_range(scale)

    def sampled(tiles: int) -> Iterator[Tile]:
        return sample_tiles(city, settings.tiling.tiling, tiles, settings.explain.seed, told)

    engine = _at_precision(engine, settings, sampled, previous)
    batch_size = _batch_size(settings, engine, previous)
    started = time.perf_counter()
    calibration = _calibration(settings, sampled, engine, batch_size, reusable)
    return RunConstants(
        engine.device.type,
        engine.precision,
        batch_size,
        scale,
        calibration,
        time.perf_counter() - started,
        engine.model.sha256,
        engine.model.architecture,
        engine.model.target_layer,
        engine.model.ignored,
    )


def _scale(
    settings: Settings, city: City, previous: RunRecord | None, told: Told
) -> ValueRange | None:
    """As known; percentiles that are not known yet are looked up."""
    known = recorded_value_range(city.mosaic, settings.imagery, previous)
    if known is None or not known.percent:
        return known
    try:
        return find_value_range(city.mosaic, known, settings.explain.seed, told, city.excluded)
    except UsageError as error:
        if len(city.mosaic.scaled) == len(city.mosaic.sources):
            raise
        log.warning("%s", error)  # cells that need the scale fail; the others do not
        return None


def _at_precision(
    engine: Engine, settings: Settings, sampled: Sampled, previous: RunRecord | None
) -> Engine:
    """As set; or as in the run before; or as fits a sample of tiles. On a CPU auto is float32."""
    if settings.compute.precision != "auto" or engine.device.type == "cpu":
        return engine
    if previous is not None and previous.device == engine.device.type:
        return engine.at(previous.precision)
    for batch in batches(sampled(PRECISION_TILES), PRECISION_TILES):
        return engine.at(auto_precision(engine, batch.pixels, batch.valid))
    return engine  # there is nothing to see


def _batch_size(settings: Settings, engine: Engine, previous: RunRecord | None) -> int:
    """The setting; or that of the run before, since results depend on it; or what fits."""
    if settings.compute.batch_size != "auto":
        return settings.compute.batch_size
    if previous is not None and previous.device == engine.device.type:
        return previous.batch_size
    return auto_batch_size(engine, settings.tiling.size)


def _calibration(
    settings: Settings,
    sampled: Sampled,
    engine: Engine,
    batch_size: int,
    previous: RunRecord | None,
) -> CalibrationRecord:
    """Another run's if one is named, else this folder's own if it still fits, else a new one."""
    explain = settings.explain
    if explain.calibration:
        return load_calibration(explain.calibration, engine)
    if previous is not None and why_not_usable(previous.calibration, engine) is None:
        return previous.calibration
    tiles = sampled(explain.calibration_tiles)
    return calibrate(tiles, settings.tiling.tiling, engine, batch_size)
