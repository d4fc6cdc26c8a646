"""What the heatmaps say at each object: numbers, a word, a place in the queue (DESIGN section 6).

Everything is read from the stored rasters, after objects are joined, so that the numbers do not
depend on how the work was cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
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
    HeatmapSampler,
    Task,
    heatmap_sampler,
)
from capecam.detections.measurement import middle_pixel_m, pixel_m
from capecam.detections.neighbourhood import REACH_M, RING_M
from capecam.detections.regions import Pieces, first_pixels
from capecam.grid import Grid
from capecam.runtime.process_pool import ProcessPool
from capecam.settings import EvidenceSettings

WORDS = ("focused", "saturated", "context", "weak")

CHUNK = 64
"""Objects that go to a process at once: some 0.5 s."""

WORTH_IT = 8
"""Chunks from which processes are started, which takes a second."""

NEAR_PX = 2048
"""Edge of the squares in which objects are asked for one after the other."""

ADDED = ("rival", "rival_in", "evidence")
"""Columns behind the methods' measures: see docs/outputs.md."""


class Evidence:
    """Asks about many objects, in as many processes as there are cores."""

    def __init__(
        self,
        rasters: EvidenceRasters,
        grid: Grid,
        rules: EvidenceSettings,
        processes: int,
        memory: Path,
    ) -> None:
        """With 0 processes everything happens in this one.

        Args:
            rasters: what is asked.
            grid: of the lattice.
            rules: what makes words of numbers.
            processes: how many work.
            memory: file with the numbers of the last time; may be missing.
        """
        self._rasters, self._grid, self._rules, self._processes = rasters, grid, rules, processes
        self._files = ExitStack()
        self._children: ProcessPool[Task, NDArray[np.float64]] | None = None
        self._cache = _evidence_cache(rasters, grid, memory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._files.close()
        if kind is None:
            self._cache.save()

    def columns(self, objects: Pieces, table: pd.DataFrame) -> pd.DataFrame:
        """What is added to a table of N objects, and ``doubt`` (:func:`doubt`), N rows.

        Args:
            objects: in lattice pixels.
            table: their ``confidence``.
        """
        found = pd.DataFrame(self._numbers(objects), columns=self._rasters.columns)
        found["confidence"] = table["confidence"].to_numpy()
        method = self._rules.method or self._rasters.heats[0].method
        names = np.array([None, *self._rasters.classes], object)
        found["rival"] = pd.Series(names[found.pop("rival_id").to_numpy(int)], dtype="str")
        found["evidence"] = pd.Series(judged(found, method, self._rules), dtype="str")
        found["doubt"] = doubt(found, method)
        return found[[*self._rasters.columns[:-2], *ADDED, "doubt"]]

    def _numbers(self, objects: Pieces) -> NDArray[np.float64]:
        """(N, columns); those that are known from the last time are not asked for."""
        keys = self._cache.keys(objects)
        known, numbers = self._cache.lookup(keys)
        numbers[~known] = self._measured(objects.take(~known))
        self._cache.store(keys, numbers)
        return numbers

    def _measured(self, objects: Pieces) -> NDArray[np.float64]:
        pixel = pixel_m(self._grid, shapely.get_coordinates(shapely.centroid(objects.geometry)))
        numbers = np.empty((len(objects), len(self._rasters.columns)))
        col, row = first_pixels(objects.geometry)
        # Neighbours one after the other read the same blocks of the same files.
        order = np.lexsort((row, col // NEAR_PX, row // NEAR_PX))
        chunks = [order[start : start + CHUNK] for start in range(0, len(order), CHUNK)]
        tasks = [(objects.geometry[c], objects.class_id[c].tolist(), pixel[c]) for c in chunks]
        for chunk, answer in zip(chunks, self._answers(tasks), strict=True):
            numbers[chunk] = answer
        return numbers

    def _answers(self, tasks: Sequence[Task]) -> Iterable[NDArray[np.float64]]:
        if self._processes and self._children is None and len(tasks) >= WORTH_IT:
            children = ProcessPool(heatmap_sampler, self._rasters, self._processes)
            self._children = self._files.enter_context(children)
        if self._children is not None:
            return self._children.map(tasks)
        with closing(HeatmapSampler(self._rasters)) as here:
            return [here(task) for task in tasks]


def _evidence_cache(rasters: EvidenceRasters, grid: Grid, memory: Path) -> EvidenceCache:
    """What is known from the last time, and what it depends on."""
    tiles, scale_max = list(rasters.probability.tiles), []
    for heat in rasters.heats:
        scale_max.append(f"{heat.method} {heat.stride} {heat.scale_max}")
        stored = heat.layer.tiles if heat.layer else ()
        tiles += [replace(tile, window=tile.window.scaled(heat.stride)) for tile in stored]
    size_m = float(middle_pixel_m(grid).min())
    # In degrees a pixel is not everywhere as large as in the middle.
    reach_px = 1.5 * REACH_M / size_m + max(heat.stride for heat in rasters.heats)
    recipe = f"{VERSION} {RING_M} {REACH_M} {grid.crs} {grid.anchor} {grid.pixel} {scale_max}"
    return EvidenceCache(memory, recipe, tiles, reach_px, len(rasters.columns))


def judged(table: pd.DataFrame, method: str, rules: EvidenceSettings) -> NDArray[np.object_]:
    """One word an object, of ``WORDS`` (docs/method.md).

    Args:
        table: with ``confidence`` and the measures of ``method``.
        method: the heatmap that decides.
        rules: the thresholds.
    """
    inside = table[f"{method}_in"].to_numpy(float)
    ring = table[f"{method}_ring"].to_numpy(float)
    around = _around(table, method)
    with np.errstate(invalid="ignore"):  # NaN: nothing was explained there, and nothing holds
        focused = (inside >= rules.high) & ~(ring >= rules.outweighs * inside)
        context = (around >= rules.high) & (around >= rules.outweighs * inside)
        certain = (table["confidence"].to_numpy(float) >= rules.certain) & ~np.isnan(inside)
    words = np.select([focused, context, certain], ["focused", "context", "saturated"], "weak")
    return words.astype(object)


def _around(table: pd.DataFrame, method: str) -> NDArray[np.float64]:
    """How strong the surroundings are: the ring's mean, or half of a peak outside the object.

    Half, since a peak is compared with the mean of the inside.
    """
    ring, peak, away = (table[f"{method}_{m}"].to_numpy(float) for m in ("ring", "peak", "peak_m"))
    found: NDArray[np.float64] = np.fmax(ring, np.where(away > 0, peak / 2, np.nan))
    return found


def doubt(table: pd.DataFrame, method: str) -> NDArray[np.float64]:
    """How much an object wants to be looked at, 0..1: it is sure of itself for reasons that lie
    elsewhere, or split between classes.

    The larger of: confidence times the share by which the surroundings outweigh the inside, where
    the word is ``context``; and the rival's probability relative to that of the object's class.
    """
    confidence = table["confidence"].to_numpy(float)
    inside, around = table[f"{method}_in"].to_numpy(float), _around(table, method)
    with np.errstate(invalid="ignore", divide="ignore"):
        elsewhere = np.where(table["evidence"] == "context", 1 - inside / around, 0.0)
        split = np.minimum(table["rival_in"].to_numpy(float) / confidence, 1.0)
    found: NDArray[np.float64] = np.fmax(np.fmax(confidence * elsewhere, split), 0.0)
    return found
