"""Reading vector files of users: areas of interest, footprints, zones and annotations.

Any CRS and the formats of ``vector_file_type`` are read; invalid polygons are repaired, and other
geometries are dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pyproj
import shapely
from numpy.typing import NDArray

from capecam.errors import UsageError
from capecam.io.vector_file_type import DRIVERS, FORMATS, kind_of, member_of

log = logging.getLogger(__name__)

POLYGONAL = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)

UNREADABLE = (OSError, ValueError, TypeError, KeyError, RuntimeError, shapely.errors.ShapelyError)
"""Errors of pyogrio, pyarrow, pyproj and GEOS about damaged files."""

MAX_FEATURES = 2_000_000
"""A million small polygons take up to 1.7 GB of memory (docs/inputs.md)."""

MAX_PARQUET_BYTES = 1 << 30
"""Maximum size before compression; a million small polygons have 0.15 GB."""

EDGE_POINTS = 20
"""Points added along an edge, since straight lines of one CRS are curves in another."""

MAX_ROUND_TRIP_M = 1.0
"""Maximum error of a location that is projected to degrees and back."""


@np.errstate(invalid="ignore")  # features with coordinates of NaN or infinity are dropped
def read_polygons(
    path: Path,
    crs: pyproj.CRS | None = None,
    *,
    near: shapely.Geometry | None = None,
    columns: Sequence[str] | None = None,
    layer: str | None = None,
) -> gpd.GeoDataFrame:
    """Return the valid polygons of a vector file in one CRS, in the order of the file.

    Args:
        path: a file of a format of ``vector_file_type``.
        crs: the CRS of the result; None keeps that of the file.
        near: geometry in ``crs``; only features that touch its bounding box are read, so that a
            file of a country costs no more than one of a city.
        columns: attributes to read; None reads all; columns that the file does not have are left
            out.
        layer: name of a layer; None reads the first.

    Raises:
        UsageError: there is no such file, it is not a vector layer, or it has no CRS.
    """
    area = None if near is None else gpd.GeoSeries([_with_points(near)], crs=crs)
    kind = kind_of(path)
    try:
        if kind == "parquet":
            table = _read_parquet(path, area, columns)
        else:
            table = _read_gdal(path, kind, VectorQuery(area, columns, layer))
        if not isinstance(table, gpd.GeoDataFrame):
            raise UsageError(f"{path}: is a table without geometry; polygons are needed")
        if table.crs is None:
            raise UsageError(f"{path}: has no coordinate reference system; assign it with ogr2ogr")
        if doubt := misplaced(table):
            log.warning("%s: %s", path, doubt)
        polygons = _polygons(table, path)
        return polygons if crs is None else _inside_crs(polygons.to_crs(crs), path)
    except UNREADABLE as error:
        message = " ".join(str(error).split())[:300]
        raise UsageError(
            f"{path}: cannot be read as a vector layer ({message})"
            "; copy it again, or convert it with ogr2ogr"
        ) from error


@dataclass(frozen=True, slots=True)
class VectorQuery:
    """Selection of a layer, its features and its columns."""

    near: gpd.GeoSeries | None
    columns: Sequence[str] | None
    layer: str | None


def _read_gdal(path: Path, kind: str, query: VectorQuery) -> gpd.GeoDataFrame:
    """Read a layer with GDAL; by its absolute path, which is never taken for a connection."""
    source = member_of(path) if kind == "zip" else str(path.resolve())
    layer = query.layer or (_layer(path, source) if kind == "many" else None)
    try:
        info = pyogrio.read_info(source, layer=layer)
    except IndexError as error:  # of pyogrio, if there is no layer
        raise UsageError(
            f"{path}: cannot be read as a vector layer: it is damaged, or has no layer; copy it "
            "again"
        ) from error
    if info["driver"] not in DRIVERS:
        raise UsageError(f"{path}: GDAL takes it for {info['driver']}; give {FORMATS}")
    if info["geometry_type"] is None:
        raise UsageError(f"{path}: is a table without geometry; polygons are needed")
    crs = info["crs"]
    box = None if query.near is None or crs is None else query.near.to_crs(crs).total_bounds
    table = pyogrio.read_dataframe(
        source, layer=layer, columns=query.columns, bbox=None if box is None else tuple(box),
        max_features=MAX_FEATURES + 1,
    )  # fmt: skip
    _check_count(len(table), path)
    if info["driver"] == "FlatGeobuf" and box is None and len(table) < info["features"]:
        raise UsageError(  # GDAL stops at the end of the file without an error
            f"{path}: damaged: {len(table)} of {info['features']} features can be read; copy it "
            "again"
        )
    if box is not None and table.empty:
        info = pyogrio.read_info(source, layer=layer, force_total_bounds=True)
        _warn_if_misplaced(path, crs, info["total_bounds"])
    return table


def _layer(path: Path, source: str) -> str | None:
    """Return the first layer with geometry."""
    layers = [name for name, geometry in pyogrio.list_layers(source).tolist() if geometry]
    if len(layers) > 1:
        shown = ", ".join(layers[:5])
        log.warning("%s: has %d layers (%s); the first is read", path, len(layers), shown)
    return layers[0] if layers else None


def _warn_if_misplaced(
    path: Path, crs: pyproj.CRS | str | None, bounds: NDArray[np.float64] | None
) -> None:
    """Warn if a layer without features near the imagery is outside of its CRS."""
    if bounds is None:
        return
    corners = shapely.points(np.reshape(bounds, (2, 2)))
    if doubt := misplaced(gpd.GeoDataFrame(geometry=corners, crs=crs)):
        log.warning("%s: %s", path, doubt)


def _check_count(count: int, path: Path) -> None:
    if count > MAX_FEATURES:
        raise UsageError(
            f"{path}: more than {MAX_FEATURES:,} features are to be read; cut it to the city "
            "with ogr2ogr -spat"
        )


def _read_parquet(
    path: Path, area: gpd.GeoSeries | None, columns: Sequence[str] | None
) -> gpd.GeoDataFrame:
    """Read GeoParquet, which GDAL in the wheel of pyogrio does not."""
    info = pq.read_metadata(path)
    _check_count(info.num_rows, path)
    groups = (info.row_group(n) for n in range(info.num_row_groups))
    if sum(max(0, group.total_byte_size) for group in groups) > MAX_PARQUET_BYTES:
        raise UsageError(f"{path}: unpacks to more than {MAX_PARQUET_BYTES / 1e9:.1f} GB; cut it")
    table = gpd.read_parquet(path)
    if columns is not None:
        table = table[[*(name for name in columns if name in table), table.geometry.name]]
    if area is None or table.crs is None:
        return table
    near = table.cx[_slices(area.to_crs(table.crs).total_bounds)]
    if near.empty:
        _warn_if_misplaced(path, table.crs, table.total_bounds)
    return near


def _slices(bounds: NDArray[np.float64]) -> tuple[slice, slice]:
    left, bottom, right, top = bounds
    return slice(left, right), slice(bottom, top)


def _with_points(area: shapely.Geometry) -> shapely.Geometry:
    left, bottom, right, top = area.bounds
    return shapely.segmentize(area, max(right - left, top - bottom) / EDGE_POINTS)


def misplaced(table: gpd.GeoDataFrame) -> str | None:
    """Return the reason why coordinates cannot be in the CRS of a layer, or None.

    These are metres in a CRS in degrees, degrees in a CRS in metres, and coordinates that the
    projection cannot convert to degrees.
    """
    bounds = table.total_bounds
    if np.isnan(bounds).any():
        return None
    crs = pyproj.CRS(table.crs)
    shown = ", ".join(f"{value:.6g}" for value in bounds)
    remedy = "; assign the right one with ogr2ogr -a_srs"
    is_degrees = np.abs(bounds[[0, 2]]).max() <= 360 and np.abs(bounds[[1, 3]]).max() <= 90
    if crs.is_geographic:
        what = "is in degrees, but its coordinates cannot be"
        return None if is_degrees else f"its CRS ({crs.name}) {what} ({shown}){remedy}"
    if not crs.is_projected:
        return None
    if is_degrees:
        what = "is projected, but its coordinates look like degrees"
        return f"its CRS ({crs.name}) {what} ({shown}){remedy}"
    to_earth = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    x, y = bounds[[0, 2]], bounds[[1, 3]]
    lon, lat = to_earth.transform(x, y)
    back_x, back_y = to_earth.transform(lon, lat, direction="INVERSE")
    error = np.hypot(back_x - x, back_y - y)  # infinite if there is no such location
    if not (error < MAX_ROUND_TRIP_M).all():
        return (
            f"its coordinates ({shown}) are not a location on Earth in its CRS ({crs.name}){remedy}"
        )
    return None


def _polygons(table: gpd.GeoDataFrame, path: Path) -> gpd.GeoDataFrame:
    """Return the rows that have an area, as polygons or multipolygons without heights."""
    table = _finite(table, path)
    geometry = shapely.make_valid(shapely.force_2d(table.geometry.to_numpy()))
    for row in np.flatnonzero(~np.isin(shapely.get_type_id(geometry), POLYGONAL)):
        geometry[row] = _polygonal(geometry[row])
    flat = ~(shapely.area(geometry) > 0)
    if flat.any():
        log.warning("%s: %d feature(s) have no area, left out", path, np.sum(flat))
    return table.set_geometry(gpd.GeoSeries(geometry, index=table.index, crs=table.crs))[~flat]


def _finite(
    table: gpd.GeoDataFrame, path: Path, where: str = "of NaN or infinity"
) -> gpd.GeoDataFrame:
    """Return the rows with finite coordinates."""
    points, row = shapely.get_coordinates(table.geometry.to_numpy(), return_index=True)
    infinite = np.unique(row[~np.isfinite(points).all(axis=1)])
    if not len(infinite):
        return table
    log.warning("%s: %d feature(s) with coordinates %s, left out", path, len(infinite), where)
    return table.iloc[np.setdiff1d(np.arange(len(table)), infinite)]


def _inside_crs(table: gpd.GeoDataFrame, path: Path) -> gpd.GeoDataFrame:
    return _finite(table, path, "outside of the CRS of the imagery")


def _polygonal(geometry: shapely.Geometry | None) -> shapely.Geometry:
    """Return the part of a geometry with an area, without the lines that make_valid leaves."""
    if shapely.get_type_id(geometry) in POLYGONAL:
        return geometry
    if shapely.get_type_id(geometry) != shapely.GeometryType.GEOMETRYCOLLECTION:
        return shapely.Polygon()
    return shapely.union_all([_polygonal(part) for part in shapely.get_parts(geometry)])
