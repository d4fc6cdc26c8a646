"""One colour scale for the city: per method and class, from a seeded sample of tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from capecam.attribution.engine import Engine
from capecam.attribution.maps import check_finite
from capecam.attribution.methods import resample
from capecam.errors import ImageError, SettingsError
from capecam.grid import Tiling
from capecam.mosaic.city import City
from capecam.mosaic.reader import Reader
from capecam.mosaic.sampling import hash_order, index_key
from capecam.pipeline.stitching import block_validity, unit_of
from capecam.pipeline.tiles import Tile, batches
from capecam.store.records import CalibrationRecord, CalibrationSource, read_record

PERCENTILE = 99.5

Told = Callable[[tuple[str, ...]], object]


def calibration_key(engine: Engine) -> dict[str, str]:
    """What raw values depend on, beside the imagery."""
    return {
        "checkpoint": engine.model.sha256,
        "target_layer": engine.model.target_layer,
        "score": engine.score,
        "where": engine.where,
    }


def read_calibration(run_json: Path) -> CalibrationRecord:
    """The calibration in a run's record.

    Raises:
        SettingsError: there is none.
    """
    try:
        return read_record(run_json, CalibrationSource).calibration
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SettingsError(
            f"{run_json}: holds no calibration of a run ({reason})"
            "; name the run.json of a run that has ended"
        ) from error


def load_calibration(run_json: Path, engine: Engine) -> CalibrationRecord:
    """The calibration of another run.

    Raises:
        SettingsError: unreadable, or made with another checkpoint, layer, score or methods.
    """
    found = read_calibration(run_json)
    if reason := why_not_usable(found, engine):
        raise SettingsError(
            f"{run_json}: its calibration does not fit this run: {reason}"
            "; take another run's, or leave out --calibration"
        )
    return found


def why_not_usable(calibration: CalibrationRecord, engine: Engine) -> str | None:
    """In what a calibration differs from what an engine makes, or None."""
    for key, wanted in calibration_key(engine).items():
        if calibration.key.get(key) != wanted:
            return f"{key} is {calibration.key.get(key)}, this run has {wanted}"
    classes = len(engine.model.foreground)
    for method in set(engine.methods) & calibration.scale_max.keys():
        if len(calibration.scale_max[method]) != classes:
            return (
                f"{method} has {len(calibration.scale_max[method])} classes, this run has {classes}"
            )
    missing = [method for method in engine.methods if method not in calibration.scale_max]
    return f"it has no {', '.join(missing)}" if missing else None


def calibrate(
    sampled: Iterable[Tile], tiling: Tiling, engine: Engine, batch_size: int
) -> CalibrationRecord:
    """Look at a sample of tiles: the 99.5th percentile of positive raw values, as written.

    Raises:
        NotFiniteError: the network's gradients overflowed.
    """
    classes = len(engine.model.foreground)
    values: dict[str, list[list[NDArray[np.float32]]]] = {
        method: [[] for _ in range(classes)] for method in engine.methods
    }
    tiles = 0
    for batch in batches(sampled, batch_size):
        maps = engine(batch.pixels, batch.valid)
        check_finite(maps.broken, engine.precision)
        valid = batch.valid[:, None].to(engine.device)
        for method, heat in maps.heat.items():
            unit = unit_of(method, tiling)
            raw, seen = resample(heat, tiling.size // unit), block_validity(valid, unit)[:, 0]
            for c in range(classes):
                positive = raw[:, c][seen & (raw[:, c] > 0)]
                values[method][c].append(positive.cpu().numpy().astype(np.float32))
        tiles += len(batch.windows)
    scale_max = {method: tuple(map(_top, by_class)) for method, by_class in values.items()}
    return CalibrationRecord(scale_max=scale_max, key=calibration_key(engine), tiles=tiles)


def _top(parts: list[NDArray[np.float32]]) -> float | None:
    values = np.concatenate(parts) if parts else np.empty(0, np.float32)
    return float(np.percentile(values, PERCENTILE)) if values.size else None


def sample_tiles(
    city: City, tiling: Tiling, tiles: int, seed: int, told: Told = lambda _names: None
) -> Iterator[Tile]:
    """The first valid tiles in the order of a hash of their place on the lattice.

    It depends on the windows' places alone, not on how the mosaic is cut into files. ``told`` hears
    the names of the images that are going to be read, and of none when they have been.
    """
    found = 0
    with Reader(city.mosaic) as reader:
        for i, j in hash_order(_lattice(city, tiling), seed):
            window = tiling.window(int(i), int(j))
            names = tuple(source.name for source in city.mosaic.touching(window))
            if not city.excluded.isdisjoint(names):
                continue
            told(names)
            try:
                pixels, valid = reader.read(window)
            except ImageError:
                continue  # its cell will fail and say so; the scale comes from the others
            finally:
                told(())
            if valid.any():
                yield Tile(window, torch.from_numpy(pixels), torch.from_numpy(valid))
                found += 1
            if found == tiles:
                return


def _lattice(city: City, tiling: Tiling) -> NDArray[np.int64]:
    """(N,) keys of every window of interest that touches a source, each once."""
    windows = (source.window for source in city.mosaic.sources)
    keys = [index_key(*city.interest.selected_indices(tiling, window)) for window in windows]
    return np.unique(np.concatenate(keys))
