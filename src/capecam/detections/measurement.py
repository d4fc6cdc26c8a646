"""Tables of objects in map coordinates, and the size of pixels on the ground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import shapely
from numpy.typing import NDArray

from capecam.detections.regions import Pieces, Polygons, first_pixels
from capecam.grid import Grid
from capecam.imagery.crs import unit_m
from capecam.imagery.datum import registered_crs
from capecam.io.cog import LEVELS
from capecam.io.longitudes import nearest_turn
from capecam.io.parquet_texts import NO_TEXTS, copy_with_texts
from capecam.io.polygon_repair import polygonal
from capecam.io.reprojection import METRES_A_DEGREE, WGS84, metres_per_unit

Floats = NDArray[np.float64]

COLUMNS = ("id", "class_id", "class", "area_m2", "confidence", "lon", "lat", "images")
"""Columns of every file of detections, in this order, before evidence and geometry."""

DENSE_DEGREES = 0.005
"""Distance of points on lines for geodesic areas: at most 557 m."""

DENSE = 10_000
"""Maximum number of points along a shape; in Web Mercator, the poles are 242,000 km away."""

QUARTER_M = 1e7
"""Width of the columns in which geodesic areas are measured: a quarter of the equator."""

LEVEL_SUM = "level_sum"
"""Additional column of a cell's pieces: sum of the probability levels inside, an exact integer."""


def to_table(
    pieces: Pieces, grid: Grid, names: Sequence[str], outlines: Polygons | None = None
) -> gpd.GeoDataFrame:
    """Return pieces in map coordinates: ``COLUMNS``, ``level_sum`` and geometry.

    Args:
        pieces: in lattice pixels.
        grid: the pixel grid.
        names: of all classes, 0 first.
        outlines: (N,) in lattice pixels, used for the geometry only; by default those of the
            pieces.
    """
    pixels = shapely.area(pieces.geometry)
    inside = shapely.get_coordinates(shapely.point_on_surface(pieces.geometry))
    lon, lat = lonlat(grid.crs, grid.to_map(inside)).T
    col, row = first_pixels(pieces.geometry)
    columns = {
        "id": [f"{k}_{c}_{r}" for k, c, r in zip(pieces.class_id, col, row, strict=True)],
        "class_id": pieces.class_id.astype(np.int32),
        "class": [names[k] for k in pieces.class_id],
        "area_m2": pixels * pixel_area_m2(grid, inside),
        "confidence": pieces.level_sum / np.maximum(pixels, 1) / LEVELS,
        "lon": lon,
        "lat": lat,
        "images": [",".join(sorted(images)) for images in pieces.images],
        LEVEL_SUM: pieces.level_sum,
    }
    shapes = pieces.geometry if outlines is None else outlines
    geometry = multipolygons(shapely.transform(shapes, grid.to_map))
    table = gpd.GeoDataFrame(columns, geometry=geometry, crs=registered_crs(grid.crs))
    return table.astype({"id": "str", "class": "str", "images": "str"})


def multipolygons(shapes: Polygons) -> Polygons:
    """Return polygons and multipolygons as multipolygons: GIS formats want one type a layer."""
    multi = np.empty(len(shapes), object)
    multi[:] = [shapely.MultiPolygon(list(shapely.get_parts(shape))) for shape in shapes]
    return multi


def lonlat(crs: str, points: Floats) -> Floats:
    """Return (N, 2) map coordinates as longitude and latitude, WGS 84."""
    to_wgs84 = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    return np.stack(to_wgs84.transform(*points.T), axis=1)


def lonlat_bounds(grid: Grid) -> tuple[float, float, float, float]:
    """Return left, bottom, right, top of a grid's corners in longitude and latitude, WGS 84."""
    left, bottom, right, top = grid.bounds
    corners = np.array([[x, y] for x in (left, right) for y in (bottom, top)])
    degrees = lonlat(grid.crs, corners)
    (west, south), (east, north) = degrees.min(axis=0), degrees.max(axis=0)
    return float(west), float(south), float(east), float(north)


def geodesic(crs: pyproj.CRS) -> pyproj.Geod:
    """Return the ellipsoid of a CRS, for lengths and areas."""
    return crs.get_geod() or pyproj.Geod(ellps="WGS84")


def geodesic_m2(shapes: Polygons, crs: pyproj.CRS) -> Floats:
    """Return (N,) areas on the ellipsoid of polygons in any CRS."""
    geod = geodesic(crs)
    unit = metres_per_unit(crs)
    to_earth = pyproj.Transformer.from_crs(crs, crs.geodetic_crs or WGS84, always_xy=True)
    areas = np.zeros(len(shapes))
    for row, shape in enumerate(shapes):
        left, bottom, right, top = shape.bounds
        step = max(DENSE_DEGREES * METRES_A_DEGREE / unit, (right - left + top - bottom) / DENSE)
        for piece in _columns(shape, QUARTER_M / unit):
            dense = shapely.orient_polygons(shapely.segmentize(piece, step))
            if not crs.is_geographic:
                dense = shapely.transform(dense, to_earth.transform, interleaved=False)
            areas[row] += abs(geod.geometry_area_perimeter(dense)[0])
    return areas


def _columns(shape: shapely.Geometry, width: float) -> list[shapely.Geometry]:
    """Cut a shape that is wider; the whole Earth has no edge on the ellipsoid, and no area."""
    left, bottom, right, top = shape.bounds
    if not right - left > width:
        return [shape]
    columns = (shapely.box(x, bottom, x + width, top) for x in np.arange(left, right, width))
    return [polygonal(shapely.intersection(shape, column)) for column in columns]


def metric_crs(table: gpd.GeoDataFrame) -> pyproj.CRS:
    """Return the CRS of a table if it is in true metres, else an equal-area CRS around it."""
    crs = pyproj.CRS(table.crs)
    if crs.is_projected and crs.axis_info[0].unit_conversion_factor == 1 and _is_true(table, crs):
        return crs
    bounds, lon, lat = table.geometry.to_crs("EPSG:4326").bounds.to_numpy(copy=True), 0.0, 0.0
    if len(bounds):  # on both sides of 180, the middle is not at 0
        bounds[:, [0, 2]] = nearest_turn(bounds[:, [0, 2]], bounds[0, 0])
        lon, lat = ((bounds[:, :2].min(axis=0) + bounds[:, 2:].max(axis=0)) / 2).tolist()
    return pyproj.CRS.from_dict({"proj": "laea", "lon_0": lon, "lat_0": lat, "units": "m"})


def _is_true(table: gpd.GeoDataFrame, crs: pyproj.CRS) -> bool:
    """Return whether a metre of a projection is one on the ground, in the middle of a table."""
    left, bottom, right, top = table.total_bounds
    middle = np.array([[(left + right) / 2, (bottom + top) / 2]])
    return bool(np.isnan(middle).any() or (unit_m(crs.to_wkt(), middle) == 1).all())


def pixel_m(grid: Grid, points: Floats) -> Floats:
    """Return (N, 2) width and height in metres of the pixels at (N, 2) lattice points."""
    crs = pyproj.CRS.from_wkt(grid.crs)
    if not crs.is_geographic:
        return np.asarray(grid.pixel) * unit_m(grid.crs, grid.to_map(points))
    geod, (dx, dy) = geodesic(crs), grid.pixel
    x, y = grid.to_map(np.floor(points)).T
    middle = y - dy / 2
    width = geod.inv(x, middle, x + dx, middle)[2]
    height = geod.inv(x, y, x, y - dy)[2]
    return np.stack([width, height], axis=1)


def middle_pixel_m(grid: Grid) -> Floats:
    """Return (2,) width and height in metres of the pixel in the middle of a grid's window."""
    middle = shapely.get_coordinates(grid.window.box.centroid)
    return np.asarray(pixel_m(grid, middle)[0])


def pixel_area_m2(grid: Grid, points: Floats) -> Floats:
    """Return (N,) areas of the pixels at (N, 2) lattice points.

    Geodesic for a CRS in degrees; for a projection, its own scale if that is right there, else the
    measured one.
    """
    crs = pyproj.CRS.from_wkt(grid.crs)
    if not crs.is_geographic:
        return np.asarray(pixel_m(grid, points).prod(axis=1))
    geod, (dx, dy) = geodesic(crs), grid.pixel
    x, y = grid.to_map(np.floor(points)).T
    boxes = shapely.box(x, y - dy, x + dx, y)
    return np.array([abs(geod.geometry_area_perimeter(box)[0]) for box in boxes])


def inside_points(detections: pd.DataFrame, crs: pyproj.CRS, near: float) -> gpd.GeoSeries:
    """Return the points in which objects are counted, their ``lon`` and ``lat``, in a CRS.

    Args:
        detections: N objects.
        crs: CRS of the result.
        near: longitude around which others are counted if the CRS is in degrees: imagery may go on
            beyond 180.
    """
    points = gpd.points_from_xy(detections["lon"], detections["lat"], crs="EPSG:4326")
    moved = gpd.GeoSeries(points, index=detections.index).to_crs(crs)
    if not crs.is_geographic:
        return moved
    x = nearest_turn(moved.x.to_numpy(), near)
    return gpd.GeoSeries(gpd.points_from_xy(x, moved.y), index=moved.index, crs=crs)


def write_pieces(
    pieces: Pieces,
    grid: Grid,
    names: Sequence[str],
    path: Path,
    texts: Mapping[str, str] = NO_TEXTS,
) -> None:
    """Write a cell's unfiltered pieces as GeoParquet.

    Args:
        pieces: in lattice pixels.
        grid: the pixel grid.
        names: of all classes, 0 first.
        path: the file to write.
        texts: statements about its origin.
    """
    to_table(pieces, grid, names).to_parquet(path, index=False)
    if texts:
        copy_with_texts(path, path, texts)


def read_pieces(path: Path, grid: Grid) -> Pieces:
    """Read the pieces that :func:`write_pieces` has written, in whole lattice pixels."""
    table = gpd.read_parquet(path)
    return Pieces(
        table["class_id"].to_numpy(np.int64),
        shapely.transform(table.geometry.to_numpy(), grid.to_lattice),
        table[LEVEL_SUM].to_numpy(np.int64),
        tuple(frozenset(images.split(",")) for images in table["images"]),
    )
