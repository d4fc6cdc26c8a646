"""Places that a user names, in degrees or in map units; read without importing anything slow."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from typing import TYPE_CHECKING

from capecam.errors import UsageError

if TYPE_CHECKING:
    from capecam.grid import Grid

Point = tuple[float, float]


def parse_place(text: str) -> Point:
    """Parse ``LON,LAT`` or ``X,Y``.

    Raises:
        UsageError: it is not two numbers.
    """
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        x = y = float("nan")
    if not (isfinite(x) and isfinite(y)):
        raise UsageError(
            "--at must be LON,LAT in degrees, such as 18.42,-33.92, or X,Y in map units, such as "
            f"-50930.5,-3771015.2; got {text!r}"
        )
    return x, y


def in_degrees(*corners: Point) -> bool:
    """Return whether points may be longitudes and latitudes."""
    return all(-180 <= lon <= 180 and -90 <= lat <= 90 for lon, lat in corners)


def map_point(place: Point, grid: Grid) -> Point:
    """Return a place in the CRS of a grid.

    Numbers are degrees (WGS 84) if these are on the imagery, else map units. Both can be only where
    the imagery itself is in degrees.

    Args:
        place: longitude and latitude, or map coordinates.
        grid: grid of the imagery.

    Raises:
        UsageError: it is not on the imagery.
    """
    left, bottom, right, top = grid.bounds
    for x, y in _readings(place, grid.crs):
        if left <= x < right and bottom < y <= top:
            return x, y
    raise UsageError(
        f"--at {place[0]:.10g},{place[1]:.10g} is outside of the imagery, which goes from "
        f"{left:.10g} to {right:.10g} and from {bottom:.10g} to {top:.10g} in {_name(grid.crs)}"
        "; give longitude and latitude in degrees, or coordinates in that CRS"
    )


def _readings(place: Point, crs: str) -> Iterator[Point]:
    """Yield a place in a CRS, read as degrees, and then as it stands."""
    import pyproj  # noqa: PLC0415 not needed to read the option

    if in_degrees(place):
        to_crs = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
        yield to_crs.transform(*place)
    yield place


def _name(crs: str) -> str:
    import pyproj  # noqa: PLC0415

    return str(pyproj.CRS(crs).name)
