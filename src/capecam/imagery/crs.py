"""Coordinate reference systems of files and settings: comparison, units and scale."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import pyproj
from numpy.typing import NDArray
from pyproj.exceptions import CRSError as ProjError
from rasterio.crs import CRS
from rasterio.errors import CRSError

from capecam.errors import ImageError, SettingsError
from capecam.io.paths import Location

Floats = NDArray[np.float64]

LOCAL = ("LOCAL_CS", "ENGCRS", "ENGINEERINGCRS")
"""First words of the WKT of a local CRS, which has units but no position on Earth."""

TRUE_TO_SCALE = 0.01
"""Relative error up to which a projection is taken to be true to scale: those made for a city or
a country mostly are to 0.1 %; Web Mercator is off by 21 % in Cape Town."""

EARTH_M = 6_300_000.0, 6_450_000.0
"""Equatorial radius of the Earth, 1 % more and less; that of Venus is 5 % smaller."""

STEP_M = 10.0
"""Distance over which a projection's scale is measured."""

STEP_DEGREES = 1e-4


class _OtherBodyError(ValueError):
    """A CRS is not of the Earth."""


@cache
def crs_of_setting(text: str | None) -> str | None:
    """Return ``imagery.crs`` as WKT.

    Raises:
        SettingsError: it is not a projected or geographic CRS.
    """
    if text is None:
        return None
    try:
        return _horizontal(CRS.from_wkt(pyproj.CRS.from_user_input(text).to_wkt()).wkt)
    except _OtherBodyError as error:
        raise SettingsError(f"--crs (imagery.crs): {error}; give one of the Earth") from error
    except (CRSError, ProjError, ValueError) as error:
        raise SettingsError(
            f"--crs (imagery.crs): {text[:80]!r} is no projected or geographic coordinate "
            "reference system; give EPSG:<code>, ESRI:<code>, WKT or a PROJ string"
        ) from error


def crs_of_file(path: Location, crs: Any) -> str | None:
    """Return the WKT of a file's CRS without heights; None if it is missing or local.

    Raises:
        ImageError: it is neither projected nor geographic, or PROJ does not know it.
    """
    if crs is None or not crs.wkt or crs.wkt.upper().startswith(LOCAL):
        return None
    try:
        return _horizontal(crs.wkt)
    except _OtherBodyError as error:
        raise ImageError(
            f"{path}: its coordinate reference system {error}, where there is no rooftop; if it "
            "shows the Earth, assign the right one with gdal_edit.py -a_srs"
        ) from error
    except (CRSError, ProjError, ValueError) as error:
        raise ImageError(
            f"{path}: its coordinate reference system {crs.wkt[:60]!r} is neither projected nor "
            "geographic, or PROJ does not know it; assign the right one with gdal_edit.py -a_srs"
        ) from error


@cache  # a city has thousands of images and a handful of different texts
def _horizontal(wkt: str) -> str:
    """Drop heights from a CRS; return the text unchanged if it has none."""
    crs = pyproj.CRS.from_wkt(wkt)
    if crs.is_compound:
        return _horizontal(CRS.from_wkt(crs.sub_crs_list[0].to_wkt()).wkt)
    if not (crs.is_projected or crs.is_geographic):
        raise ValueError(wkt)
    radius_m = crs.ellipsoid.semi_major_metre if crs.ellipsoid else EARTH_M[0]
    if not EARTH_M[0] <= radius_m <= EARTH_M[1]:
        raise _OtherBodyError(
            f"{crs.name[:60]!r} is of another celestial body, with a radius of "
            f"{radius_m / 1000:,.0f} km"
        )
    crs_key(wkt)
    return wkt if len(crs.axis_info) < 3 else CRS.from_wkt(crs.to_2d().to_wkt()).wkt


@cache
def crs_key(wkt: str) -> str:
    """Return a CRS by its parameters, not by name or code, as records of cells contain it.

    Most datums are not among them: ``imagery.datum`` says whether two CRSs are the same grid.
    """
    parameters = crs_parameters(wkt)
    return " ".join(f"+{key}={value}" for key, value in sorted(parameters.items())) or wkt


def crs_parameters(wkt: str) -> dict[str, Any]:
    """Return the parameters of a CRS in PROJ.4's terms; empty if it cannot be said in them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # information is lost on purpose
        parameters: dict[str, Any] = parse_crs(wkt).to_dict()
    if parameters.get("datum") == "WGS84":
        parameters["ellps"] = parameters.pop("datum")
    if not any(map(float, parameters.get("towgs84", [1]))):
        del parameters["towgs84"]
    for key in ("no_defs", "type", "wktext"):
        parameters.pop(key, None)
    return parameters


def is_in_degrees(wkt: str) -> bool:
    """Return whether the coordinates of a CRS are longitude and latitude."""
    return bool(parse_crs(wkt).is_geographic)


def metres_a_unit(wkt: str) -> float:
    """Return the length of a projected CRS's unit: 1, or 0.3048 and 0.304800609601 for feet."""
    return float(parse_crs(wkt).axis_info[0].unit_conversion_factor)


def unit_m(crs: str, points: Floats) -> Floats:
    """Return (N, 2) metres on the ground of one CRS unit to the right and upwards.

    Args:
        crs: WKT.
        points: (N, 2) map coordinates.
    """
    if is_in_degrees(crs):
        return _measure(crs, points, STEP_DEGREES)
    unit = metres_a_unit(crs)
    measured = _measure(crs, points, STEP_M / unit)
    true = (np.abs(measured / unit - 1) <= TRUE_TO_SCALE).all(axis=1, keepdims=True)
    return np.where(true, unit, measured)


def pixel_of(gsd_m: float, crs: str, centre: tuple[float, float]) -> tuple[float, float]:
    """Return the size, in CRS units, of a pixel that is a square with this edge on the ground.

    Measured at a whole degree or at a multiple of 100 km, so that a mosaic that grows seldom gets
    another grid; where that matters, the error is below 1 % in a city.
    """
    coarse = 1.0 if is_in_degrees(crs) else 1e5 / metres_a_unit(crs)
    point = np.array([[round(value / coarse) * coarse for value in centre]])
    across, along = (float(f"{gsd_m / unit:.9g}") for unit in unit_m(crs, point)[0])
    return across, along


def _measure(crs: str, points: Floats, step: float) -> Floats:
    """Measure the length of a CRS unit on the CRS's own ellipsoid."""
    to_degrees, geod = _geodesy(crs)
    sizes = np.empty((len(points), 2))
    for axis, (dx, dy) in enumerate(((step / 2, 0.0), (0.0, step / 2))):
        ends = [to_degrees.transform(*(points + np.array([s * dx, s * dy])).T) for s in (-1, 1)]
        sizes[:, axis] = geod.inv(*ends[0], *ends[1])[2]
    return sizes / step


@cache
def _geodesy(crs: str) -> tuple[pyproj.Transformer, pyproj.Geod]:
    parsed = parse_crs(crs)
    geodetic = parsed.geodetic_crs or pyproj.CRS.from_epsg(4326)
    geod = parsed.get_geod() or pyproj.Geod(ellps="WGS84")
    return pyproj.Transformer.from_crs(parsed, geodetic, always_xy=True), geod


@cache
def parse_crs(wkt: str) -> pyproj.CRS:
    """Return a CRS of pyproj, which is read once."""
    return pyproj.CRS.from_wkt(wkt)


def proj_string(crs: pyproj.CRS) -> str:
    """Return the PROJ string of a CRS, by which a browser projects: without its datum, and with
    axes in the order east, north."""
    with warnings.catch_warnings():  # of what is left out
        warnings.simplefilter("ignore", UserWarning)
        return str(crs.to_proj4())


def name_of(crs: pyproj.CRS) -> str:
    """Return the code of a CRS, such as ``EPSG:2048``, or its name if it has none."""
    authority = crs.to_authority()
    return ":".join(authority) if authority else str(crs.name)
