"""Places without a detection that may hold an object, the likeliest first.

Below the class decision the stored probabilities still say where an object may be. Pixels with at
least ``MIN_PROBABILITY`` are traced and joined as class pixels are; what touches a detection is its
soft edge, and the rest is ranked by its mean probability.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from capecam.detections.assembly import (
    BATCH,
    assemble,
    assembly_rules,
    cell_pieces,
    join_across_cells,
)
from capecam.detections.filters import rejection_reasons
from capecam.detections.measurement import COLUMNS, to_table
from capecam.detections.regions import Pieces
from capecam.detections.tracing import Tracer
from capecam.grid import Window
from capecam.io.cog import LEVELS, NODATA
from capecam.io.gdal import gdal_settings, open_readonly
from capecam.runtime.machine import usable_cpus
from capecam.runtime.process_pool import ProcessPool
from capecam.store.run_folder import RunFolder

MIN_PROBABILITY = 0.05
"""Of a pixel of a candidate (docs/method.md#misses)."""

MISSES_COLUMNS = ("id", "class_id", "class", "area_m2", "probability", "expected_m2", "lon", "lat",
                  "images", "review")  # fmt: skip
"""Columns of the candidates, before the geometry."""

STRIP_PX = 512
"""Rows that are read at once: those of a block of the COGs."""

PROBABILITY = "probability.tif"


def find_misses(run: RunFolder) -> gpd.GeoDataFrame:
    """Find the places where a run most likely misses an object.

    Args:
        run: a finished run.

    Returns:
        N rows of ``MISSES_COLUMNS`` and geometry, by ``review``: that with the highest probability
        is 1, among equal ones the largest. Ids are those of detections with an m before.

    Raises:
        UsageError: the footprints cannot be read.
    """
    rules = assembly_rules(run)
    found = shapely.STRtree(assemble(cell_pieces(run), rules).objects.geometry)
    settings = rules.settings.model_copy(update={"min_confidence": 0.0})
    distance_px = max(settings.join_distance_px, 1.0)
    tables = []
    for objects in join_across_cells(_pieces(run), settings.join_distance_px):
        touching, _ = found.query(objects.geometry, predicate="dwithin", distance=distance_px)
        apart = objects.take(np.isin(np.arange(len(objects)), touching, invert=True))
        table = to_table(apart, run.grid, run.names)
        reasons = rejection_reasons(apart, table, settings, run.names, rules.buildings)
        tables.append(table.loc[reasons == "", [*COLUMNS, "geometry"]])
    misses = gpd.GeoDataFrame(pd.concat(tables, ignore_index=True), crs=tables[0].crs)
    misses["id"] = "m" + misses["id"]
    misses = misses.rename(columns={"confidence": "probability"})
    misses["expected_m2"] = misses["area_m2"] * misses["probability"]
    order = np.lexsort((-misses["area_m2"], -misses["probability"]))
    misses = misses.iloc[order].reset_index(drop=True)
    misses["review"] = np.arange(1, len(misses) + 1)
    return misses[[*MISSES_COLUMNS, "geometry"]]


def _pieces(run: RunFolder) -> Iterator[tuple[Pieces, float]]:
    """Yield the pieces of some cells, and the row above which no later piece begins."""
    cores = sorted((run.core(name), name, cell.image) for name, cell in run.cells.items())
    tasks = [Task(run.path(name, PROBABILITY), core, image) for core, name, image in cores]
    batches = [tasks[start : start + BATCH] for start in range(0, len(tasks), BATCH)]
    ends = [batch[0].core.row for batch in batches[1:]] + [inf]
    processes = 0 if run.settings.run.in_process else min(usable_cpus(), len(tasks))
    with ExitStack() as stack:
        if processes > 1:
            pool = ProcessPool[Task, Pieces](cell_tracer, None, processes)
            trace = stack.enter_context(pool).map
        else:
            trace = partial(map, stack.enter_context(cell_tracer(None)))
        for batch, end in zip(batches, ends, strict=True):
            yield Pieces.concatenate(list(trace(batch))), end


@dataclass(frozen=True, slots=True)
class Task:
    """A cell to trace."""

    path: Path
    """Its probabilities."""
    core: Window
    image: str


@contextmanager
def cell_tracer(_: None) -> Iterator[Callable[[Task], Pieces]]:
    """Give the function that traces a cell; the context of a process."""
    with gdal_settings():
        yield _trace


def _trace(cell: Task) -> Pieces:
    """Return the regions of a cell that may be objects."""
    tracer, width = Tracer(cell.core.col, cell.image), cell.core.width
    with open_readonly(cell.path) as dataset:
        for top in range(0, cell.core.height, STRIP_PX):
            bottom = min(top + STRIP_PX, cell.core.height)
            levels = dataset.read(window=((top, bottom), (0, width)))
            tracer.add(cell.core.row + top, _likeliest(levels), levels)
    return tracer.finish()


def _likeliest(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the (H, W) most probable class of (C, H, W) levels; 0 is none, or no imagery."""
    highest = levels.max(axis=0)
    possible = (highest >= MIN_PROBABILITY * LEVELS) & (highest != NODATA)
    return np.where(possible, 1 + levels.argmax(axis=0), 0).astype(np.uint8)
