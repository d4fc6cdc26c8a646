"""Places that people count in: suburbs, wards, parcels.

A place belongs to one zone at most, so that zones add up to the city: to the first in the file's
order. An object's area goes to the zones that it lies on, by the shares of its outline.
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
from capecam.detections.measurement import geodesic, multipolygons
from capecam.errors import UsageError
from capecam.io.vector_reader import read_polygons

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Shapes = NDArray[np.object_]

OUTSIDE = "(outside)"
"""Name of the last row: what lies in no zone. Its ``zone_id`` is 0, and it has no shape."""

COLUMNS = (
    "zone_id", "zone", "class_id", "class", "count", "area_m2", "zone_km2", "valid_share",
    "per_km2", "buildings", "per_building", "count_before", "area_m2_before",
    "valid_share_before", "count_change", "area_m2_change", "kept", "new", "gone", "unseen",
)  # fmt: skip
"""Of zones.csv and the others, in this order; then the zones' own attributes and the geometry.
``buildings`` and ``per_building`` come with footprints, what follows them with a second run."""

RESERVED = (*COLUMNS, "geometry", "geom", "fid")
"""An attribute of the zones that is called so, in small letters or large, gets ``zone_`` before its
name."""

SLIVER_M = 1.0
"""Overlaps narrower than this come from drawing one border twice."""

WHOLE = 1e-9
"""Shares of an object that miss 1 by less are whole but for rounding."""

DENSE_DEGREES = 0.005
"""For geodesic areas: lines that are straight in degrees get a point at least every 500 m."""

METRES_A_DEGREE = 111_320.0


@dataclass(frozen=True, slots=True)
class ZoneRules:
    """Which zones, and what is counted in them."""

    zones: Path
    """Polygons of a vector file, in any CRS."""
    name: str | None = None
    """Column with their names; else the first with text, else their numbers."""
    footprints: Path | None = None
    """Buildings of a vector file, in any CRS."""
    min_iou: float = MIN_IOU
    """What overlaps less is not the same object in two years."""

    def __post_init__(self) -> None:
        if not 0 < self.min_iou <= 1:
            raise UsageError(f"the smallest IoU must be above 0 and at most 1, got {self.min_iou}")


@dataclass(frozen=True, slots=True)
class Zones:
    """Places that do not overlap."""

    table: gpd.GeoDataFrame
    """``zone_id`` (the number of the feature in the file, from 1), ``zone`` (its name), the file's
    own attributes, and as geometry what belongs to the zone; the index counts from 0."""

    @classmethod
    def read(cls, rules: ZoneRules, years: Sequence[RunYear]) -> Zones:
        """Those that touch the extent of a run, in the CRS of the first run.

        Raises:
            UsageError: there is none, or the file cannot be used.
        """
        crs, path = years[0].crs, rules.zones
        table = read_polygons(path, crs)
        names = _names(table, rules.name, path)
        table = table.rename(columns=_renamed(table.columns.drop("geometry")))
        table.insert(0, "zone_id", np.asarray(table.index) + 1)
        table.insert(1, "zone", names)
        extents = pd.concat([gpd.GeoSeries([y.extent], crs=y.crs).to_crs(crs) for y in years])
        on_earth = np.isfinite(table.bounds).all(axis=1)
        table = table[on_earth & table.intersects(extents.union_all())].reset_index(drop=True)
        if table.empty:
            raise UsageError(
                f"{path}: no zone touches the imagery of {years[0].out}; check its CRS"
            )
        return cls(table.set_geometry(_first_come(table, path), crs=crs))

    def __len__(self) -> int:
        return len(self.table)

    @property
    def crs(self) -> pyproj.CRS:
        """Of the shapes."""
        return pyproj.CRS(self.table.crs)

    @property
    def shapes(self) -> Shapes:
        """(N,) what belongs to each."""
        return shapes_of(self.table)

    def km2(self) -> Floats:
        """(N,) their areas."""
        return _area_m2(self.shapes, self.crs) / 1e6

    def holding(self, points: gpd.GeoSeries) -> Integers:
        """(P,) index of the zone that each point lies in, N where in none.

        On a border it is the first.
        """
        tree = shapely.STRtree(points.to_numpy())
        zone, point = tree.query(self.shapes, predicate="intersects")
        found = np.full(len(points), len(self))
        np.minimum.at(found, point, zone)
        return found

    def split(self, shapes: Shapes) -> tuple[Integers, Integers, Floats]:
        """Which shapes lie on which zones (N is none), and the share of the shape that does.

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
        """(N,) share of each that has valid imagery; (N,) edge of a sample, in pixels."""
        placed = self.table.geometry.to_crs(year.crs).to_numpy()
        return year.coverage.shares(shapely.transform(placed, year.grid.to_pixels))


def _names(table: gpd.GeoDataFrame, column: str | None, path: Path) -> list[str]:
    """Of the zones; where there is none, the number."""
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
    named = zip(table[column].notna(), table[column], numbers, strict=True)
    return [str(name) if known else number for known, name, number in named]


def _renamed(attributes: Iterable[str]) -> dict[str, str]:
    """New names by old ones, for those that are ours; SQLite knows no capital letters."""
    taken, renamed = set(RESERVED), {}
    for name in attributes:
        new = name
        while new.lower() in taken:
            new = f"zone_{new}"
        taken.add(new.lower())
        renamed[name] = new
    return renamed


def _first_come(table: gpd.GeoDataFrame, path: Path) -> Shapes:
    """The zones, each without what belongs to those before it."""
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
    width_m = 2 * shapely.area(common) / shapely.length(common) * _metres(table.crs)
    wide = np.unique(pair[width_m > SLIVER_M])
    if len(wide):
        area = _area_m2(common[width_m > SLIVER_M], table.crs).sum()
        first, second = table["zone"].iloc[[a[wide[0]], b[wide[0]]]]
        log.warning(
            "%s: %d pair(s) of zones overlap, by %.1f m² (%r and %r first); what lies there "
            "belongs to the one that comes first in the file",
            path, len(wide), area, first, second,
        )  # fmt: skip
    return multipolygons(own)


def shapes_of(table: gpd.GeoDataFrame) -> Shapes:
    return np.asarray(table.geometry.to_numpy())


def _metres(crs: pyproj.CRS) -> float:
    """In a unit of a CRS; in degrees, along a meridian."""
    return METRES_A_DEGREE if crs.is_geographic else crs.axis_info[0].unit_conversion_factor


def _area_m2(shapes: Shapes, crs: pyproj.CRS) -> Floats:
    """(N,) areas; geodesic for a CRS in degrees."""
    if not crs.is_geographic:
        return np.asarray(shapely.area(shapes) * _metres(crs) ** 2)
    geod = geodesic(crs)
    dense = shapely.orient_polygons(shapely.segmentize(shapes, DENSE_DEGREES))
    return np.array([geod.geometry_area_perimeter(shape)[0] for shape in dense])
