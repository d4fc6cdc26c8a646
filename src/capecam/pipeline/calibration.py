"""Calibrate heatmaps: one colour scale per method and class for the city, from sampled tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from capecam.attribution.engine import Engine
from capecam.attribution.maps import check_finite
from capecam.attribution.methods import decide, resample
from capecam.errors import ImageError, SettingsError
from capecam.grid import Tiling
from capecam.mosaic.city import City
from capecam.mosaic.reader import Reader
from capecam.mosaic.sampling import hash_order, index_key
from capecam.pipeline.stitching import block_validity, unit_of
from capecam.pipeline.tiles import Tile, batches
from capecam.settings import PIXEL_METHODS
from capecam.store.records import CalibrationRecord, CalibrationSource, read_record

PERCENTILE = 99.5
"""Of positive values: top of the scale."""

DETECTIONS_PERCENTILE = 99.9
"""The same inside and outside of detections: the larger one is the top of the scale of maps at full
resolution."""

BACKGROUND_PERCENTILE = 94.5
"""Of values outside of detections: floor of these maps, below which they are stored as 0."""

MIN_FLOOR, MAX_FLOOR = 0.002, 0.25
"""Limits of the floor, as shares of the scale (docs/method.md#the-scale-of-guided-maps)."""

OnReading = Callable[[tuple[str, ...]], object]
"""Called with the names of images before they are read, and with none after."""


def calibration_key(engine: Engine) -> dict[str, str]:
    """Return what raw values depend on, beside the imagery."""
    model = engine.model
    key = {
        "checkpoint": model.sha256,
        "target_layer": model.target_layer,
        "score": engine.score,
        "where": engine.where,
    }
    # Left out where they are no choice, so that calibrations of versions without them are kept.
    optional = {"weights": model.weights, "normalisation": model.normalisation.prefix}
    return key | {name: value for name, value in optional.items() if value}


def read_calibration(run_json: Path) -> CalibrationRecord:
    """Read the calibration from a run's record.

    Raises:
        SettingsError: the file holds none.
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
    """Read the calibration of another run.

    Raises:
        SettingsError: it is unreadable, or of another checkpoint, layer, score or methods.
    """
    calibration = read_calibration(run_json)
    if reason := why_not_usable(calibration, engine):
        raise SettingsError(
            f"{run_json}: its calibration does not fit this run: {reason}"
            "; take another run's, or leave out --calibration"
        )
    return calibration


def why_not_usable(calibration: CalibrationRecord, engine: Engine) -> str | None:
    """Explain how a calibration differs from an engine's; None if it fits."""
    expected = calibration_key(engine)
    for key in dict.fromkeys((*expected, *calibration.key)):
        old, new = calibration.key.get(key), expected.get(key)
        if old != new:
            return f"{key} is {old}, this run has {new}"
    classes = len(engine.model.foreground)
    for method in set(engine.methods) & calibration.scale_max.keys():
        if len(calibration.scale_max[method]) != classes:
            return (
                f"{method} has {len(calibration.scale_max[method])} classes, this run has {classes}"
            )
    for method in set(engine.methods) & calibration.scale_max.keys():
        if (method in PIXEL_METHODS) != calibration.is_by_root(method):
            return f"its scale of {method} is of version 0.1, which stored linear levels"
    missing = [method for method in engine.methods if method not in calibration.scale_max]
    return f"it has no {', '.join(missing)}" if missing else None


def calibrate(
    sample: Iterable[Tile],
    tiling: Tiling,
    engine: Engine,
    batch_size: int,
    on_tiles: Callable[[int], object] = lambda _done: None,
) -> CalibrationRecord:
    """Take percentiles of raw values of the sample, resampled as they are written.

    For maps at full resolution: of the pixels that a tile's own argmax gives the class, and of the
    others for the floor (docs/method.md#the-scale-of-guided-maps).

    Args:
        sample: tiles of the city.
        tiling: their grid.
        engine: computes their maps.
        batch_size: number of tiles at once.
        on_tiles: called after each batch with the number of tiles so far.

    Raises:
        NotFiniteError: the network's gradients overflowed.
    """
    classes = range(len(engine.model.foreground))
    values = {method: [_RawValues() for _ in classes] for method in engine.methods}
    tiles = 0
    for batch in batches(sample, batch_size):
        maps = engine(batch.pixels, batch.valid)
        check_finite(maps.broken, engine.precision)
        valid = batch.valid[:, None].to(engine.device)
        predicted = decide(maps.probability, sigmoid=engine.model.sigmoid)
        for method, heat in maps.heat.items():
            unit = unit_of(method, tiling)
            raw = resample(heat, tiling.size // unit)
            explained = block_validity(valid, unit) & maps.explained[..., None, None]
            for c in classes:
                seen = explained[:, c]
                inside = seen & (predicted == c + 1) if method in PIXEL_METHODS else seen
                values[method][c].add(raw[:, c], inside, seen & ~inside)
        tiles += len(batch.windows)
        on_tiles(tiles)
    scales = {
        method: [raw.scale(by_root=method in PIXEL_METHODS) for raw in by_class]
        for method, by_class in values.items()
    }
    return CalibrationRecord(
        scale_max={method: tuple(top for top, _ in scale) for method, scale in scales.items()},
        key=calibration_key(engine),
        tiles=tiles,
        floor={
            method: tuple(floor for _, floor in scale)
            for method, scale in scales.items()
            if method in PIXEL_METHODS
        },
    )


@dataclass(frozen=True, slots=True)
class _RawValues:
    """Raw values of one method and class, by batch."""

    inside: list[NDArray[np.float32]] = field(default_factory=list)
    """Positive ones in pixels of the class; of maps in blocks, everywhere."""
    outside: list[NDArray[np.float32]] = field(default_factory=list)
    """All in other pixels."""

    def add(self, raw: Tensor, inside: Tensor, outside: Tensor) -> None:
        """Add (B, n, n) values where the masks are True."""
        for values, mask in ((self.inside, inside & (raw > 0)), (self.outside, outside)):
            values.append(raw[mask].cpu().numpy().astype(np.float32))

    def scale(self, *, by_root: bool) -> tuple[float | None, float | None]:
        """Return the top of the scale and, for levels by the root, the floor."""
        inside, outside = (
            np.concatenate(parts) if parts else np.empty(0, np.float32)
            for parts in (self.inside, self.outside)
        )
        around = outside[outside > 0]
        if not inside.size + around.size:
            return None, None
        if not by_root or not inside.size:
            top = float(np.percentile(inside if inside.size else around, PERCENTILE))
        else:
            parts = (part for part in (inside, around) if part.size)
            top = max(float(np.percentile(part, DETECTIONS_PERCENTILE)) for part in parts)
        if not by_root:
            return top, None
        background = float(np.percentile(outside, BACKGROUND_PERCENTILE)) if outside.size else 0.0
        return top, top * min(max(background / top, MIN_FLOOR), MAX_FLOOR)


def sample_tiles(
    city: City, tiling: Tiling, tiles: int, seed: int, on_reading: OnReading = lambda _: None
) -> Iterator[Tile]:
    """Yield the first valid tiles in the order of a hash of their indices.

    The order does not depend on how the mosaic is cut into files.
    """
    count = 0
    with Reader(city.mosaic) as reader:
        for i, j in hash_order(_tile_keys(city, tiling), seed):
            window = tiling.window(int(i), int(j))
            names = tuple(source.name for source in city.mosaic.touching(window))
            if not city.excluded.isdisjoint(names):
                continue
            on_reading(names)
            try:
                pixels, valid = reader.read(window)
            except ImageError:
                continue  # its cell will fail; the scale comes from the others
            finally:
                on_reading(())
            if valid.any():
                yield Tile(window, torch.from_numpy(pixels), torch.from_numpy(valid))
                count += 1
            if count == tiles:
                return


def _tile_keys(city: City, tiling: Tiling) -> NDArray[np.int64]:
    """Return (N,) unique keys of the windows of interest that touch a source."""
    windows = (source.window for source in city.mosaic.sources)
    keys = [index_key(*city.interest.selected_indices(tiling, window)) for window in windows]
    return np.unique(np.concatenate(keys))
