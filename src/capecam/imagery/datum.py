"""Geodetic datums: whether the same numbers are the same place in two coordinate systems."""

from __future__ import annotations

import re
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyproj
from pyproj.aoi import AreaOfInterest
from pyproj.crs import Datum as Registered  # type: ignore[attr-defined]
from pyproj.crs import Ellipsoid  # type: ignore[attr-defined]
from pyproj.exceptions import CRSError
from pyproj.transformer import TransformerGroup

from capecam.imagery.crs import crs_parameters, parse_crs

WGS84 = "EPSG:6326"
"""The ensemble of all realisations of WGS 84."""

EQUAL_TO_WGS84_M = 1.0
"""Accuracy up to which PROJ's null transformation makes a datum equal to a bare WGS 84: 1 m for
Hartebeesthoek94. Between WGS 84 and its own realisations it is 2 m, which tells them apart."""

EQUAL_M = 0.0
"""The same for two other datums: only those that a registry makes equal, as ETRS89 and the national
datums that realise it (SWEREF99, RDN2008, HTRS96 ...)."""

NULL_DEGREES = 1e-9
"""A shift by less, 0.1 mm, is none."""

PROBES = (0.0, 90.0, 45.0), (0.0, 0.0, 45.0), (0.0, 0.0, 0.0), (1980.0, 2010.0, 2040.0)
"""Longitudes, latitudes, heights and years at which a shift is looked for: some datums drift."""

UNSAID = re.compile("unknown|notspecified|unspecified|undefined|unnamed|userdefined|$")
"""Beginnings of names that name no datum, by their letters alone."""

MIN_CONFIDENCE = 70
"""Confidence (%) from which PROJ has found a CRS in its registries by parameters and datum."""

NAMES = """
SELECT deprecated, auth_name != 'EPSG', 0, name, auth_name, code FROM geodetic_datum
UNION SELECT deprecated, auth_name != 'EPSG', 1, name, datum_auth_name, datum_code
FROM geodetic_crs WHERE datum_code IS NOT NULL
UNION SELECT 0, auth_name != 'EPSG', 2, alt_name, auth_name, code
FROM alias_name WHERE table_name = 'geodetic_datum' ORDER BY 1, 2, 3, 5, 6
"""
"""Names of datums in PROJ's database, the best first: of a datum, of a CRS on it, an alias. PROJ
compares names only when it reads a CRS, and takes the first that begins alike."""


@dataclass(frozen=True, slots=True, order=True)
class Datum:
    """Datum of a CRS."""

    code: str
    """Authority and code, for example EPSG:6283; empty if no registry has it."""
    name: str
    """Name in the CRS, for messages."""
    is_bare_wgs84: bool = False
    """It is WGS 84 in a CRS that no registry has: often just its ellipsoid is meant."""

    @property
    def rank(self) -> int:
        """Rank of what is known about it: 0 is a datum, 2 nothing."""
        return 1 if self.is_bare_wgs84 else 0 if self.code else 2


@dataclass(frozen=True, slots=True, order=True)
class Frame:
    """Coordinate system in which an image says its position."""

    crs: str
    """WKT."""
    epoch: float | None = None
    """Year to which coordinates on moving ground refer; None if the image does not say."""

    @property
    def rank(self) -> tuple[int, bool]:
        """Rank of what is known about it: the lowest is all."""
        return datum_of(self.crs).rank, self.epoch is None

    def agrees(self, other: Frame) -> bool:
        """Return whether the same numbers are the same place, as far as both say."""
        one_epoch = None in (self.epoch, other.epoch) or self.epoch == other.epoch
        return one_epoch and same_crs(self.crs, other.crs)


@cache
def datum_of(wkt: str) -> Datum:
    """Return the datum of a projected or geographic CRS."""
    crs = parse_crs(wkt)
    geodetic = crs.geodetic_crs
    datum = geodetic.datum if geodetic else None
    if datum is None:
        return Datum("", "unknown")
    code = _code(datum, crs.ellipsoid)
    # Identifying takes a second, so the CRS's own code is enough, and others are not asked for.
    is_bare = code == WGS84 and "id" not in crs.to_json_dict()
    is_bare = is_bare and crs.to_authority(min_confidence=MIN_CONFIDENCE) is None
    return Datum(code, datum.name, is_bare)


def _code(datum: Registered, ellipsoid: Ellipsoid | None) -> str:
    """Return the code of a datum by its name, else by its own code; empty if its name says none, or
    one of another ellipsoid."""
    letters, named = _letters(datum.name), datum.to_json_dict().get("id")
    if UNSAID.match(letters):
        return ""
    code = _codes().get(letters, f"{named['authority']}:{named['code']}" if named else "")
    if not code:
        return ""
    try:
        registered = Registered.from_authority(*code.split(":"))
    except CRSError:  # an authority that PROJ does not know
        return ""
    own = registered.ellipsoid or Ellipsoid.from_json_dict(  # None of an ensemble
        {"type": "Ellipsoid", **registered.to_json_dict()["ellipsoid"]}
    )
    return code if _size(own) == _size(ellipsoid) else ""


@cache
def grid_key(wkt: str) -> str:
    """Return a CRS by its ellipsoid and parameters, without its datum."""
    parameters = crs_parameters(wkt)
    if not parameters:
        return wkt
    for key in ("datum", "ellps", "a", "b", "rf", "f", "R"):
        parameters.pop(key, None)
    if datum_of(wkt).code:
        parameters.pop("towgs84", None)  # it leads from the datum to WGS 84, and changes nothing
    shape = ",".join(_size(parse_crs(wkt).ellipsoid))
    return " ".join(f"+{key}={_digits(value)}" for key, value in sorted(parameters.items())) + shape


@cache
def same_crs(one: str, other: str) -> bool:
    """Return whether two CRSs are the same map grid, as far as both say.

    ESRI:102562 and the same grid as a custom WKT agree, whatever they are called. EPSG:2048, the
    same with both axes flipped, is another, and so is a grid on another datum.
    """
    if one == other:
        return True
    if grid_key(one) != grid_key(other):
        return False
    first, second = sorted((datum_of(one), datum_of(other)), key=lambda datum: datum.rank)
    if first.code == second.code or second.rank == 2:
        return True
    is_assumable = first.rank == 0 and second.is_bare_wgs84
    return _is_null(one, other, EQUAL_TO_WGS84_M if is_assumable else EQUAL_M)


@cache
def registered_crs(wkt: str) -> pyproj.CRS:
    """Return a CRS with its code, by which databases know it, or as it is if no registry has it.

    A CRS without a code, or with that of another CRS, is looked for by its parameters. Its datum
    may be assumed, as in :func:`same_crs`, where a single CRS has these parameters: a transverse
    Mercator projection on 19° E is ESRI:102562, and EPSG:2048 only with both axes flipped.
    """
    crs = parse_crs(wkt)
    text = crs.to_json_dict()
    named = text.pop("id", None)
    if named:
        try:
            claimed = pyproj.CRS.from_authority(named["authority"], named["code"])
        except CRSError:  # an authority that PROJ does not know
            return crs
        is_so = _is_as(crs, claimed, wkt)
        return crs if is_so else registered_crs(pyproj.CRS.from_json_dict(text).to_wkt())
    wanted, parameters = [crs], crs_parameters(wkt)
    if crs.is_projected and parameters:  # PROJ finds a grid of no datum by its parameters alone
        parameters.pop("towgs84", None)
        wanted = [pyproj.CRS.from_dict(parameters)]
    elif len(text.get("coordinate_system", {}).get("axis", [])) == 2:
        # The order of axes is not that of coordinates in files, but tells OGC:CRS84, for which
        # databases have no number, from EPSG:4326.
        system = text["coordinate_system"]
        turned = {**system, "axis": system["axis"][::-1]}
        wanted.append(pyproj.CRS.from_json_dict({**text, "coordinate_system": turned}))
    matches = [m for each in wanted for m in each.list_authority(min_confidence=MIN_CONFIDENCE)]
    matches.sort(key=lambda match: (not match.code.isdigit(), match.auth_name != "EPSG"))
    candidates = [pyproj.CRS.from_authority(match.auth_name, match.code) for match in matches]
    same = [found for found in candidates if _is_as(crs, found, wkt)]
    certain = [found for found in same if not is_assumed(wkt, found.to_wkt())]
    return (certain or same)[0] if certain or len(same) == 1 else crs


def _is_as(crs: pyproj.CRS, registered: pyproj.CRS, wkt: str) -> bool:
    """Return whether a CRS, with its WKT, is the registered one, in any order of axes."""
    try:
        is_same = same_crs(wkt, registered.to_wkt())
    except CRSError:  # the registered one has no PROJ string, which that of every grid has
        return False
    return is_same and _directions(crs) == _directions(registered)


def _directions(crs: pyproj.CRS) -> set[str]:
    """Return the directions of the axes, whatever their order."""
    return {axis.direction for axis in crs.axis_info}


def is_assumed(one: str, other: str) -> bool:
    """Return whether two CRSs are the same grid only if a datum is what it is taken for."""
    first, second = datum_of(one), datum_of(other)
    if first.code and second.code:
        return first.code != second.code and not _is_null(one, other, EQUAL_M)
    if first.code or second.code:
        return True
    return _letters(first.name) != _letters(second.name)


def transformations(
    one: pyproj.CRS | None, other: pyproj.CRS | None, area: AreaOfInterest | None = None
) -> TransformerGroup:
    """Return PROJ's transformations between two CRSs, the best that can be had first."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # grids are missing: the result names them
        return TransformerGroup(one, other, always_xy=True, area_of_interest=area)  # type: ignore[arg-type]


@cache
def _is_null(one: str, other: str, accuracy_m: float) -> bool:
    """Return whether PROJ's best transformation moves nothing, and is known to be this good."""
    first, second = (parse_crs(wkt).geodetic_crs for wkt in (one, other))
    shift = transformations(first, second).transformers[0]
    is_null = np.allclose(shift.transform(*PROBES)[:2], PROBES[:2], rtol=0, atol=NULL_DEGREES)
    return is_null and 0 <= shift.accuracy <= accuracy_m


@cache
def _codes() -> dict[str, str]:
    """Return the codes of datums by the letters of their names; empty without PROJ's database."""
    codes: dict[str, str] = {}
    for *_, name, authority, code in _names():
        codes.setdefault(_letters(name), f"{authority}:{code}")
    return codes


def _names() -> Iterator[tuple[object, ...]]:
    path = Path(pyproj.datadir.get_data_dir()) / "proj.db"
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            yield from database.execute(NAMES)
    except sqlite3.Error:
        return


def _size(ellipsoid: Ellipsoid | None) -> tuple[str, str]:
    """Return the semi-major axis in metres and the inverse flattening of an ellipsoid."""
    if ellipsoid is None:
        return "", ""
    return _digits(ellipsoid.semi_major_metre), _digits(ellipsoid.inverse_flattening)


def _letters(name: object) -> str:
    """Return the letters and digits of a name: spelling differs between writers."""
    text = str(name).lower().removeprefix("d_").removesuffix("ensemble")
    return re.sub("[^a-z0-9]", "", text)


def _digits(value: object) -> str:
    """Return a parameter to ten digits: a millimetre, or what writers round it to."""
    return f"{value:.10g}" if isinstance(value, float) else str(value)
