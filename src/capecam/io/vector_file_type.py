"""Detecting the format of a vector file by its content, and refusing files that lead to others.

Some of the formats that GDAL reads refer to other files: a VRT, a pipeline or a virtual table can
name any file of the machine or the network, whatever its suffix.
"""

from __future__ import annotations

import os
import re
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path

from capecam.errors import UsageError

HEAD_BYTES = 64 << 10
"""Bytes from the beginning of a file; GDAL's drivers need fewer to identify a format."""

DRIVERS = frozenset({
    "GPKG", "SQLite", "GeoJSON", "GeoJSONSeq", "TopoJSON", "ESRIJSON", "JSONFG", "FlatGeobuf",
    "ESRI Shapefile", "KML", "LIBKML", "OpenFileGDB",
})  # fmt: skip
"""GDAL's drivers of formats that contain their data."""

FORMATS = (
    "GeoPackage, GeoJSON, FlatGeobuf, Shapefile (also zipped), GeoParquet, KML, SpatiaLite or a "
    "file geodatabase (.gdb)"
)

REFERENCES = (b"OGRVRTDataSource", b"gdal_streamed_alg", b"<!DOCTYPE", b"<!ENTITY")
"""Marks of files that refer to others or expand without limit, anywhere near the beginning."""

GAP = r"(?:\s|/\*.*?\*/|--[^\n]*\n)+"
"""Pattern of white space and comments between words of SQL."""
VIRTUAL_TABLE = re.compile(rf"(?:{GAP})?create{GAP}virtual\b", re.IGNORECASE | re.DOTALL)
SPATIAL_INDEX = re.compile(
    r"""create\s+virtual\s+table\s+("(?:[^"]|"")*"|'(?:[^']|'')*'|\w+)\s+using\s+"""
    r"(rtree|virtualspatialindex|virtualelementary|virtualknn2?)\s*(\(|$)",
    re.IGNORECASE,
)
"""Virtual tables that GDAL and SpatiaLite put into every file; no others are accepted."""

MEMBERS = (".shp", ".gpkg", ".geojson", ".json", ".fgb", ".kml")
UNPACKED_BYTES = 4 << 30
RATIO = 200
"""Maximum ratio of compression; that of polygons is at most 20, and of ZIP 1,000."""


def kind_of(path: Path) -> str:
    """Return ``parquet``, ``zip``, ``many`` (for several layers) or ``one``.

    Raises:
        UsageError: it is not a file, or its format is not supported.
    """
    if not os.path.exists(path):  # False also for a name that is too long
        raise UsageError(f"{path}: there is no such file; check its path")
    if path.is_dir():
        if path.suffix.lower() == ".gdb" and (path / "a00000001.gdbtable").is_file():
            return "many"
        raise UsageError(f"{path}: is a folder; name a vector file: {FORMATS}")
    if not path.is_file():  # a pipe would never end
        raise UsageError(f"{path}: is no ordinary file; copy it to disk first")
    try:
        with path.open("rb") as stream:
            return _kind(path, stream.read(HEAD_BYTES))
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read: {error.strerror}; check its permissions and its disk"
        ) from error


def _kind(path: Path, head: bytes) -> str:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"PK\3\4"):
        return "zip"
    if b"<html" in head[:999].lower():
        raise UsageError(f"{path}: is a web page, probably an error page; download the file again")
    if any(mark in head for mark in REFERENCES) and not head.startswith(b"SQLite"):
        raise UsageError(
            f"{path}: refused, because it is a VRT or another file that leads to other files; "
            "give the data itself, such as ogr2ogr OUT.gpkg makes"
        )
    if head.startswith(b"SQLite format 3\0"):
        _check_tables(path)
        return "many"
    if text.startswith(b"<") and b"<kml" in head:
        return "many"
    if text.startswith(b"{") and b'"Topology"' in head:
        return "many"
    if head.startswith((b"fgb\3fgb", b"\0\0\x27\x0a")) or text[:1] in (b"{", b"[", b"\x1e"):
        return "one"
    raise UsageError(f"{path}: {_describe_unknown(head, text)}")


def _describe_unknown(head: bytes, text: bytes) -> str:
    if not head:
        return "is empty; copy it again"
    if text.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS and not the file; fetch it with git lfs pull"
    return f"cannot be read as a vector layer: it is none of {FORMATS}; convert it with ogr2ogr"


def _check_tables(path: Path) -> None:
    """Check that all virtual tables are spatial indexes.

    Others read files (VirtualOGR, VirtualShape, VirtualXL).

    Raises:
        UsageError: there is such a table, or the file is damaged.
    """
    query = "SELECT name, CAST(sql AS TEXT) FROM sqlite_master WHERE sql LIKE '%virtual%'"
    try:
        uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(uri, uri=True)) as database:
            tables = database.execute(query).fetchall()
    except (sqlite3.Error, OverflowError) as error:
        raise UsageError(
            f"{path}: cannot be read as a vector layer ({str(error)[:100]}); copy it again"
        ) from error
    for name, sql in tables:
        if VIRTUAL_TABLE.match(sql) and not SPATIAL_INDEX.match(sql):
            raise UsageError(
                f"{path}: refused, because its table {str(name)[:60]!r} is virtual and may lead to "
                "other files; give the data itself, such as ogr2ogr OUT.gpkg makes"
            )


def member_of(path: Path) -> str:
    """Return GDAL's path of the only vector file in a zip file.

    Raises:
        UsageError: there is no vector file, or several, or the zip file expands too much.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            layers = [i for i in infos if i.filename.lower().endswith(MEMBERS)]
            if len(layers) == 1:
                _check_size(path, infos)
                with archive.open(layers[0]) as stream:
                    if _kind(path, stream.read(HEAD_BYTES)) != "one":
                        raise UsageError(f"{path}: unpack {layers[0].filename[:80]!r} first")
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"{path}: damaged or no zip file ({str(error)[:100]}); copy it again"
        ) from error
    if len(layers) != 1:
        raise UsageError(f"{path}: holds {len(layers)} vector files, and one is needed; unpack it")
    return f"/vsizip/{{{path.resolve()}}}/{layers[0].filename}"


def _check_size(path: Path, infos: list[zipfile.ZipInfo]) -> None:
    size = sum(info.file_size for info in infos)
    if size > UNPACKED_BYTES or size > RATIO * path.stat().st_size + (1 << 20):
        raise UsageError(
            f"{path}: refused, because it unpacks to {size / 1e9:.1f} GB; unpack it where it comes "
            "from, and give the file itself"
        )
