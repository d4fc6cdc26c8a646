"""Makes cells: one network on one device, wherever it runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from capecam.batch import Tile, batches
from capecam.calibration import (
    Calibration,
    Told,
    calibrate,
    load_calibration,
    sample,
    why_not_usable,
)
from capecam.cell import CellReport, Job, process
from capecam.changes import Contents, Inputs, basis
from capecam.engine import Engine
from capecam.errors import SettingsError, UsageError
from capecam.fit import fitting_batch, fitting_precision
from capecam.grid import Cell
from capecam.ledger import Ledger
from capecam.model import Model, check_tile, load_model
from capecam.raster import find_scale
from capecam.recorded import known_scale
from capecam.settings import Scale, Settings
from capecam.sources import City

log = logging.getLogger(__name__)

PRECISION_TILES = 16
"""Of the calibration's sample, on which the precision is chosen."""


Sampled = Callable[[int], Iterator[Tile]]
"""The first so many tiles of the run's sample."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is found out once for a run, so that it is the same wherever its cells are made."""

    device: str
    precision: str
    batch_size: int
    scale: Scale | None
    """Values that become 0 and 255; None where no image needs it, or none is given."""
    calibration: Calibration
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
            self.calibration.tops,
            self.scale,
        )


class Maker:
    """Loads the network, and makes one cell after the other.

    Args:
        settings: at least ``out``, and ``checkpoint`` where no model is given.
        model: a network that is loaded already.

    Raises:
        UsageError: the checkpoint or the settings cannot be used.
    """

    def __init__(self, settings: Settings, model: Model | None = None) -> None:
        self._settings = settings
        self._ledger = Ledger.of(required(settings.out, "out", "--out DIR"))
        self._engine = build_engine(settings, model or _load(settings))
        self._contents = Contents()
        self._job: Job | None = None
        self._inputs: Inputs | None = None

    def prepare(
        self, city: City, before: Mapping[str, Any], told: Told = lambda _names: None
    ) -> Prepared:
        """Choose the scale of pixels, precision, batch size and the scale of heatmaps, or take over
        those of the run before.

        ``told`` hears which images are being read.
        """
        scale = _scale(self._settings, city, before, told)
        city = city.at_scale(scale)
        tiling, seed = self._settings.tiling.tiling, self._settings.explain.seed

        def sampled(tiles: int) -> Iterator[Tile]:
            return sample(city, tiling, tiles, seed, told)

        self._engine = _at_precision(self._engine, self._settings, sampled, before)
        engine, model = self._engine, self._engine.model
        batch_size = _batch_size(self._settings, engine, before)
        started = time.perf_counter()
        calibration = _calibration(self._settings, sampled, engine, batch_size, before)
        return Prepared(
            engine.device.type,
            engine.precision,
            batch_size,
            scale,
            calibration,
            time.perf_counter() - started,
            model.sha256,
            model.architecture,
            model.target_layer,
            model.ignored,
        )

    def take(self, city: City, prepared: Prepared, known: Contents | None = None) -> None:
        """Get ready for the cells of a city."""
        if self._engine.precision != prepared.precision:
            self._engine = self._engine.at(prepared.precision)
        self._contents = known or Contents()
        city = city.at_scale(prepared.scale)
        self._inputs = prepared.inputs(self._settings, city)
        self._job = Job(
            city.mosaic,
            city.interest,
            self._engine,
            prepared.calibration,
            self._settings,
            prepared.batch_size,
        )

    def make(self, cell: Cell, tick: Callable[[int], object]) -> CellReport:
        """Make a cell, and put it in its place.

        Raises:
            ImageError: its image cannot be used.
        """
        if self._job is None or self._inputs is None:
            raise ValueError("a maker takes a city before it makes cells")
        started = time.perf_counter()
        images = self._job.mosaic.touching(self._settings.tiling.tiling.reach(cell.core))
        with self._ledger.making(cell) as work, ThreadPoolExecutor(1) as aside:
            # Beside the engine: the files are read anyway, and this waits for disks, too.
            contents = {s.name: aside.submit(self._contents.of, s, cell) for s in images}
            report = process(cell, self._job, work, tick)
            record = {
                "cell": cell.name,
                "image": cell.image,
                "status": "done",
                **asdict(report),
                "seconds": round(time.perf_counter() - started, 3),
                "basis": basis(cell, self._inputs, images),
                "images": {name: facts.result() for name, facts in contents.items()},
            }
            self._ledger.commit(cell, work, record)
        return report


def _load(settings: Settings) -> Model:
    checkpoint = required(settings.checkpoint, "checkpoint", "--checkpoint FILE")
    return load_model(checkpoint, settings.model)


def build_engine(settings: Settings, model: Model) -> Engine:
    """The network on its device, ready to explain as the settings say."""
    check_tile(model.network, settings.tiling.tiling)
    explain = settings.explain
    return Engine(
        model,
        explain.methods,
        score=explain.score,
        where=explain.where,
        precision="fp32" if settings.compute.precision == "auto" else settings.compute.precision,
        device=pick_device(settings.compute.device),
    )


def _at_precision(
    engine: Engine, settings: Settings, sampled: Sampled, before: Mapping[str, Any]
) -> Engine:
    """As set; or as in the run before; or as fits a sample of tiles. On a CPU auto is float32."""
    if settings.compute.precision != "auto" or engine.device.type == "cpu":
        return engine
    if before.get("device") == engine.device.type and "precision" in before:
        return engine.at(before["precision"])
    for batch in batches(sampled(PRECISION_TILES), PRECISION_TILES):
        return engine.at(fitting_precision(engine, batch.pixels, batch.valid))
    return engine  # there is nothing to see


def pick_device(name: str) -> torch.device:
    """``auto`` is the first GPU, if there is one.

    Raises:
        SettingsError: it is no device, or a GPU that is not there.
    """
    count = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SettingsError(f"device must be auto, cpu, cuda or cuda:1, got {name!r}") from None
    if device.type == "cuda" and (device.index or 0) >= count:
        raise SettingsError(f"device {name} is not there: {count} CUDA device(s) found; use cpu")
    return device


def required(value: Path | None, key: str, option: str) -> Path:
    """A setting that has no default."""
    if value is None:
        raise UsageError(f"{key} is not set; give {option} or set it in the configuration")
    return value


def _scale(settings: Settings, city: City, before: Mapping[str, Any], told: Told) -> Scale | None:
    """As known; percentiles that are not known yet are looked up."""
    known = known_scale(city.mosaic, settings.imagery, before)
    if known is None or not known.percent:
        return known
    try:
        return find_scale(city.mosaic, known, settings.explain.seed, told, city.shunned)
    except UsageError as error:
        if len(city.mosaic.scaled) == len(city.mosaic.sources):
            raise
        log.warning("%s", error)  # cells that need the scale fail; the others do not
        return None


def _batch_size(settings: Settings, engine: Engine, before: Mapping[str, Any]) -> int:
    """The setting; or that of the run before, since results depend on it; or what fits."""
    if settings.compute.batch_size != "auto":
        return settings.compute.batch_size
    if before.get("device") == engine.device.type and "batch_size" in before:
        return int(before["batch_size"])
    return fitting_batch(engine, settings.tiling.size)


def _calibration(
    settings: Settings,
    sampled: Sampled,
    engine: Engine,
    batch_size: int,
    before: Mapping[str, Any],
) -> Calibration:
    """Another run's if one is named, else this folder's own if it still fits, else a new one."""
    explain = settings.explain
    if explain.calibration:
        return load_calibration(explain.calibration, engine)
    if before.get("calibration"):
        own = Calibration.from_json(before["calibration"])
        if why_not_usable(own, engine) is None:
            return own
    tiles = sampled(explain.calibration_tiles)
    return calibrate(tiles, settings.tiling.tiling, engine, batch_size)
