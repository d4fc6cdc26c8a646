"""Reprojecting polygons: an edge that is straight in one CRS is a curve in another.

Points are added along edges where the curve leaves the straight line, longitudes are counted around
the target, and shapes that reach beyond the target's projection are cut to its area of use.
"""

from __future__ import annotations

from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from capecam.io.longitudes import (
    TURN,
    central_meridian,
    counts_degrees,
    in_one_turn,
    length_of_turn,
    nearest_turn,
    without_turns,
)
from capecam.io.polygon_repair import repaired

Floats = NDArray[np.float64]
Shapes = NDArray[np.object_]
Booleans = NDArray[np.bool_]

TOLERANCE_M = 0.02
"""Maximum distance of an edge from its curve: a quarter of a pixel of 8 cm. Edges in degrees get
about one point a kilometre."""

SHORT_M = 100.0
"""Length up to which edges are taken to be straight: a parallel leaves its chord by less than the
tolerance within 50 km of a pole, and farther from it by less."""

METRES_A_DEGREE = 111_320.0

PROBES = np.array([0.25, 0.5, 0.75])
"""Positions along an edge where it is compared with its curve; an S-shaped curve may cross the edge
in its middle."""

MAX_SPLITS = 18
MAX_POINTS = 1 << 20
"""An edge that is still not straight crosses the limit of a projection."""

LOST_M = 1.0
"""Distance from a location to where it is projected and back, above which it is outside."""

AREA_DEGREES = 5.0
"""Width around the imagery that stands for the area of use of a CRS that does not name it."""

BOUNDARY_POINTS = 20

WGS84 = pyproj.CRS.from_epsg(4326)


@np.errstate(invalid="ignore")  # infinity is outside
def reproject(
    shapes: Shapes, source: pyproj.CRS, target: pyproj.CRS, near: shapely.Geometry | None = None
) -> tuple[Shapes, Booleans]:
    """Return valid polygons in another CRS, and (N,) True for those that were cut to it.

    Args:
        shapes: (N,) valid polygons or multipolygons.
        source: CRS of the shapes.
        target: CRS of the result.
        near: geometry in ``target``, the imagery: longitudes are counted around it, and it belongs
            to the area of use.

    Returns:
        (N,) shapes, the same if source and target are; empty where nothing lies in the target.
    """
    centre = _centre(source, target, near)
    if centre is not None and counts_degrees(source):
        shapes = in_one_turn(shapes, centre)
    if source.is_exact_same(target):
        return repaired(shapes)[0], np.zeros(len(shapes), np.bool_)
    path = _Path.between(source, target, centre)
    moved, lost = path.move(shapes)
    if lost.any():
        inside, gone = path.move(_intersection(shapes[lost], _area_of_use(source, target, near)))
        inside[gone] = shapely.Polygon()
        moved[lost] = inside
    return repaired(moved)[0], lost


def reproject_table(
    table: gpd.GeoDataFrame, crs: pyproj.CRS, near: shapely.Geometry | None = None
) -> gpd.GeoDataFrame:
    """Return a table of polygons in another CRS: see :func:`reproject`."""
    shapes, _ = reproject(np.asarray(table.geometry.to_numpy()), pyproj.CRS(table.crs), crs, near)
    return table.set_geometry(gpd.GeoSeries(shapes, index=table.index, crs=crs))


def bounds_in(near: shapely.Geometry, crs: pyproj.CRS, target: pyproj.CRS) -> Floats | None:
    """Return (4,) the left, bottom, right and top of a geometry in another CRS.

    Longitudes are counted on from those of its middle, so that left is below right also across the
    antimeridian. None: it is not inside of that CRS.
    """
    left, bottom, right, top = near.bounds
    dense = shapely.segmentize(near, max(right - left, top - bottom) / BOUNDARY_POINTS)
    points = np.vstack([shapely.get_coordinates(near.centroid), shapely.get_coordinates(dense)])
    to_target = pyproj.Transformer.from_crs(crs, target, always_xy=True)
    x, y = to_target.transform(*points.T)
    if counts_degrees(target):
        x = nearest_turn(x, nearest_turn(x[:1], 0.0))
    found = np.array([x.min(), y.min(), x.max(), y.max()])
    return found if np.isfinite(found).all() else None


def _centre(source: pyproj.CRS, target: pyproj.CRS, near: shapely.Geometry | None) -> float | None:
    """Return the longitude around which others are counted; None: as they are."""
    if target.is_geographic and near is not None:
        return float(near.centroid.x)
    return central_meridian(source if target.is_geographic else target)


def _intersection(shapes: Shapes, area: shapely.Geometry | None) -> Shapes:
    if area is None:
        return np.full(len(shapes), shapely.Polygon(), object)
    return repaired(np.asarray(shapely.intersection(shapes, area), object))[0]


def _area_of_use(
    source: pyproj.CRS, target: pyproj.CRS, near: shapely.Geometry | None
) -> shapely.Geometry | None:
    """Return where a target CRS can be used, with the imagery, in the source CRS; None: unknown."""
    used, boxes = target.area_of_use, []
    if used is not None:
        east = used.east + (TURN if used.east < used.west else 0.0)
        boxes.append(shapely.box(used.west, used.south, east, used.north))
    around = None if near is None else bounds_in(near, target, WGS84)
    if around is not None:
        wide = AREA_DEGREES if used is None else 0.0
        boxes.append(shapely.box(*(around + np.array([-wide, -wide, wide, wide]))))
    if not boxes:
        return None
    is_earth = counts_degrees(source)
    centre = _centre(source, target, near) if is_earth else central_meridian(source)
    area = np.array(boxes, object) if centre is None else in_one_turn(np.array(boxes), centre)
    if not is_earth:
        area, _ = _Path.between(WGS84, source, None).move(area)
    return shapely.union_all(repaired(area)[0])


class _LostError(Exception):
    """An edge leaves the area where a projection is defined."""


@dataclass(frozen=True, slots=True)
class _Path:
    """Way of coordinates from one CRS to another."""

    transformer: pyproj.Transformer
    source_unit_m: float
    target_unit_m: float
    is_source_degrees: bool
    is_target_degrees: bool
    centre: float | None
    source_turn: float | None

    @classmethod
    def between(cls, source: pyproj.CRS, target: pyproj.CRS, centre: float | None) -> _Path:
        return cls(
            pyproj.Transformer.from_crs(source, target, always_xy=True),
            metres_per_unit(source),
            metres_per_unit(target),
            counts_degrees(source),
            counts_degrees(target),
            centre,
            length_of_turn(source),
        )

    def __call__(self, points: Floats) -> Floats:
        """Convert (N, 2) points."""
        x, y = self.transformer.transform(*points.T)
        if self.is_target_degrees and self.is_source_degrees:
            x = nearest_turn(x, points[:, 0])
        elif self.is_target_degrees and self.centre is not None:
            x = nearest_turn(x, self.centre)
        return np.stack([x, y], axis=1)

    def move(self, shapes: Shapes) -> tuple[Shapes, Booleans]:
        """Return shapes along their curves, and (N,) True for those that are lost."""
        moved = np.asarray(shapely.transform(shapes, self), object)
        lost = np.zeros(len(shapes), np.bool_)
        for row in self._with_long_edges(shapes, moved):
            try:
                moved[row] = self._move_along_curves(shapes[row])
            except _LostError:
                lost[row] = True
        return moved, lost

    def _with_long_edges(self, shapes: Shapes, moved: Shapes) -> NDArray[np.int64]:
        """Return the indices of shapes with edges that may have to be curves."""
        parts, owner = shapely.get_parts(shapes, return_index=True)
        rings, part = shapely.get_rings(parts, return_index=True)
        _, ring = shapely.get_coordinates(rings, return_index=True)
        short = _sides(shapes) <= 10 * SHORT_M / self.source_unit_m  # a degree may be shorter
        short &= _sides(moved) <= SHORT_M / self.target_unit_m
        edge = (ring[1:] == ring[:-1]) & ~short
        return np.unique(owner[part[ring[1:][edge]]])

    def _move_along_curves(self, shape: shapely.Geometry) -> shapely.Geometry:
        curved = [self._move_polygon(part) for part in shapely.get_parts(shape)]
        return curved[0] if shape.geom_type == "Polygon" else shapely.MultiPolygon(curved)

    def _move_polygon(self, part: shapely.Polygon) -> shapely.Polygon:
        """Return a polygon in the target.

        Raises:
            _LostError: its inside is outside there, as of a ring around most of the world.
        """
        holes = [self._curve(ring) for ring in part.interiors]
        moved = shapely.Polygon(self._curve(part.exterior), holes)
        (inside,) = self(shapely.get_coordinates(shapely.point_on_surface(part)))
        if not shapely.intersects_xy(moved, *inside):
            raise _LostError
        return moved

    def _curve(self, ring: shapely.LinearRing) -> Floats:
        """Return the points of a ring in the target, with others along its edges."""
        points = shapely.get_coordinates(ring)
        unsure = np.ones(len(points) - 1, np.bool_)
        for _ in range(MAX_SPLITS):
            starts, ends = points[:-1][unsure], points[1:][unsure]
            bent = np.zeros(len(unsure), np.bool_)
            bent[unsure] = self._leave_chord(starts, ends)
            if not bent.any():
                return self._checked(points)
            middles = (points[:-1][bent] + points[1:][bent]) / 2
            points = np.insert(points, np.flatnonzero(bent) + 1, middles, axis=0)
            unsure = np.repeat(bent, 1 + bent)
            if len(points) > MAX_POINTS:
                break
        raise _LostError

    def _leave_chord(self, starts: Floats, ends: Floats) -> Booleans:
        """Return (N,) True for edges whose curve is farther from them than the tolerance."""
        a, b = self(starts), self(ends)
        chord = b - a
        squared = (chord**2).sum(axis=1)
        away = np.zeros(len(a), np.bool_)
        for share in PROBES:
            point = self(starts + share * (ends - starts)) - a
            if not np.isfinite(point).all():
                raise _LostError
            along = (point * chord).sum(axis=1) / np.where(squared > 0, squared, 1.0)
            off = point - chord * np.clip(along, 0, 1)[:, None]
            away |= np.hypot(*off.T) > TOLERANCE_M / self.target_unit_m
        return away

    def _checked(self, points: Floats) -> Floats:
        """Return points in the target.

        Raises:
            _LostError: they do not come back from there to where they were.
        """
        moved = self(points)
        x, y = self.transformer.transform(moved[:, 0], moved[:, 1], direction="INVERSE")
        dx, dy = without_turns(x - points[:, 0], self.source_turn), y - points[:, 1]
        if self.is_source_degrees:
            dx = dx * np.cos(np.radians(points[:, 1]))
        if not (np.hypot(dx, dy) < LOST_M / self.source_unit_m).all():
            raise _LostError
        return moved


def _sides(shapes: Shapes) -> Floats:
    """Return the distances between all points and the next."""
    return np.asarray(np.hypot(*np.diff(shapely.get_coordinates(shapes), axis=0).T))


def metres_per_unit(crs: pyproj.CRS) -> float:
    """Return the length of a unit of a CRS; of a degree, along a meridian."""
    return METRES_A_DEGREE if crs.is_geographic else crs.axis_info[0].unit_conversion_factor
