"""What a vector file is, by its content: GDAL would follow some of them to other files.

Of about fifty formats that GDAL reads, several are no data but directions: a VRT, a pipeline or a
virtual table names any file on the machine or on the network, whatever its own name ends in.
"""

from __future__ import annotations

import os
import re
import sqlite3
import zipfile
from pathlib import Path

from capecam.errors import UsageError

HEAD_BYTES = 64 << 10
"""GDAL's drivers look at less of a file to know their own."""

DRIVERS = frozenset({
    "GPKG", "SQLite", "GeoJSON", "GeoJSONSeq", "TopoJSON", "ESRIJSON", "JSONFG", "FlatGeobuf",
    "ESRI Shapefile", "KML", "LIBKML", "OpenFileGDB",
})  # fmt: skip
"""By GDAL's names: those that hold what they show."""

READ = (
    "GeoPackage, GeoJSON, FlatGeobuf, Shapefile (also zipped), GeoParquet, KML, SpatiaLite or a "
    "file geodatabase (.gdb)"
)

DIRECTIONS = (b"OGRVRTDataSource", b"gdal_streamed_alg", b"<!DOCTYPE", b"<!ENTITY")
"""Marks of what leads elsewhere, or grows without end, anywhere near the beginning."""

GAP = r"(?:\s|/\*.*?\*/|--[^\n]*\n)+"
"""Between words of SQL."""
VIRTUAL = re.compile(rf"(?:{GAP})?create{GAP}virtual\b", re.IGNORECASE | re.DOTALL)
INDEX = re.compile(
    r"""create\s+virtual\s+table\s+("(?:[^"]|"")*"|'(?:[^']|'')*'|\w+)\s+using\s+"""
    r"(rtree|virtualspatialindex|virtualelementary|virtualknn2?)\s*(\(|$)",
    re.IGNORECASE,
)
"""What GDAL and SpatiaLite put into every file; nothing else of what may follow is believed."""

MEMBERS = (".shp", ".gpkg", ".geojson", ".json", ".fgb", ".kml")
UNPACKED_BYTES = 4 << 30
RATIO = 200
"""Polygons pack to a twentieth at the very best; ZIP can do a thousandth."""


def kind_of(path: Path) -> str:
    """``parquet``, ``zip``, ``many`` (may have several layers) or ``one``.

    Raises:
        UsageError: it is no file, or of no format that is read.
    """
    if not os.path.exists(path):  # which says no of a name that is too long, too
        raise UsageError(f"{path}: there is no such file; check its path")
    if path.is_dir():
        if path.suffix.lower() == ".gdb" and (path / "a00000001.gdbtable").is_file():
            return "many"
        raise UsageError(f"{path}: is a folder; name a vector file: {READ}")
    if not path.is_file():  # a pipe would wait for ever
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
    if any(mark in head for mark in DIRECTIONS) and not head.startswith(b"SQLite"):
        raise UsageError(
            f"{path}: refused, because it is a VRT or another file that leads to other files; "
            "give the data itself, such as ogr2ogr OUT.gpkg makes"
        )
    if head.startswith(b"SQLite format 3\0"):
        _check_tables(path)
        return "many"
    if text.startswith(b"<") and b"<kml" in head:
        return "many"
    if head.startswith((b"fgb\3fgb", b"\0\0\x27\x0a")) or text[:1] in (b"{", b"[", b"\x1e"):
        return "one"
    raise UsageError(f"{path}: {_stranger(head, text)}")


def _stranger(head: bytes, text: bytes) -> str:
    if not head:
        return "is empty; copy it again"
    if text.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS and not the file; fetch it with git lfs pull"
    return f"cannot be read as a vector layer: it is none of {READ}; convert it with ogr2ogr"


def _check_tables(path: Path) -> None:
    """No virtual table but indexes: others read files (VirtualOGR, VirtualShape, VirtualXL).

    Raises:
        UsageError: there is one, or the file is damaged.
    """
    query = "SELECT name, CAST(sql AS TEXT) FROM sqlite_master WHERE sql LIKE '%virtual%'"
    try:
        link = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            found = link.execute(query).fetchall()
        finally:
            link.close()
    except (sqlite3.Error, OverflowError) as error:
        raise UsageError(
            f"{path}: cannot be read as a vector layer ({str(error)[:100]}); copy it again"
        ) from error
    for name, sql in found:
        if VIRTUAL.match(sql) and not INDEX.match(sql):
            raise UsageError(
                f"{path}: refused, because its table {str(name)[:60]!r} is virtual and may lead to "
                "other files; give the data itself, such as ogr2ogr OUT.gpkg makes"
            )


def member_of(path: Path) -> str:
    """Of a zip file, the layer inside: its shapefile, or its only other vector file.

    Raises:
        UsageError: there is none, or several, or it unpacks to far more than it is.
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
