"""Making the features of a vector file usable: polygons that are valid, finite and in one CRS.

Whatever is changed or left out is said, with the number of the first such feature.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from capecam.errors import UsageError
from capecam.io.longitudes import across_antimeridian, counts_degrees, in_one_turn, uncut
from capecam.io.polygon_repair import repaired
from capecam.io.reprojection import bounds_in, reproject

log = logging.getLogger(__name__)

SHOWN = 5
"""Number of features in a message."""

WRAP = "cut it at 180° with ogr2ogr -wrapdateline"


@dataclass(frozen=True, slots=True)
class Place:
    """Location of the imagery: a geometry, and its CRS."""

    shape: shapely.Geometry
    crs: pyproj.CRS

    def bounds(self, crs: pyproj.CRS) -> NDArray[np.float64] | None:
        """Return (4,) left, bottom, right and top in another CRS: see ``bounds_in``."""
        return bounds_in(self.shape, self.crs, crs)


def check_crs(path: Path, crs: Any) -> None:
    """Raise UsageError if a layer does not say where on Earth it is."""
    remedy = "; assign it with ogr2ogr -a_srs EPSG:... OUT.gpkg"
    if crs is None:
        raise UsageError(f"{path}: has no coordinate reference system{remedy}")
    known = pyproj.CRS(crs)
    is_placed = known.is_geographic or known.is_projected
    if not is_placed or known.name.lower().startswith("undefined"):
        raise UsageError(
            f"{path}: has no coordinate reference system on Earth, only {known.name!r}{remedy}"
        )


def clean_polygons(table: gpd.GeoDataFrame, path: Path, place: Place | None) -> gpd.GeoDataFrame:
    """Return the rows that have an area, as valid polygons or multipolygons without heights.

    Raises:
        UsageError: there are only points or lines, or a polygon has two meanings.
    """
    table = _finite(table, path)
    shapes = shapely.force_2d(table.geometry.to_numpy())
    _check_kind(shapes, path)
    if counts_degrees(pyproj.CRS(table.crs)):
        shapes = _joined_at_antimeridian(table.set_geometry(shapes), path, place)
    given = shapes
    shapes, invalid = repaired(given)
    if invalid.any():
        first = np.flatnonzero(invalid)[0]
        log.warning(
            "%s: %d invalid outline(s) repaired (%s; %s)",
            path, invalid.sum(), _numbers(table, invalid), shapely.is_valid_reason(given[first]),
        )  # fmt: skip
    flat = ~(shapely.area(shapes) > 0)
    if flat.any():
        log.warning("%s: %d feature(s) have no area, left out", path, np.sum(flat))
    return _with_shapes(table, shapes)[~flat]


def move_polygons(
    table: gpd.GeoDataFrame, path: Path, crs: pyproj.CRS, near: shapely.Geometry | None
) -> gpd.GeoDataFrame:
    """Return polygons in the CRS of the imagery, without those outside of it."""
    shapes, cut = reproject(np.asarray(table.geometry.to_numpy()), pyproj.CRS(table.crs), crs, near)
    outside = cut & shapely.is_empty(shapes)
    cut &= ~outside
    for which, what in (
        (outside, "lie outside of the CRS of the imagery, left out"),
        (cut, "reach beyond the CRS of the imagery, cut to its area of use"),
    ):
        if which.any():
            log.warning(
                "%s: %d feature(s) %s (%s)", path, which.sum(), what, _numbers(table, which)
            )  # fmt: skip
    return _with_shapes(table, shapes, crs)[~shapely.is_empty(shapes)]


def _with_shapes(
    table: gpd.GeoDataFrame, shapes: NDArray[np.object_], crs: Any = None
) -> gpd.GeoDataFrame:
    geometry = gpd.GeoSeries(shapes, index=table.index, crs=crs or table.crs)
    return table.set_geometry(geometry, crs=geometry.crs)


def _numbers(table: gpd.GeoDataFrame, which: NDArray[np.bool_]) -> str:
    """Return the first numbers of features, counted from 1 in the order in which they are read."""
    numbers = table.index.to_numpy()[which] + 1
    shown = ", ".join(map(str, numbers[:SHOWN]))
    return f"number {shown}" + (" ..." if len(numbers) > SHOWN else "")


def _finite(table: gpd.GeoDataFrame, path: Path) -> gpd.GeoDataFrame:
    """Return the rows with finite coordinates."""
    points, row = shapely.get_coordinates(table.geometry.to_numpy(), return_index=True)
    infinite = np.unique(row[~np.isfinite(points).all(axis=1)])
    if not len(infinite):
        return table
    log.warning(
        "%s: %d feature(s) with coordinates of NaN or infinity, left out", path, len(infinite)
    )
    return table.iloc[np.setdiff1d(np.arange(len(table)), infinite)]


def _check_kind(shapes: NDArray[np.object_], path: Path) -> None:
    """Raise UsageError if there are only points or lines."""
    dimensions = shapely.get_dimensions(shapes[~shapely.is_missing(shapes)])
    if not len(dimensions) or (dimensions == 2).any() or (dimensions < 0).any():
        return
    what = "lines" if (dimensions == 1).any() else "points"
    remedy = "make polygons of closed lines with 'Lines to polygons' of QGIS, or " * (
        what == "lines"
    )
    raise UsageError(f"{path}: holds {what} and no polygons; {remedy}give a layer of polygons")


def _joined_at_antimeridian(
    table: gpd.GeoDataFrame, path: Path, place: Place | None
) -> NDArray[np.object_]:
    """Return shapes in which an edge from 179 to -179 is 2° long, where the imagery says so.

    Raises:
        UsageError: both meanings, around the world and across 180°, touch the imagery.
    """
    shapes = np.asarray(table.geometry.to_numpy())
    crossing = uncut(shapes)
    if not crossing.any():
        return shapes
    bounds = None if place is None else place.bounds(pyproj.CRS(table.crs))
    joined, touched = shapes.copy(), np.zeros((2, len(shapes)), np.bool_)
    for row in np.flatnonzero(crossing):
        meanings = shapes[row], across_antimeridian(shapes[row])
        touched[:, row] = [bounds is None or _touches(shape, bounds) for shape in meanings]
        joined[row] = meanings[int(touched[1, row])]
    both = touched[0] & touched[1]
    if both.any():
        raise UsageError(
            f"{path}: an edge of more than 180° of longitude may go across the antimeridian or "
            f"around the world ({_numbers(table, both)}); {WRAP}"
        )
    for which, way in zip(touched, ("around the world", "across the antimeridian"), strict=True):
        if which.any():
            log.warning(
                "%s: %d feature(s) with an edge of more than 180° of longitude are taken to go %s "
                "(%s); to be sure, %s",
                path, which.sum(), way, _numbers(table, which), WRAP,
            )  # fmt: skip
    return joined


def _touches(shape: shapely.Geometry, bounds: NDArray[np.float64]) -> bool:
    """Return whether a shape touches a box, whichever turn its longitudes are in."""
    (whole,), _ = repaired(np.array([shape]))
    (turned,) = in_one_turn(np.array([whole]), float(bounds[[0, 2]].mean()))
    return bool(shapely.intersects(turned, shapely.box(*bounds)))
