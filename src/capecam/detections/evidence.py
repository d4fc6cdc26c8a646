"""Evidence of detections from the heatmaps: numbers, a word, a priority for review.

docs/method.md#evidence defines them. Everything is read from the stored rasters after objects are
joined, so the numbers do not depend on how the work was divided.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from capecam.detections.evidence_cache import EvidenceCache
from capecam.detections.heatmap_stats import (
    VERSION,
    EvidenceRasters,
    Task,
    heatmap_sampler,
)
from capecam.detections.measurement import middle_pixel_m, pixel_m
from capecam.detections.neighbourhood import NEIGHBOURHOOD_M, RING_M
from capecam.detections.regions import Pieces, first_pixels
from capecam.grid import Grid
from capecam.runtime.process_pool import ProcessPool
from capecam.settings import EvidenceSettings

EVIDENCE_WORDS = ("focused", "saturated", "context", "weak")

CHUNK = 64
"""Objects that a process gets at once: about 0.5 s."""

MIN_CHUNKS = 8
"""Fewest chunks for which processes are started, which takes a second."""

SQUARE_PX = 2048
"""Edge of the squares in which objects are sampled one after the other."""

EVIDENCE_COLUMNS = ("rival", "rival_in", "evidence")
"""Columns after the methods' measures: see docs/outputs.md."""


class Evidence:
    """Computes the evidence of many objects, in several processes.

    A context manager; without an exception its exit replaces the cache.
    """

    def __init__(
        self,
        rasters: EvidenceRasters,
        grid: Grid,
        rules: EvidenceSettings,
        processes: int,
        cache: Path,
    ) -> None:
        """Load the cache.

        Args:
            rasters: read at each object.
            grid: the pixel grid of the mosaic.
            rules: which heatmap decides about the word, and its thresholds.
            processes: number of processes; with 0 everything is computed in this one.
            cache: file with the numbers of the last time; it may be missing.
        """
        self._rasters, self._grid, self._rules, self._processes = rasters, grid, rules, processes
        self._files = ExitStack()
        self._pool: ProcessPool[Task, NDArray[np.float64]] | None = None
        self._cache = _open_cache(rasters, grid, cache)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._files.close()
        if kind is None:
            self._cache.save()

    def columns(self, objects: Pieces, table: pd.DataFrame) -> pd.DataFrame:
        """Return N rows of columns, and ``priority`` (:func:`review_priority`).

        Args:
            objects: N objects in lattice pixels.
            table: N rows with their ``confidence``; the result has its index.
        """
        names = self._rasters.columns
        numbers = pd.DataFrame(self._numbers(objects), columns=names, index=table.index)
        numbers["confidence"] = table["confidence"]
        method = self._rules.method or self._rasters.heatmaps[0].method
        rivals = np.array([None, *self._rasters.classes], object)
        rival = rivals[numbers["rival_id"].to_numpy(int)]
        words = evidence_words(numbers, method, self._rules)
        numbers["rival"] = pd.Series(rival, table.index, "str")
        numbers["evidence"] = pd.Series(words, table.index, "str")
        numbers["priority"] = review_priority(numbers, method)
        return numbers[[*names[:-2], *EVIDENCE_COLUMNS, "priority"]]

    def _numbers(self, objects: Pieces) -> NDArray[np.float64]:
        """Return (N, columns), from the cache or measured."""
        keys = self._cache.keys(objects)
        known, numbers = self._cache.lookup(keys)
        numbers[~known] = self._measure(objects.take(~known))
        self._cache.store(keys, numbers)
        return numbers

    def _measure(self, objects: Pieces) -> NDArray[np.float64]:
        pixel = pixel_m(self._grid, shapely.get_coordinates(shapely.centroid(objects.geometry)))
        numbers = np.empty((len(objects), len(self._rasters.columns)))
        col, row = first_pixels(objects.geometry)
        # Neighbours one after the other read the same blocks of the same files.
        order = np.lexsort((row, col // SQUARE_PX, row // SQUARE_PX))
        chunks = [order[start : start + CHUNK] for start in range(0, len(order), CHUNK)]
        tasks = [(objects.geometry[c], objects.class_id[c].tolist(), pixel[c]) for c in chunks]
        for chunk, rows in zip(chunks, self._sample(tasks), strict=True):
            numbers[chunk] = rows
        return numbers

    def _sample(self, tasks: Sequence[Task]) -> Iterable[NDArray[np.float64]]:
        if self._processes and self._pool is None and len(tasks) >= MIN_CHUNKS:
            pool = ProcessPool(heatmap_sampler, self._rasters, self._processes)
            self._pool = self._files.enter_context(pool)
        if self._pool is not None:
            return self._pool.map(tasks)
        with heatmap_sampler(self._rasters) as sampler:
            return [sampler(task) for task in tasks]


def _open_cache(rasters: EvidenceRasters, grid: Grid, path: Path) -> EvidenceCache:
    tiles, scale_max = list(rasters.probability.tiles), []
    for heatmap in rasters.heatmaps:
        scale_max.append(f"{heatmap.method} {heatmap.stride} {heatmap.scale_max}")
        stored = heatmap.layer.tiles if heatmap.layer else ()
        tiles += [replace(tile, window=tile.window.scaled(heatmap.stride)) for tile in stored]
    pixel = float(middle_pixel_m(grid).min())
    # In degrees, pixels elsewhere are smaller than in the middle.
    distance_px = 1.5 * NEIGHBOURHOOD_M / pixel + max(h.stride for h in rasters.heatmaps)
    settings = f"{RING_M} {NEIGHBOURHOOD_M} {grid.crs} {grid.anchor} {grid.pixel} {scale_max}"
    return EvidenceCache(path, f"{VERSION} {settings}", tiles, distance_px, len(rasters.columns))


def evidence_words(
    table: pd.DataFrame, method: str, rules: EvidenceSettings
) -> NDArray[np.object_]:
    """Return one of ``EVIDENCE_WORDS`` for each object (docs/method.md#evidence).

    Args:
        table: with ``confidence`` and the measures of ``method``.
        method: the heatmap that decides.
        rules: the thresholds.
    """
    # NaN where no tile was explained: no rule holds.
    inside, ring, around = table[f"{method}_in"], table[f"{method}_ring"], _around(table, method)
    focused = (inside >= rules.high) & ~(ring >= rules.outweighs * inside)
    context = (around >= rules.high) & (around >= rules.outweighs * inside)
    certain = (table["confidence"] >= rules.certain) & inside.notna()
    words = np.select([focused, context, certain], ["focused", "context", "saturated"], "weak")
    return words.astype(object)


def _around(table: pd.DataFrame, method: str) -> pd.Series[float]:
    """Return the strength of the surroundings: the ring's mean, or half of a peak outside.

    Half, since a peak is compared with the mean of the inside.
    """
    peak_outside = table[f"{method}_peak"].where(table[f"{method}_peak_m"] > 0)
    return np.fmax(table[f"{method}_ring"], peak_outside / 2)


def review_priority(table: pd.DataFrame, method: str) -> pd.Series[float]:
    """Return the priority of each object for review, 0..1.

    The larger of: confidence times the share by which the surroundings outweigh the inside, where
    the word is ``context``; and the rival's probability relative to that of the object's class.
    """
    confidence = table["confidence"]
    outweighed = confidence * (1 - table[f"{method}_in"] / _around(table, method))
    outweighed = outweighed.where(table["evidence"] == "context", 0.0)
    split = (table["rival_in"] / confidence).clip(upper=1.0)
    return np.fmax(np.fmax(outweighed, split), 0.0)


def review_ranks(priority: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the rank of each object in the review queue, from 1 for the highest priority."""
    ranks = np.empty(len(priority), np.int64)
    ranks[np.argsort(-priority, kind="stable")] = np.arange(1, len(priority) + 1)
    return ranks
