"""One scale for the whole mosaic: percentiles of values that are not 0..255."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray

from capecam.errors import ImageError, UsageError
from capecam.grid import Window
from capecam.mosaic.mosaic import Mosaic
from capecam.mosaic.reader import Reader
from capecam.mosaic.sampling import hash_order, place_key
from capecam.settings import ValueRange

EDGE = 512
"""Pixels along the edge of a window of the sample: a block of most files."""

WINDOWS = 256
"""So many windows with imagery are looked at, 67 Mpx, at the most."""

WHOLE = 32
"""Of so many windows every pixel counts, 8 Mpx; of more, every second to third in both directions,
so that as many values are held, which takes 200 MB."""

Values = NDArray[np.float64]


def find_value_range(
    mosaic: Mosaic,
    percentiles: ValueRange,
    seed: int,
    told: Callable[[tuple[str, ...]], object] = lambda _names: None,
    shunned: frozenset[str] = frozenset(),
) -> ValueRange:
    """The values at two percentiles of the valid pixels, of all three bands together.

    From every pixel where the mosaic is small (``WHOLE``), else from a sample that depends on
    places of the lattice alone, not on how the mosaic is cut into files. A percentile is a value
    that occurs: the lowest one that so many percent of the values do not exceed.

    Args:
        mosaic: of which some images are not uint8.
        percentiles: of 0..100.
        seed: of the sample.
        told: hears the names of images that are going to be read, and of none when they have been.
        shunned: images that are not to be read.

    Raises:
        UsageError: there is nothing to take percentiles of, or nothing between them.
    """
    found = list(_sample(mosaic, seed, told, shunned))
    if not found:
        raise UsageError(
            f"--scale {percentiles}: there is no valid pixel to take percentiles of"
            "; give values, --scale LOW,HIGH"
        )
    values = np.concatenate(found)
    low, high = np.percentile(
        values, (percentiles.low, percentiles.high), method="inverted_cdf", overwrite_input=True
    )
    if not low < high:
        raise UsageError(
            f"--scale {percentiles}: both are {low:g} in these images; give values, --scale "
            "LOW,HIGH, or percentiles that lie further apart"
        )
    return ValueRange(float(low), float(high))


def _sample(
    mosaic: Mosaic,
    seed: int,
    told: Callable[[tuple[str, ...]], object],
    shunned: frozenset[str],
) -> Iterator[Values]:
    """Values of the windows that are looked at, (N,) each."""
    keys = _windows(mosaic)
    step = ceil(sqrt(min(len(keys), WINDOWS) / WHOLE))
    found = 0
    with Reader(mosaic) as reader:
        for i, j in hash_order(keys, seed):
            window = Window(i * EDGE, j * EDGE, EDGE, EDGE)
            names = tuple(source.name for source in mosaic.touching(window))
            if not shunned.isdisjoint(names):
                continue
            told(names)
            values = _values(reader, window, step)
            told(())
            if values.size:
                yield values
                found += 1
            if found == WINDOWS:
                return


def _windows(mosaic: Mosaic) -> NDArray[np.int64]:
    """(N,) keys of the windows that touch an image which needs a scale, each once, sorted."""
    parts = []
    for source in mosaic.scaled:
        w = source.window
        i, j = np.meshgrid(
            np.arange(w.row // EDGE, -(-w.bottom // EDGE)),
            np.arange(w.col // EDGE, -(-w.right // EDGE)),
        )
        parts.append(place_key(i.ravel(), j.ravel()))
    return np.unique(np.concatenate(parts))


def _values(reader: Reader, window: Window, step: int) -> Values:
    """(N,) values of the valid pixels at every ``step``-th place of a window; where images overlap,
    those of the first.
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
        except ImageError:
            continue  # its cell will fail and say so; the scale comes from the others
        place = part.slices(window)
        parts.append(values[:, valid & free[place]].ravel().astype(np.float64))
        free[place] &= ~valid
    return np.concatenate(parts) if parts else np.empty(0)
