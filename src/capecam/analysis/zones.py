"""Zones in which detections are counted: suburbs, wards, parcels.

A location belongs to at most one zone, the first in the file's order, so that zones add up to the
city. The area of an object is divided among the zones that its outline lies on.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import shapely
from numpy.typing import NDArray

from capecam.analysis.change import MIN_IOU, RunYear
from capecam.detections.measurement import geodesic_m2, inside_points, multipolygons
from capecam.errors import UsageError
from capecam.imagery.crs import unit_m
from capecam.io.reprojection import metres_per_unit, reproject
from capecam.io.vector_reader import read_polygons

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Shapes = NDArray[np.object_]

OUTSIDE = "(outside)"
"""Name of the last row, of objects outside all zones; its ``zone_id`` is 0, without a shape."""

COLUMNS = (
    "zone_id", "zone", "class_id", "class", "count", "area_m2", "zone_km2", "valid_share",
    "per_km2", "buildings", "per_building", "count_before", "area_m2_before",
    "valid_share_before", "count_change", "area_m2_change", "kept", "new", "gone", "unseen",
)  # fmt: skip
"""Columns of the zone tables, in this order, before the zones' own attributes and the geometry.
``buildings`` and ``per_building`` need footprints, the columns after them a second run."""

RESERVED = (*COLUMNS, "geometry", "geom", "fid")
"""Names that attributes of zones may not have, in any case; they get the prefix ``zone_``."""

SLIVER_M = 1.0
"""Width below which overlaps are taken for one border drawn twice."""

WHOLE = 1e-9
"""Rounding error up to which the shares of an object add up to 1."""

EVEN_DEGREES = 1.0
"""Height of a shape in degrees up to which a degree of longitude is taken to have one length."""


@dataclass(frozen=True, slots=True)
class ZoneRules:
    """Zones, and rules of counting in them."""

    zones: Path
    """Vector file of polygons, in any CRS."""
    name: str | None = None
    """Column with the names; None: the first column of text, else the numbers."""
    footprints: Path | None = None
    """Vector file of buildings, in any CRS."""
    min_iou: float = MIN_IOU
    """Minimum overlap of the same object in two runs."""

    def __post_init__(self) -> None:
        if not 0 < self.min_iou <= 1:
            raise UsageError(f"the minimum IoU must be above 0 and at most 1, got {self.min_iou}")


@dataclass(frozen=True, slots=True)
class Zones:
    """Zones that do not overlap."""

    table: gpd.GeoDataFrame
    """``zone_id`` (number of the feature in the file, from 1), ``zone`` (its name), the file's own
    attributes, and the geometry of the zone; the index counts from 0."""

    @classmethod
    def read(cls, rules: ZoneRules, years: Sequence[RunYear]) -> Zones:
        """Read the zones that touch the extent of a run, in the CRS of the first run.

        Raises:
            UsageError: no zone does, or the file cannot be used.
        """
        crs, path = years[0].crs, rules.zones
        extents = [_extent(year, crs, years[0].extent) for year in years]
        around = shapely.union_all(extents)
        table = read_polygons(path, crs, near=around, everywhere=True)
        names = _names(table, rules.name, path)
        table = table.rename(columns=_renamed(table.columns.drop("geometry")))
        table.insert(0, "zone_id", np.asarray(table.index) + 1)
        table.insert(1, "zone", names)
        table = table[table.intersects(around)].reset_index(drop=True)
        if table.empty:
            raise UsageError(
                f"{path}: no zone touches the imagery of {years[0].out}; check its CRS"
            )
        return cls(table.set_geometry(_first_come(table, path), crs=crs))

    def __len__(self) -> int:
        return len(self.table)

    @property
    def crs(self) -> pyproj.CRS:
        """Return the CRS of the shapes."""
        return pyproj.CRS(self.table.crs)

    @property
    def shapes(self) -> Shapes:
        """Return the (N,) shapes of the zones."""
        return shapes_of(self.table)

    @property
    def extent(self) -> shapely.Geometry:
        """Return the bounding box of the zones."""
        return shapely.box(*self.table.total_bounds)

    def km2(self) -> Floats:
        """Return the (N,) areas of the zones."""
        return area_m2(self.shapes, self.crs) / 1e6

    def of_objects(self, objects: pd.DataFrame) -> Integers:
        """Return (O,) the index of the zone in which each object is counted, N if in none."""
        left, _, right, _ = self.table.total_bounds
        return self.holding(inside_points(objects, self.crs, (left + right) / 2))

    def holding(self, points: gpd.GeoSeries) -> Integers:
        """Return (P,) the index of the zone of each point, N if it is in none.

        A point on a border belongs to the first zone.
        """
        tree = shapely.STRtree(points.to_numpy())
        zone, point = tree.query(self.shapes, predicate="intersects")
        index = np.full(len(points), len(self))
        np.minimum.at(index, point, zone)
        return index

    def split(self, shapes: Shapes) -> tuple[Integers, Integers, Floats]:
        """Return indices of shapes, of the zones that they lie on (N: none), and their shares.

        The shares of a shape add up to 1.
        """
        zones = self.shapes
        shapely.prepare(zones)
        zone, shape = shapely.STRtree(shapes).query(zones, predicate="intersects")
        share = shapely.contains(zones[zone], shapes[shape]).astype(float)
        cut = np.flatnonzero(share == 0)
        inside = shapely.intersection(zones[zone[cut]], shapes[shape[cut]])
        share[cut] = shapely.area(inside) / shapely.area(shapes[shape[cut]])
        total = np.bincount(shape, share, len(shapes))
        whole = total > 1 - WHOLE
        share /= np.where(whole, total, 1.0)[shape]
        rest = np.flatnonzero(~whole)
        return (
            np.concatenate([shape, rest]),
            np.concatenate([zone, np.full(len(rest), len(self))]),
            np.concatenate([share, 1 - total[rest]]),
        )

    def valid(self, year: RunYear) -> tuple[Floats, Integers]:
        """Return (N,) the share of each zone with valid imagery, and (N,) the sample size in px."""
        shapes, _ = reproject(self.shapes, self.crs, year.crs, year.extent)
        shares, factor = year.coverage.shares(shapely.transform(shapes, year.grid.to_pixels))
        uneven = np.flatnonzero(_is_uneven(shapes, year.crs) & ~shapely.is_empty(shapes))
        if len(uneven):
            shapes = shapes[uneven]
            here = geodesic_m2(np.array([year.extent]), year.crs) / year.extent.area
            ratio = shapely.area(shapes) * here / geodesic_m2(shapes, year.crs)
            shares[uneven] = np.minimum(shares[uneven] * ratio, 1.0)
        return shares, factor


def _names(table: gpd.GeoDataFrame, column: str | None, path: Path) -> list[str]:
    """Return the names of zones, or their numbers where there is no name."""
    attributes = table.columns.drop("geometry")
    if column is not None and column not in attributes:
        near = difflib.get_close_matches(column, attributes, 1) or attributes
        raise UsageError(f"{path}: has no column {column!r}; did you mean {', '.join(near)}?")
    if column is None:
        text = (name for name in attributes if pd.api.types.is_string_dtype(table[name].dropna()))
        column = next((name for name in text if table[name].notna().any()), None)
    numbers = [str(index + 1) for index in table.index]
    if column is None:
        return numbers
    rows = zip(table[column].notna(), table[column], numbers, strict=True)
    return [str(name) if has_name else number for has_name, name, number in rows]


def _renamed(attributes: Iterable[str]) -> dict[str, str]:
    """Return new names of attributes that clash with ours; SQLite ignores case."""
    taken, renamed = set(RESERVED), {}
    for name in attributes:
        new = name
        while new.lower() in taken:
            new = f"zone_{new}"
        taken.add(new.lower())
        renamed[name] = new
    return renamed


def _first_come(table: gpd.GeoDataFrame, path: Path) -> Shapes:
    """Return the shapes of zones without the parts that belong to earlier zones."""
    shapes = shapes_of(table)
    b, a = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    a, b = a[a < b], b[a < b]
    common, pair = shapely.get_parts(shapely.intersection(shapes[a], shapes[b]), return_index=True)
    flat = shapely.area(common) == 0  # most zones only share a border
    common, pair = common[~flat], pair[~flat]
    own = shapes.copy()
    for later in np.unique(b[pair]):
        before = shapely.union_all(shapes[np.unique(a[pair][b[pair] == later])])
        own[later] = shapely.difference(shapes[later], before)
    width_m = 2 * shapely.area(common) / shapely.length(common) * metres_per_unit(table.crs)
    wide = np.unique(pair[width_m > SLIVER_M])
    if len(wide):
        area = area_m2(common[width_m > SLIVER_M], table.crs).sum()
        first, second = table["zone"].iloc[[a[wide[0]], b[wide[0]]]]
        log.warning(
            "%s: %d pair(s) of zones overlap, by %.1f m² (first pair: %r and %r); overlaps are "
            "counted in the zone that comes first in the file",
            path, len(wide), area, first, second,
        )  # fmt: skip
    return multipolygons(own)


def _extent(year: RunYear, crs: pyproj.CRS, near: shapely.Geometry) -> shapely.Geometry:
    (extent,), _ = reproject(np.array([year.extent]), year.crs, crs, near)
    return extent


def shapes_of(table: gpd.GeoDataFrame) -> Shapes:
    return np.asarray(table.geometry.to_numpy())


def area_m2(shapes: Shapes, crs: pyproj.CRS) -> Floats:
    """Return (N,) areas; geodesic where a unit of the CRS is no length on the ground."""
    area = np.asarray(shapely.area(shapes) * metres_per_unit(crs) ** 2, np.float64)
    if not len(shapes):
        return area
    uneven = np.ones(len(shapes), np.bool_) if crs.is_geographic else _is_uneven(shapes, crs)
    area[uneven] = geodesic_m2(shapes[uneven], crs)
    return area


def _is_uneven(shapes: Shapes, crs: pyproj.CRS) -> NDArray[np.bool_]:
    """Return (N,) True where the scale of a CRS varies within a shape, or is not its unit."""
    bounds = shapely.bounds(shapes)
    if crs.is_geographic:
        return np.asarray(bounds[:, 3] - bounds[:, 1] > EVEN_DEGREES)
    if not _has_other_scale(shapely.total_bounds(shapes)[None], crs).any():
        return np.zeros(len(shapes), np.bool_)
    return _has_other_scale(bounds, crs)


def _has_other_scale(bounds: Floats, crs: pyproj.CRS) -> NDArray[np.bool_]:
    """Return (N,) True where a unit of a projection is another length on the ground.

    Args:
        bounds: (N, 4) left, bottom, right, top; their corners and middles are looked at.
        crs: the projection.
    """
    (left, bottom, right, top), unit = bounds.T, metres_per_unit(crs)
    x = np.stack([left, right, left, right, (left + right) / 2], axis=1)
    y = np.stack([bottom, bottom, top, top, (bottom + top) / 2], axis=1)
    scale = unit_m(crs.to_wkt(), np.stack([x.ravel(), y.ravel()], axis=1))
    return np.asarray((scale != unit).any(axis=1).reshape(-1, 5).any(axis=1))
