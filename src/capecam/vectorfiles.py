"""Vector files that people bring: areas of interest, footprints, zones, annotations.

Any format and CRS that GDAL reads; only polygons are kept, mended where they are invalid.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from capecam.errors import UsageError

log = logging.getLogger(__name__)

POLYGONAL = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)

GEOPARQUET = (".parquet", ".geoparquet")

EDGE_POINTS = 20
"""Straight lines of one CRS are curves in another: an area gets so many points along an edge."""

ASTRAY_M = 1.0
"""A place on Earth comes back to within this when it is projected again."""


def read_polygons(
    path: Path,
    crs: pyproj.CRS | None = None,
    *,
    near: shapely.Geometry | None = None,
    columns: Sequence[str] | None = None,
    layer: str | None = None,
) -> gpd.GeoDataFrame:
    """The polygons of a vector file, valid, in one CRS, in the file's order.

    Args:
        path: any format that GDAL reads, or GeoParquet.
        crs: to bring them to; None leaves them in their own.
        near: in ``crs``; only what touches its bounding box is read, so that the buildings of a
            country cost no more than those of a city.
        columns: attributes to read; None is all of them, those a file lacks are left out.
        layer: of a file with several; else the first.

    Raises:
        UsageError: there is no such file, it is no vector layer, or says no CRS.
    """
    if not path.exists():
        raise UsageError(f"{path}: there is no such file")
    area = None if near is None else gpd.GeoSeries([_with_points(near)], crs=crs)
    try:
        if path.suffix in GEOPARQUET:
            table = _read_parquet(path, area, columns)
        else:
            table = gpd.read_file(path, engine="pyogrio", bbox=area, columns=columns, layer=layer)
    except (OSError, ValueError, RuntimeError) as error:
        message = " ".join(str(error).split())
        raise UsageError(f"{path}: cannot be read as a vector layer ({message})") from error
    if not isinstance(table, gpd.GeoDataFrame):
        raise UsageError(f"{path}: is a table without geometry; polygons are needed")
    if table.crs is None:
        raise UsageError(f"{path}: has no coordinate reference system; assign it with ogr2ogr")
    if doubt := misplaced(table):
        log.warning("%s: %s", path, doubt)
    polygons = _polygons(table, path)
    return polygons if crs is None else polygons.to_crs(crs)


def _read_parquet(
    path: Path, area: gpd.GeoSeries | None, columns: Sequence[str] | None
) -> gpd.GeoDataFrame:
    """GDAL's own wheels cannot read it."""
    table = gpd.read_parquet(path)
    if columns is not None:
        table = table[[*(name for name in columns if name in table), table.geometry.name]]
    return table if area is None else table.cx[_slices(area.to_crs(table.crs).total_bounds)]


def _slices(bounds: NDArray[np.float64]) -> tuple[slice, slice]:
    left, bottom, right, top = bounds
    return slice(left, right), slice(bottom, top)


def _with_points(area: shapely.Geometry) -> shapely.Geometry:
    left, bottom, right, top = area.bounds
    return shapely.segmentize(area, max(right - left, top - bottom) / EDGE_POINTS)


def misplaced(table: gpd.GeoDataFrame) -> str | None:
    """Why the coordinates cannot be in the CRS that a layer declares; None where they can.

    Metres in a layer that says degrees, degrees in one that says metres, and coordinates that the
    projection cannot turn into a place on Earth.
    """
    bounds = table.total_bounds
    if np.isnan(bounds).any():
        return None
    crs = pyproj.CRS(table.crs)
    shown = ", ".join(f"{value:.6g}" for value in bounds)
    cure = "; assign the right one with ogr2ogr -a_srs"
    on_earth = np.abs(bounds[[0, 2]]).max() <= 360 and np.abs(bounds[[1, 3]]).max() <= 90
    if crs.is_geographic:
        what = "is in degrees, and its coordinates cannot be"
        return None if on_earth else f"its CRS ({crs.name}) {what} ({shown}){cure}"
    if not crs.is_projected:
        return None
    if on_earth:
        what = "is projected, and its coordinates look like degrees"
        return f"its CRS ({crs.name}) {what} ({shown}){cure}"
    to_earth = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    x, y = bounds[[0, 2]], bounds[[1, 3]]
    lon, lat = to_earth.transform(x, y)
    back_x, back_y = to_earth.transform(lon, lat, direction="INVERSE")
    astray = np.hypot(back_x - x, back_y - y)  # infinite where there is no such place
    if not (astray < ASTRAY_M).all():
        return f"its coordinates ({shown}) are no place on Earth in its CRS ({crs.name}){cure}"
    return None


def _polygons(table: gpd.GeoDataFrame, path: Path) -> gpd.GeoDataFrame:
    """The rows that have an area; without heights, as polygons or multipolygons."""
    geometry = shapely.make_valid(shapely.force_2d(table.geometry.to_numpy()))
    for row in np.flatnonzero(~np.isin(shapely.get_type_id(geometry), POLYGONAL)):
        geometry[row] = _polygonal(geometry[row])
    flat = shapely.area(geometry) > 0
    if not flat.all():
        log.warning("%s: %d feature(s) have no area, left out", path, np.sum(~flat))
    return table.set_geometry(gpd.GeoSeries(geometry, index=table.index, crs=table.crs))[flat]


def _polygonal(geometry: shapely.Geometry | None) -> shapely.Geometry:
    """What of a geometry has an area: a bow tie's ends, without the line that make_valid leaves."""
    if shapely.get_type_id(geometry) in POLYGONAL:
        return geometry
    if shapely.get_type_id(geometry) != shapely.GeometryType.GEOMETRYCOLLECTION:
        return shapely.Polygon()
    return shapely.union_all([_polygonal(part) for part in shapely.get_parts(geometry)])
