"""Vector files that people bring: areas of interest, footprints, zones, annotations.

Any CRS, and every format that holds what it shows (``vectorformats``); only polygons are kept,
mended where they are invalid.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pyproj
import shapely
from numpy.typing import NDArray

from capecam.errors import UsageError
from capecam.io.vector_formats import DRIVERS, READ, kind_of, member_of

log = logging.getLogger(__name__)

POLYGONAL = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)

UNREADABLE = (OSError, ValueError, TypeError, KeyError, RuntimeError, shapely.errors.ShapelyError)
"""What pyogrio, pyarrow, pyproj and GEOS raise of broken files."""

MOST_FEATURES = 2_000_000
"""A million small polygons take 1.7 GB at the most (docs/inputs.md)."""

PARQUET_BYTES = 1 << 30
"""Before compression. A million small polygons have 0.15 GB."""

EDGE_POINTS = 20
"""Straight lines of one CRS are curves in another: an area gets so many points along an edge."""

ASTRAY_M = 1.0
"""A place on Earth comes back to within this when it is projected again."""


@np.errstate(invalid="ignore")  # coordinates that are no numbers are left out below
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
        path: of a format that ``vectorformats`` knows.
        crs: to bring them to; None leaves them in their own.
        near: in ``crs``; only what touches its bounding box is read, so that the buildings of a
            country cost no more than those of a city.
        columns: attributes to read; None is all of them, those a file lacks are left out.
        layer: of a file with several; else the first.

    Raises:
        UsageError: there is no such file, it is no vector layer, or says no CRS.
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
        return polygons if crs is None else _on_earth(polygons.to_crs(crs), path)
    except UNREADABLE as error:
        message = " ".join(str(error).split())[:300]
        raise UsageError(
            f"{path}: cannot be read as a vector layer ({message})"
            "; copy it again, or convert it with ogr2ogr"
        ) from error


@dataclass(frozen=True, slots=True)
class VectorQuery:
    """What of a layer is wanted, and which layer."""

    near: gpd.GeoSeries | None
    columns: Sequence[str] | None
    layer: str | None


def _read_gdal(path: Path, kind: str, wanted: VectorQuery) -> gpd.GeoDataFrame:
    """A layer through GDAL; absolute, so that no name is taken for a connection."""
    source = member_of(path) if kind == "zip" else str(path.resolve())
    layer = wanted.layer or (_layer(path, source) if kind == "many" else None)
    try:
        facts = pyogrio.read_info(source, layer=layer)
    except IndexError as error:  # of pyogrio, which takes the first of none
        raise UsageError(
            f"{path}: cannot be read as a vector layer: it is damaged, or has no layer; copy it "
            "again"
        ) from error
    if facts["driver"] not in DRIVERS:
        raise UsageError(f"{path}: GDAL takes it for {facts['driver']}; give {READ}")
    if facts["geometry_type"] is None:
        raise UsageError(f"{path}: is a table without geometry; polygons are needed")
    crs = facts["crs"]
    box = None if wanted.near is None or crs is None else wanted.near.to_crs(crs).total_bounds
    table = pyogrio.read_dataframe(
        source, layer=layer, columns=wanted.columns, bbox=None if box is None else tuple(box),
        max_features=MOST_FEATURES + 1,
    )  # fmt: skip
    _check_count(len(table), path)
    if facts["driver"] == "FlatGeobuf" and box is None and len(table) < facts["features"]:
        raise UsageError(  # GDAL ends where the file ends, and says nothing
            f"{path}: damaged: says that it has {facts['features']} features, and {len(table)} can "
            "be read; copy it again"
        )
    if box is not None and table.empty:
        facts = pyogrio.read_info(source, layer=layer, force_total_bounds=True)
        _doubt_bounds(path, crs, facts["total_bounds"])
    return table


def _layer(path: Path, source: str) -> str | None:
    """The first layer with geometry."""
    layers = [name for name, geometry in pyogrio.list_layers(source).tolist() if geometry]
    if len(layers) > 1:
        shown = ", ".join(layers[:5])
        log.warning("%s: has %d layers (%s); the first is read", path, len(layers), shown)
    return layers[0] if layers else None


def _doubt_bounds(path: Path, crs: Any, bounds: Any) -> None:
    """Nothing is near: does the layer lie where its CRS cannot be?"""
    if bounds is None:
        return
    corners = shapely.points(np.reshape(bounds, (2, 2)))
    if doubt := misplaced(gpd.GeoDataFrame(geometry=corners, crs=crs)):
        log.warning("%s: %s", path, doubt)


def _check_count(count: int, path: Path) -> None:
    if count > MOST_FEATURES:
        raise UsageError(
            f"{path}: more than {MOST_FEATURES:,} features are wanted of it; cut it to the city "
            "with ogr2ogr -spat"
        )


def _read_parquet(
    path: Path, area: gpd.GeoSeries | None, columns: Sequence[str] | None
) -> gpd.GeoDataFrame:
    """GDAL's own wheels cannot read it."""
    facts = pq.read_metadata(path)
    _check_count(facts.num_rows, path)
    groups = (facts.row_group(n) for n in range(facts.num_row_groups))
    if sum(max(0, group.total_byte_size) for group in groups) > PARQUET_BYTES:
        raise UsageError(f"{path}: unpacks to more than {PARQUET_BYTES / 1e9:.1f} GB; cut it")
    table = gpd.read_parquet(path)
    if columns is not None:
        table = table[[*(name for name in columns if name in table), table.geometry.name]]
    if area is None or table.crs is None:
        return table
    near = table.cx[_slices(area.to_crs(table.crs).total_bounds)]
    if near.empty:
        _doubt_bounds(path, table.crs, table.total_bounds)
    return near


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
    table = _finite(table, path)
    geometry = shapely.make_valid(shapely.force_2d(table.geometry.to_numpy()))
    for row in np.flatnonzero(~np.isin(shapely.get_type_id(geometry), POLYGONAL)):
        geometry[row] = _polygonal(geometry[row])
    flat = ~(shapely.area(geometry) > 0)
    if flat.any():
        log.warning("%s: %d feature(s) have no area, left out", path, np.sum(flat))
    return table.set_geometry(gpd.GeoSeries(geometry, index=table.index, crs=table.crs))[~flat]


def _finite(table: gpd.GeoDataFrame, path: Path, why: str = "NaN or infinity") -> gpd.GeoDataFrame:
    """The rows without such coordinates: geometry cannot be computed with these."""
    points, row = shapely.get_coordinates(table.geometry.to_numpy(), return_index=True)
    strange = np.unique(row[~np.isfinite(points).all(axis=1)])
    if not len(strange):
        return table
    log.warning("%s: %d feature(s) with coordinates of %s, left out", path, len(strange), why)
    return table.iloc[np.setdiff1d(np.arange(len(table)), strange)]


def _on_earth(table: gpd.GeoDataFrame, path: Path) -> gpd.GeoDataFrame:
    return _finite(table, path, "no place in the CRS of the imagery")


def _polygonal(geometry: shapely.Geometry | None) -> shapely.Geometry:
    """What of a geometry has an area: a bow tie's ends, without the line that make_valid leaves."""
    if shapely.get_type_id(geometry) in POLYGONAL:
        return geometry
    if shapely.get_type_id(geometry) != shapely.GeometryType.GEOMETRYCOLLECTION:
        return shapely.Polygon()
    return shapely.union_all([_polygonal(part) for part in shapely.get_parts(geometry)])
