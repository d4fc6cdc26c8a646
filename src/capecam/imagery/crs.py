"""Coordinate reference systems of files and settings, and their comparison."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import pyproj
from pyproj.exceptions import CRSError as ProjError
from rasterio.crs import CRS
from rasterio.errors import CRSError

from capecam.errors import ImageError, SettingsError
from capecam.io.paths import Location

LOCAL = ("LOCAL_CS", "ENGCRS", "ENGINEERINGCRS")
"""First words of the WKT of a local CRS, which has units but no position on Earth."""


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
    crs_key(wkt)
    return wkt if len(crs.axis_info) < 3 else CRS.from_wkt(crs.to_2d().to_wkt()).wkt


@cache
def crs_key(wkt: str) -> str:
    """Return a CRS by its parameters, not by name or code: equal keys mean the same map grid.

    ESRI:102562 and the same grid as a custom WKT agree; EPSG:2048, the same with both axes
    flipped, does not.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # information is lost on purpose
        parameters = pyproj.CRS.from_wkt(wkt).to_dict()
    if not parameters:
        return wkt
    if parameters.get("datum") == "WGS84":
        parameters["ellps"] = parameters.pop("datum")
    if not any(map(float, parameters.get("towgs84", [1]))):
        del parameters["towgs84"]
    for key in ("no_defs", "type", "wktext"):
        parameters.pop(key, None)
    return " ".join(f"+{key}={value}" for key, value in sorted(parameters.items()))


def is_in_degrees(wkt: str) -> bool:
    """Return whether the coordinates of a CRS are longitude and latitude."""
    return bool(_parse(wkt).is_geographic)


def metres_a_unit(wkt: str) -> float:
    """Return the length of a projected CRS's unit: 1, or 0.3048 and 0.304800609601 for feet."""
    return float(_parse(wkt).axis_info[0].unit_conversion_factor)


@cache
def _parse(wkt: str) -> pyproj.CRS:
    return pyproj.CRS.from_wkt(wkt)
