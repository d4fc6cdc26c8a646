"""Regular outlines of the detections of a run, of which no two overlap."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import shapely

from capecam.detections.column_descriptions import field_metadata
from capecam.detections.measurement import Floats, middle_pixel_m, multipolygons
from capecam.detections.regions import Integers, Polygons
from capecam.detections.regularization import is_usable, regular_outlines
from capecam.grid import Grid
from capecam.io.parquet_texts import texts_of
from capecam.io.vector_writer import crs_of, write_geoparquet

BATCH = 4_096
"""Objects whose outlines of pixels are in memory at once: of the sample city, 0.26 ms each on a
core of an AMD EPYC, with 1,024 0.37 ms, with 8,192 0.29 ms."""

TOLERANCE_PX = 2.0
"""Tolerance of Visvalingam & Whyatt (1993) for objects that overlap; with 3, half of the touching
ones of the sample city (``capecam demo``) lose more than 1 % of their area, with 4 most lose more
than ``MAX_AREA_ERROR``."""

MAX_OVERLAP_PX2 = 1e-6
"""Area of an overlap that is an error of rounding."""

REGULAR, SIMPLIFIED, OWN = range(3)
"""Outlines that an object gets, one after the other, as long as it overlaps another object."""


@contextmanager
def regular_copy(path: Path, grid: Grid) -> Iterator[Path]:
    """Yield a temporary copy of a GeoParquet of detections in which they have regular outlines.

    Args:
        path: GeoParquet of a run.
        grid: the pixel grid.
    """
    geometry = regular_geometry(path, grid)
    names = pq.read_schema(path).names
    table = pd.read_parquet(path, columns=names[: names.index("geometry")])
    regular = gpd.GeoDataFrame(table, geometry=geometry, crs=crs_of(path))
    fields = field_metadata(table.columns)
    with TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        write_geoparquet(copy, regular, texts=texts_of(path), by_place=True, fields=fields)
        yield copy


def regular_geometry(path: Path, grid: Grid) -> Polygons:
    """Return (N,) regular outlines of all detections, in map coordinates.

    Objects that would overlap are simplified together instead, with the borders that they share; if
    that does not help, they keep their own outlines, which do not overlap. Memory holds all regular
    outlines; of those of pixels, a batch and what would overlap.

    Args:
        path: GeoParquet of a run.
        grid: the pixel grid.
    """
    size = middle_pixel_m(grid)
    outlines = np.concatenate(
        [np.empty(0, object), *(_regular(pixels, size) for pixels in _batches(path, grid))]
    )
    given = np.full(len(outlines), REGULAR)
    changed = np.arange(len(outlines))
    while len(changed):
        invalid = ~shapely.is_valid(shapely.transform(outlines[changed], grid.to_map))
        rows = np.union1d(_overlapping(outlines, changed), changed[invalid])
        changed = rows[given[rows] != OWN]
        own = _take(path, grid, changed)
        # With a vertex at every pixel's corner, borders that shapes share have the same vertices.
        simple = shapely.coverage_simplify(shapely.segmentize(own, 1.0), TOLERANCE_PX)
        is_simple = (given[changed] == REGULAR) & is_usable(simple, own)
        outlines[changed] = multipolygons(np.where(is_simple, simple, own))
        given[changed] = np.where(is_simple, SIMPLIFIED, OWN)
    return np.asarray(shapely.transform(outlines, grid.to_map))


def _regular(pixels: Polygons, size_m: Floats) -> Polygons:
    """Return (n,) regular outlines; angles are right where pixels have (2,) this size."""
    square = size_m / np.sqrt(size_m.prod())
    outlines = regular_outlines(shapely.transform(pixels, lambda xy: xy * square))
    return np.asarray(shapely.transform(outlines, lambda xy: xy / square))


def _batches(path: Path, grid: Grid) -> Iterator[Polygons]:
    """Yield (n,) outlines in lattice pixels, in the order of the file."""
    with pq.ParquetFile(path) as table:
        for batch in table.iter_batches(BATCH, columns=["geometry"]):
            shapes = shapely.from_wkb(batch["geometry"].to_numpy(zero_copy_only=False))
            yield shapely.transform(shapes, grid.to_lattice)


def _take(path: Path, grid: Grid, rows: Integers) -> Polygons:
    """Return the (N,) outlines of ascending rows in lattice pixels."""
    found, start = [np.empty(0, object)], 0
    for shapes in _batches(path, grid):
        inside = (rows >= start) & (rows < start + len(shapes))
        found.append(shapes[rows[inside] - start])
        start += len(shapes)
    return np.concatenate(found)


def _overlapping(outlines: Polygons, some: Integers) -> Integers:
    """Return the rows of outlines that overlap, if one of the two is among ``some``; ascending."""
    first, second = shapely.STRtree(outlines).query(outlines[some], predicate="intersects")
    first = some[first]
    first, second = np.stack([first, second])[:, first != second]
    overlap = shapely.area(shapely.intersection(outlines[first], outlines[second]))
    return np.unique(np.stack([first, second])[:, overlap > MAX_OVERLAP_PX2])
