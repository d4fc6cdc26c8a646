"""Find the range of values of a whole mosaic, by percentiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray

from capecam.errors import ImageError, UsageError
from capecam.grid import Window
from capecam.imagery.metadata import join_names
from capecam.mosaic.mosaic import Mosaic
from capecam.mosaic.reader import Reader
from capecam.mosaic.sampling import hash_order, index_key
from capecam.settings import ValueRange

EDGE = 512
"""Edge in pixels of a window of the sample: a block of most files."""

MAX_WINDOWS = 256
"""Most windows with imagery in a sample: 67 Mpx."""

WHOLE_WINDOWS = 32
"""Number of windows up to which every pixel counts (8 Mpx); in more, every second or third in both
directions, so that as many values are in memory, which takes 200 MB."""

MAX_NAMES = 3
"""Images named in a message."""

Values = NDArray[np.float64]
OnReading = Callable[[tuple[str, ...]], object]


def find_value_range(
    mosaic: Mosaic,
    percentiles: ValueRange,
    seed: int,
    on_reading: OnReading = lambda _names: None,
    excluded: frozenset[str] = frozenset(),
) -> ValueRange:
    """Return the values at two percentiles of the valid pixels, of all three bands together.

    Uses every pixel of a small mosaic (``WHOLE_WINDOWS``), else a sample that depends on positions
    in the pixel grid only, not on how the mosaic is cut into files. A percentile is a value that
    occurs: the lowest one that so many percent of the values do not exceed.

    Args:
        mosaic: of which some images are not uint8.
        percentiles: of 0..100.
        seed: of the sample.
        on_reading: called with the names of images before they are read, and with none after.
        excluded: images that are not to be read.

    Raises:
        UsageError: there are no valid pixels, or both percentiles are the same value.
    """
    errors: dict[str, str] = {}
    samples = list(_sample(mosaic, seed, on_reading, excluded, errors))
    if not samples and errors:
        separator = " " if len(errors) == 1 else "\n  "
        raise UsageError(
            f"--scale {percentiles}: no image that can be decoded has a valid pixel:{separator}"
            + "\n  ".join(errors.values())
        )
    if not samples:
        paths = [str(source.header.path) for source in mosaic.scaled if source.name not in excluded]
        raise UsageError(
            f"--scale {percentiles}: no image has a valid pixel to take percentiles of: "
            f"{join_names(paths, MAX_NAMES)}; correct their mask, alpha band or nodata value "
            "(gdalinfo -stats shows them)"
        )
    values = np.concatenate(samples)
    low, high = np.percentile(
        values, (percentiles.low, percentiles.high), method="inverted_cdf", overwrite_input=True
    )
    if not low < high:
        raise UsageError(
            f"--scale {percentiles}: both are {low:g} in these images; give values, --scale "
            "LOW,HIGH, or percentiles that are further apart"
        )
    return ValueRange(float(low), float(high))


def _sample(
    mosaic: Mosaic,
    seed: int,
    on_reading: OnReading,
    excluded: frozenset[str],
    errors: dict[str, str],
) -> Iterator[Values]:
    """Yield (N,) values of each window of the sample; note the first error of each image."""
    keys = _window_keys(mosaic)
    step = ceil(sqrt(min(len(keys), MAX_WINDOWS) / WHOLE_WINDOWS))
    count = 0
    with Reader(mosaic) as reader:
        for i, j in hash_order(keys, seed):
            window = Window(i * EDGE, j * EDGE, EDGE, EDGE)
            names = tuple(source.name for source in mosaic.touching(window))
            if not excluded.isdisjoint(names):
                continue
            on_reading(names)
            values = _values(reader, window, step, errors)
            on_reading(())
            if values.size:
                yield values
                count += 1
            if count == MAX_WINDOWS:
                return


def _window_keys(mosaic: Mosaic) -> NDArray[np.int64]:
    """Return (N,) distinct, sorted keys of the windows that touch an image to be scaled."""
    parts = []
    for source in mosaic.scaled:
        w = source.window
        i, j = np.meshgrid(
            np.arange(w.row // EDGE, -(-w.bottom // EDGE)),
            np.arange(w.col // EDGE, -(-w.right // EDGE)),
        )
        parts.append(index_key(i.ravel(), j.ravel()))
    return np.unique(np.concatenate(parts))


def _values(reader: Reader, window: Window, step: int, errors: dict[str, str]) -> Values:
    """Return (N,) values of the valid pixels at every ``step``-th row and column of a window; where
    images overlap, those of the first.
    """
    free = np.zeros(window.shape, np.bool_)
    free[::step, ::step] = True
    parts = []
    for source in reader.mosaic.touching(window):
        part = source.window.intersection(window)
        if part is None or not source.header.pixels.scaled:
            continue
        try:
            values, valid = reader.stored(source, part)
        except ImageError as error:
            errors.setdefault(source.name, str(error))
            continue  # its cell will fail with this error; the range comes from the others
        slices = part.slices(window)
        parts.append(values[:, valid & free[slices]].ravel().astype(np.float64))
        free[slices] &= ~valid
    return np.concatenate(parts) if parts else np.empty(0)
