"""Regular outlines of the detections of a run, of which no two overlap."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import shapely

from capecam.detections.measurement import Floats, middle_pixel_m, multipolygons
from capecam.detections.regions import Integers, Polygons
from capecam.detections.regularization import is_usable, regular_outlines
from capecam.grid import Grid
from capecam.io.vector_writer import crs_of, write_geoparquet

BATCH = 4_096
"""Objects whose outlines of pixels are in memory at once; more are not faster."""

TOLERANCE_PX = 2.0
"""Tolerance of Visvalingam & Whyatt (1993) for objects that overlap; with 3, half of the touching
ones of the sample city lose more than 1 % of their area, with 4 most lose too much."""

MAX_OVERLAP_PX2 = 1e-6
"""Area of an overlap that is an error of rounding."""

REGULAR, SIMPLIFIED, OWN = range(3)
"""Outlines that an object gets, one after the other, as long as it overlaps another object."""


@dataclass(frozen=True, slots=True)
class PixelOutlines:
    """Outlines of detections as they were traced, in a file."""

    path: Path
    """GeoParquet of a run."""
    grid: Grid

    @property
    def size(self) -> Floats:
        """(2,) width and height of a pixel on the ground, divided by the root of its area."""
        size_m = middle_pixel_m(self.grid)
        return np.asarray(size_m / np.sqrt(size_m.prod()))

    def batches(self) -> Iterator[Polygons]:
        """Yield (n,) outlines in pixels that are square on the ground, in the order of the file."""
        size = self.size
        with pq.ParquetFile(self.path) as table:
            for batch in table.iter_batches(BATCH, columns=["geometry"]):
                shapes = shapely.from_wkb(batch["geometry"].to_numpy(zero_copy_only=False))
                yield shapely.transform(shapes, lambda xy: self.grid.to_lattice(xy) * size)

    def take(self, rows: Integers) -> Polygons:
        """Return the (N,) outlines of ascending rows."""
        found, start = [], 0
        for shapes in self.batches():
            inside = (rows >= start) & (rows < start + len(shapes))
            found.append(shapes[rows[inside] - start])
            start += len(shapes)
        return np.concatenate([np.empty(0, object), *found])

    def to_map(self, shapes: Polygons) -> Polygons:
        """Return shapes in map coordinates."""
        size = self.size
        return np.asarray(shapely.transform(shapes, lambda xy: self.grid.to_map(xy / size)))


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
    with TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        write_geoparquet(copy, gpd.GeoDataFrame(table, geometry=geometry, crs=crs_of(path)))
        yield copy


def regular_geometry(path: Path, grid: Grid) -> Polygons:
    """Return (N,) regular outlines of all detections, in map coordinates.

    Objects that would overlap are simplified together instead, by the borders that they share, and
    keep their own outlines if that does not help.

    Args:
        path: GeoParquet of a run.
        grid: the pixel grid.
    """
    pixels = PixelOutlines(path, grid)
    outlines = np.concatenate([np.empty(0, object), *map(regular_outlines, pixels.batches())])
    given = np.full(len(outlines), REGULAR)
    changed = np.arange(len(outlines))
    while len(changed):
        invalid = changed[~shapely.is_valid(pixels.to_map(outlines[changed]))]
        rows = np.union1d(overlapping(outlines, changed), invalid)
        changed = rows[given[rows] != OWN]
        own = pixels.take(changed)
        simple = shapely.coverage_simplify(shapely.segmentize(own, 1.0), TOLERANCE_PX)
        is_simple = (given[changed] == REGULAR) & is_usable(simple, own)
        outlines[changed] = multipolygons(np.where(is_simple, simple, own))
        given[changed] = np.where(is_simple, SIMPLIFIED, OWN)
    return pixels.to_map(outlines)


def overlapping(outlines: Polygons, some: Integers) -> Integers:
    """Return the rows of outlines that overlap, if one of the two is among ``some``; ascending."""
    first, second = shapely.STRtree(outlines).query(outlines[some], predicate="intersects")
    first = some[first]
    first, second = first[first != second], second[first != second]
    overlap = shapely.area(shapely.intersection(outlines[first], outlines[second]))
    pairs = np.stack([first, second])[:, overlap > MAX_OVERLAP_PX2]
    return np.unique(pairs)
