"""Numbers of detections from the heatmaps and probabilities, as docs/method.md#objects has them.

Everything is read from the stored rasters after objects are
joined, so the numbers do not depend on how the work was divided.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Self

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from capecam.detections.evidence_cache import EvidenceCache, EvidenceKeys
from capecam.detections.heatmap_stats import (
    VERSION,
    EvidenceRasters,
    Task,
    heatmap_sampler,
)
from capecam.detections.measurement import middle_pixel_m, pixel_m
from capecam.detections.neighbourhood import NEIGHBOURHOOD_M, RING_M
from capecam.detections.regions import Integers, Pieces, first_pixels
from capecam.detections.signals import NEAR_PX, SIGNALS
from capecam.grid import Grid
from capecam.runtime.process_pool import ProcessPool
from capecam.runtime.progress import SILENT, Progress
from capecam.store.run_folder import RunFolder

CHUNK = 64
"""Objects that a process gets at once: about 0.5 s."""

MIN_CHUNKS = 8
"""Fewest chunks for which processes are started, which takes a second."""

SQUARE_PX = 2048
"""Edge of the squares in which objects are sampled one after the other."""

EVIDENCE_COLUMNS = ("rival", "rival_in", *SIGNALS)
"""Columns after the methods' measures: see docs/outputs.md."""


class Evidence:
    """Computes the evidence of many objects, in several processes.

    A context manager, which ends the processes; the cache is the caller's to save.
    """

    def __init__(
        self,
        rasters: EvidenceRasters,
        grid: Grid,
        processes: int,
        cache: EvidenceCache,
        progress: Progress = SILENT,
    ) -> None:
        """Prepare the keys of objects.

        Args:
            rasters: read at each object.
            grid: the pixel grid of the mosaic.
            processes: number of processes; with 0 everything is computed in this one.
            cache: numbers that are known, of as many columns as the rasters have.
            progress: hears of objects that are measured.
        """
        self._rasters, self._grid, self._processes = rasters, grid, processes
        self._progress = progress
        self._files = ExitStack()
        self._pool: ProcessPool[Task, NDArray[np.float64]] | None = None
        self._cache, self._keys = cache, _keys(rasters, grid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def columns(self, objects: Pieces, table: pd.DataFrame) -> pd.DataFrame:
        """Return N rows of columns.

        Args:
            objects: N objects in lattice pixels.
            table: N rows, whose index the result has.
        """
        names = self._rasters.columns
        numbers = pd.DataFrame(self.numbers(objects), columns=names, index=table.index)
        rivals = np.array([None, *self._rasters.classes], object)
        rival = rivals[numbers["rival_id"].to_numpy(int)]
        numbers["rival"] = pd.Series(rival, table.index, "str")
        return numbers[[*names[: names.index("rival_id")], *EVIDENCE_COLUMNS]]

    def numbers(self, objects: Pieces) -> NDArray[np.float64]:
        """Return (N, columns), from the cache or measured; the cache has them afterwards."""
        keys = self._keys.of(objects)
        known, numbers = self._cache.lookup(keys)
        numbers[~known] = self._measure(objects.take(~known))
        self._cache.store(keys, numbers)
        return numbers

    def _measure(self, objects: Pieces) -> NDArray[np.float64]:
        pixel = pixel_m(self._grid, shapely.get_coordinates(shapely.centroid(objects.geometry)))
        numbers = np.empty((len(objects), len(self._rasters.columns)))
        col, row = first_pixels(objects.geometry)
        # Neighbours one after the other read the same blocks of the same files.
        cell = self._cells(col, row)
        order = np.lexsort((row, col // SQUARE_PX, row // SQUARE_PX, cell))
        chunks = [order[start : start + CHUNK] for start in range(0, len(order), CHUNK)]
        tasks = [(objects.geometry[c], objects.class_id[c].tolist(), pixel[c]) for c in chunks]
        if len(objects):
            self._progress.at("evidence", 0, len(objects))
        for chunk, rows in zip(chunks, self._sample(tasks), strict=True):
            numbers[chunk] = rows
            self._progress.advance(len(chunk))
        return numbers

    def _cells(self, col: Integers, row: Integers) -> Integers:
        """Return a number for the cell in which each pixel lies, ascending row by row of cells."""
        windows = [tile.window for tile in self._rasters.probability.tiles]
        pixel, cell = shapely.STRtree([w.box for w in windows]).query(
            shapely.points(col + 0.5, row + 0.5), predicate="within"
        )
        rank = np.empty(len(windows), np.int64)
        rank[sorted(range(len(windows)), key=lambda n: windows[n])] = np.arange(len(windows))
        owner = np.zeros(len(col), np.int64)
        owner[pixel] = rank[cell]
        return owner

    def _sample(self, tasks: Sequence[Task]) -> Iterable[NDArray[np.float64]]:
        if self._processes and self._pool is None and len(tasks) >= MIN_CHUNKS:
            pool = ProcessPool(heatmap_sampler, self._rasters, self._processes)
            self._pool = self._files.enter_context(pool)
        if self._pool is not None:
            return self._pool.map(tasks)
        return self._sample_here(tasks)

    def _sample_here(self, tasks: Sequence[Task]) -> Iterator[NDArray[np.float64]]:
        with heatmap_sampler(self._rasters) as sampler:
            yield from map(sampler, tasks)


def _keys(rasters: EvidenceRasters, grid: Grid) -> EvidenceKeys:
    tiles, scale_max = list(rasters.probability.tiles), []
    for heatmap in rasters.heatmaps:
        root = " sqrt" if heatmap.by_root else ""
        scale_max.append(f"{heatmap.method} {heatmap.stride} {heatmap.scale_max}{root}")
        stored = heatmap.layer.tiles if heatmap.layer else ()
        tiles += [replace(tile, window=tile.window.scaled(heatmap.stride)) for tile in stored]
    settings = f"{RING_M} {NEIGHBOURHOOD_M} {grid.crs} {grid.anchor} {grid.pixel} {scale_max}"
    return EvidenceKeys(
        f"{VERSION} {settings}",
        tiles,
        reach_px([heatmap.stride for heatmap in rasters.heatmaps], grid),
    )


def reach_px(strides: Sequence[int], grid: Grid) -> float:
    """Return the distance in pixels from an object up to which rasters are read.

    Args:
        strides: edges of the blocks of the heatmaps, in pixels.
        grid: the pixel grid of the mosaic.
    """
    pixel = float(middle_pixel_m(grid).min())
    # In degrees, pixels elsewhere are smaller than in the middle.
    distance_px = 1.5 * NEIGHBOURHOOD_M / pixel + max(strides)
    return max(distance_px, NEAR_PX)


def evidence_rasters(run: RunFolder) -> EvidenceRasters:
    """Return the rasters of the finished cells of a run."""
    heats = tuple(map(run.heat, run.settings.explain.methods))
    return EvidenceRasters(heats, run.layer("probability.tif"), run.names[1:])
