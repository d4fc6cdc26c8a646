"""A few tiles of a city through the network of a run, to estimate its time before it has begun."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from capecam.attribution.engine import CPU_BATCH
from capecam.model.model import load_model
from capecam.mosaic.city import City
from capecam.pipeline.calibration import sample_tiles
from capecam.pipeline.preparation import value_range
from capecam.pipeline.run_engine import build_engine
from capecam.pipeline.tiles import batches
from capecam.run.executors import devices
from capecam.runtime.machine import peak_memory_gb
from capecam.runtime.progress import Progress
from capecam.settings import Settings
from capecam.settings.tree import required

BATCHES = 4
"""Number of batches, of which the first one, which prepares memory and kernels, does not count."""

LONG_S = 20.0
"""Time after which two batches are enough."""

GPU_BATCH = 16
"""Tiles in a batch on a GPU. A run chooses as many as fit, and may be faster."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Result of a trial."""

    tiles_per_second: float
    """Rate of the network and its heatmaps alone, on all devices of a run together."""
    tiles: int
    """Number of tiles that were measured."""
    device: str
    precision: str
    memory_gb: float | None
    """Largest memory of this process, with the libraries and the network; None: unknown."""


def try_network(settings: Settings, city: City, progress: Progress) -> Trial | None:
    """Measure the network on a few tiles, in this process; None if there is no tile.

    Args:
        settings: of a run, with its checkpoint.
        city: its images.
        progress: hears of the tiles.

    Raises:
        CapecamError: checkpoint, settings or images cannot be used.
    """
    progress.at("network")
    checkpoint = required(settings.checkpoint, "checkpoint", "--checkpoint FILE")
    engine = build_engine(settings, load_model(checkpoint, settings.model))
    batch_size = settings.compute.batch_size
    if batch_size == "auto":
        batch_size = GPU_BATCH if engine.device.type == "cuda" else CPU_BATCH
    city = city.with_value_range(value_range(settings, city, None))
    count = BATCHES * batch_size
    progress.at("trial", 0, count)
    sample = sample_tiles(city, settings.tiling.tiling, count, settings.explain.seed)
    rates, began = [], time.perf_counter()
    for batch in batches(sample, batch_size):
        started = time.perf_counter()
        engine(batch.pixels, batch.valid).probability.cpu()  # waits for the device
        rates.append(len(batch.windows) / (time.perf_counter() - started))
        progress.advance(len(batch.windows))
        if rates[1:] and time.perf_counter() - began > LONG_S:
            break
    if not rates:
        return None
    counted = rates[1:] or rates
    at_once = len(devices(settings)) if engine.device.type == "cuda" else 1
    return Trial(
        at_once * statistics.median(counted),
        batch_size * len(counted),
        engine.device.type,
        engine.precision,
        peak_memory_gb(),
    )
