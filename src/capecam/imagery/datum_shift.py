"""The shift between two datums at a place, as far as PROJ has it on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil, floor, inf, isfinite

import pyproj
from pyproj.aoi import AreaOfInterest

from capecam.imagery.crs import parse_crs
from capecam.imagery.datum import transformations
from capecam.imagery.georeferencing import Placement

AXES = "axis order change"
"""Beginning of the steps of a transformation that move nothing."""

Degrees = tuple[int, int, int, int]
"""West, south, east, north."""

WORLD = -180.0, -90.0, 180.0, 90.0


@dataclass(frozen=True, slots=True)
class DatumShift:
    """PROJ's transformation from one datum to another."""

    name: str
    """For example "GDA94 to GDA2020 (1)"."""
    accuracy_m: float | None
    """None: PROJ has none, and takes the same longitude and latitude for the same place."""
    grids: tuple[str, ...]
    """Missing files of a better one."""
    distance_m: float
    """Distance between the places of the same longitude and latitude."""

    def __str__(self) -> str:
        """Return the transformation in words."""
        without = f" without {', '.join(self.grids)}, missing here" if self.grids else ""
        if self.accuracy_m is None:
            return f"PROJ knows no transformation between them{without}"
        return f"PROJ's {self.name} is good to {self.accuracy_m:g} m{without}"

    @property
    def apart(self) -> str:
        """Distance between the places of the same coordinates, in words."""
        if self.accuracy_m is None:
            return str(self)
        return f"the same coordinates are {self.distance_m:.3g} m apart ({self})"


def datum_shift(placement: Placement, crs: str) -> DatumShift:
    """Return the shift from the datum of an image to that of a CRS, in the whole degrees around
    the image."""
    to_degrees = pyproj.Transformer.from_crs(parse_crs(placement.crs), 4326, always_xy=True)
    bounds = to_degrees.transform_bounds(*placement.bounds)
    west, south, east, north = bounds if all(map(isfinite, bounds)) else WORLD
    return _shift(placement.crs, crs, (floor(west), floor(south), ceil(east), ceil(north)))


@cache
def _shift(one: str, other: str, degrees: Degrees) -> DatumShift:
    west, south, east, north = degrees
    area = AreaOfInterest(west, south, east, north)
    ways = transformations(parse_crs(one).geodetic_crs, parse_crs(other).geodetic_crs, area)
    way = ways.transformers[0]
    lon, lat = (west + east) / 2, (south + north) / 2
    _, _, distance = pyproj.Geod(ellps="WGS84").inv(lon, lat, *way.transform(lon, lat))
    steps = [step for step in way.description.split(" + ") if not step.startswith(AXES)]
    accuracy = way.accuracy if way.accuracy >= 0 else inf
    better = [other for other in ways.unavailable_operations if 0 <= other.accuracy < accuracy]
    return DatumShift(
        " + ".join(steps),
        None if accuracy == inf else accuracy,
        tuple(grid.short_name for grid in better[0].grids) if better else (),
        float(distance),
    )
