"""Reading vector files of users: areas of interest, footprints, zones and annotations.

Any CRS and the formats of ``vector_file_type`` are read; polygons become right and valid
(``polygon_cleaning``), edges keep their place in another CRS (``reprojection``), and a layer can be
named (``vector_layers``).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pyogrio
import pyproj
import shapely
from numpy.typing import NDArray

from capecam.errors import UsageError
from capecam.io.longitudes import TURN, length_of_turn, without_turns
from capecam.io.polygon_cleaning import Place, check_crs, clean_polygons, move_polygons
from capecam.io.vector_file_type import DRIVERS, FORMATS, kind_of, member_of
from capecam.io.vector_layers import LayerChoice, choose_layer, every_row

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

UNREADABLE = (OSError, ValueError, TypeError, KeyError, RuntimeError, shapely.errors.ShapelyError)
"""Errors of pyogrio, pyarrow, pyproj and GEOS about damaged files."""

EMPTY = "%s: holds no features; check that it is the right layer"

MAX_FEATURES = 2_000_000
"""A million small polygons take up to 1.7 GB of memory (docs/inputs.md)."""

MAX_PARQUET_BYTES = 1 << 30
"""Maximum size before compression; a million small polygons have 0.15 GB."""

NEAR_ANTIMERIDIAN = 170.0
"""Longitude beyond which features may be written on either side of 180, or across it."""

MAX_ROUND_TRIP_M = 1.0
"""Maximum error of a location that is projected to degrees and back."""


@np.errstate(invalid="ignore")  # features with coordinates of NaN or infinity are dropped
def read_polygons(
    path: Path,
    crs: pyproj.CRS | None = None,
    *,
    near: shapely.Geometry | None = None,
    columns: Sequence[str] | None = None,
    everywhere: bool = False,
    with_points: bool = False,
) -> gpd.GeoDataFrame:
    """Return the valid polygons of a vector file in one CRS, in the order of the file.

    Args:
        path: a file of a format of ``vector_file_type``, perhaps with ``|layername=NAME``.
        crs: the CRS of the result; None keeps that of the file.
        near: geometry in ``crs``, the imagery; only features that touch its bounding box are read,
            so that a file of a country costs no more than one of a city.
        columns: attributes to read; None reads all; columns that the file does not have are left
            out.
        everywhere: read all features; ``near`` says only on which side of the Earth they are.
        with_points: return the points among them, too.

    Raises:
        UsageError: there is no such file or layer, it holds no polygons, or it has no CRS.
    """
    choice = LayerChoice.parse(path)
    kind = kind_of(choice.path)
    place = None if near is None or crs is None else Place(near, crs)
    query = VectorQuery(None if everywhere else place, columns)
    try:
        if kind == "parquet":
            table = _read_parquet(choice, query)
        else:
            table = _read_gdal(choice, kind, query)
        if not isinstance(table, gpd.GeoDataFrame):
            raise UsageError(f"{path}: is a table without geometry; polygons are needed")
        check_crs(path, table.crs)
        if doubt := misplaced(table):
            log.warning("%s: %s", path, doubt)
        is_point = _are_points(table) & with_points
        polygons = clean_polygons(table[~is_point], path, place)
        polygons = polygons if crs is None else move_polygons(polygons, path, crs, near)
        return _with_points(polygons, table[is_point], path) if is_point.any() else polygons
    except UNREADABLE as error:
        message = " ".join(str(error).split())[:300]
        raise UsageError(
            f"{path}: cannot be read as a vector layer ({message})"
            "; copy it again, or convert it with ogr2ogr"
        ) from error


def _are_points(table: gpd.GeoDataFrame) -> NDArray[np.bool_]:
    shapes = table.geometry.to_numpy()
    return np.asarray((shapely.get_dimensions(shapes) == 0) & ~shapely.is_empty(shapes))


def _with_points(
    polygons: gpd.GeoDataFrame, points: gpd.GeoDataFrame, path: Path
) -> gpd.GeoDataFrame:
    """Return polygons and points, moved to the CRS of the polygons, in the order of the file."""
    flat = points.set_geometry(shapely.force_2d(points.geometry.to_numpy()), crs=points.crs)
    moved = flat.to_crs(polygons.crs)
    finite = np.isfinite(moved.geometry.bounds.to_numpy()).all(axis=1)
    if not finite.all():
        log.warning(
            "%s: %d point(s) lie outside of the CRS of the imagery, left out", path, sum(~finite)
        )
    return pd.concat([polygons, moved[finite]]).sort_index()


@dataclass(frozen=True, slots=True)
class VectorQuery:
    """Selection of features and columns."""

    near: Place | None
    columns: Sequence[str] | None

    def box(self, crs: pyproj.CRS) -> Floats | None:
        """Return (4,) the bounds of the features to read, in the CRS of a file; None: all."""
        bounds = None if self.near is None else self.near.bounds(crs)
        turn = length_of_turn(crs)
        if bounds is None or turn is None:
            return bounds
        if max(-bounds[0], bounds[2]) > NEAR_ANTIMERIDIAN / TURN * turn:
            bounds[[0, 2]] = -1.5 * turn, 1.5 * turn
        return bounds


def _read_gdal(choice: LayerChoice, kind: str, query: VectorQuery) -> gpd.GeoDataFrame:
    """Read a layer with GDAL; by its absolute path, which is never taken for a connection."""
    path = choice.path
    source = member_of(path) if kind == "zip" else str(path.resolve())
    layer = choose_layer(choice, source) if kind == "many" or choice.is_made else None
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
    check_crs(path, info["crs"])
    crs = pyproj.CRS(info["crs"])
    box, where = query.box(crs), every_row(info["driver"])
    table = _read_box(source, layer, query, box, where)
    if box is not None and table.empty:
        bounds = pyogrio.read_info(source, layer=layer, force_total_bounds=True)["total_bounds"]
        box = _turned(box, bounds, crs)
        if box is None:
            _warn_if_misplaced(path, crs, bounds)
        else:
            table = _read_box(source, layer, query, box, where)
    _check_count(len(table), path)
    if table.empty and (query.near is None or info["features"] == 0):
        log.warning(EMPTY, path)
    if info["driver"] == "FlatGeobuf" and query.near is None and len(table) < info["features"]:
        raise UsageError(  # GDAL stops at the end of the file without an error
            f"{path}: damaged: {len(table)} of {info['features']} features can be read; copy it "
            "again"
        )
    return table


def _read_box(
    source: str, layer: str | None, query: VectorQuery, box: Floats | None, where: str | None
) -> gpd.GeoDataFrame:
    return pyogrio.read_dataframe(
        source, layer=layer, columns=query.columns, bbox=None if box is None else tuple(box),
        where=where, max_features=MAX_FEATURES + 1,
    )  # fmt: skip


def _turned(box: Floats, bounds: Sequence[float] | Floats | None, crs: pyproj.CRS) -> Floats | None:
    """Return a box a turn farther, if a layer has longitudes beyond 180 that reach it."""
    turn = length_of_turn(crs)
    if bounds is None or turn is None:
        return None
    turned = (box + np.array([east, 0.0, east, 0.0]) for east in (turn, -turn))
    return next((b for b in turned if b[0] <= bounds[2] and b[2] >= bounds[0]), None)


def _warn_if_misplaced(
    path: Path, crs: pyproj.CRS | str | None, bounds: Floats | Sequence[float] | None
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


def _read_parquet(choice: LayerChoice, query: VectorQuery) -> gpd.GeoDataFrame:
    """Read GeoParquet, which GDAL in the wheel of pyogrio does not."""
    path = choice.path
    if choice.is_made:
        raise UsageError(f"{path}: GeoParquet has no layers; leave out the |layer...")
    info = pq.read_metadata(path)
    _check_count(info.num_rows, path)
    if not info.num_rows:
        log.warning(EMPTY, path)
    groups = (info.row_group(n) for n in range(info.num_row_groups))
    if sum(max(0, group.total_byte_size) for group in groups) > MAX_PARQUET_BYTES:
        raise UsageError(f"{path}: unpacks to more than {MAX_PARQUET_BYTES / 1e9:.1f} GB; cut it")
    table = gpd.read_parquet(path)
    if query.columns is not None:
        table = table[[*(name for name in query.columns if name in table), table.geometry.name]]
    box = None if table.crs is None else query.box(pyproj.CRS(table.crs))
    if box is None:
        return table
    near = table.cx[_slices(box)]
    if not near.empty:
        return near
    turned = _turned(box, table.total_bounds, pyproj.CRS(table.crs))
    if turned is not None:
        return table.cx[_slices(turned)]
    _warn_if_misplaced(path, table.crs, table.total_bounds)
    return near


def _slices(bounds: Floats) -> tuple[slice, slice]:
    left, bottom, right, top = bounds
    return slice(left, right), slice(bottom, top)


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
    most = np.abs(bounds).reshape(2, 2).max(axis=0)
    if crs.is_geographic:
        what = "is in degrees, but its coordinates cannot be"
        is_degrees = (most <= (1.5 * TURN, 90)).all()
        return None if is_degrees else f"its CRS ({crs.name}) {what} ({shown}){remedy}"
    if (most <= (TURN, 90)).all():
        what = "is projected, but its coordinates look like degrees"
        return f"its CRS ({crs.name}) {what} ({shown}){remedy}"
    to_earth = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    x, y = bounds[[0, 2]], bounds[[1, 3]]
    lon, lat = to_earth.transform(x, y)
    back_x, back_y = to_earth.transform(lon, lat, direction="INVERSE")
    turn = length_of_turn(crs)
    if turn is not None and most[0] > 1.5 * turn:
        turn = None
    error = np.hypot(without_turns(back_x - x, turn), back_y - y)  # infinite: no such location
    if not (error < MAX_ROUND_TRIP_M).all():
        return (
            f"its coordinates ({shown}) are not a location on Earth in its CRS ({crs.name}){remedy}"
        )
    return None
