"""Adding and removing single rows of a GeoPackage in place, while other programs have it open.

Each block of :func:`rows_in_place` is one transaction of SQLite: whatever is killed in it has done
nothing. QGIS may edit the same file at the same time; it holds a lock only while it saves.

GDAL must not have the file open in the same process meanwhile: it has an SQLite of its own, and
when that closes the file, the locks of the process are gone (sqlite.org/howtocorrupt.html, 2.2).
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import pyproj
import shapely

from capecam.errors import OutputError
from capecam.io.geopackage_editing import WAIT_S, as_layer, one_at_a_time, quoted

ENVELOPE_BYTES = (0, 32, 48, 48, 64)
"""Size of the envelope in a geometry's header, by the three bits that say which it has."""

HEADER = "<2sBBi4d"
"""Header of a geometry with an envelope of x and y, little-endian (GeoPackage 1.2, 2.1.3)."""

LITTLE_ENDIAN_XY = 0b011

UNDEFINED = (-1, 0)
"""Numbers of the CRSs of which a layer says nothing (2.1.2)."""

KINDS = {"POLYGON": "Polygon", "MULTIPOLYGON": "MultiPolygon"}
"""Geometry types into which outlines are converted, as GDAL names them."""


def to_blob(shape: shapely.Geometry, srs_id: int) -> bytes:
    """Return a geometry as a GeoPackage stores it."""
    west, south, east, north = shape.bounds
    header = struct.pack(HEADER, b"GP", 0, LITTLE_ENDIAN_XY, srs_id, west, east, south, north)
    return header + bytes(shapely.to_wkb(shape, byte_order=1))


def from_blob(blob: bytes) -> shapely.Geometry:
    """Return the geometry that a GeoPackage stores."""
    return shapely.from_wkb(blob[8 + ENVELOPE_BYTES[blob[3] >> 1 & 0b111] :])


class BusyFileError(OutputError):
    """Another program is writing the file at this moment.

    Try again.
    """


@dataclass(frozen=True, slots=True)
class GeoPackageRows:
    """Rows of a GeoPackage, in one transaction."""

    database: sqlite3.Connection

    def layers(self) -> set[str]:
        """Return the names of the layers and tables that the file lists."""
        return {name for (name,) in self.database.execute("SELECT table_name FROM gpkg_contents")}

    def insert(self, layer: str, rows: gpd.GeoDataFrame) -> int:
        """Add one row, with columns that the layer does not have yet; return its number (fid).

        Args:
            layer: name of the layer, which has a geometry.
            rows: one row; it is moved to the CRS of the layer.
        """
        column, kind, srs_id, crs = self.database.execute(
            "SELECT column_name, geometry_type_name, srs_id, definition "
            "FROM gpkg_geometry_columns JOIN gpkg_spatial_ref_sys USING (srs_id) "
            "WHERE table_name = ?",
            [layer],
        ).fetchone()
        own = rows.crs if srs_id in UNDEFINED else pyproj.CRS.from_wkt(crs)
        is_point = rows.geometry.iloc[0].geom_type == "Point"  # in a layer of polygons, too
        moved = rows.to_crs(own) if is_point else as_layer(rows, own, KINDS.get(kind.upper(), ""))
        shape = moved.geometry.iloc[0]
        plain = moved.drop(columns=moved.geometry.name).to_dict("records")[0]
        values = {str(name): value for name, value in plain.items()}
        self._add_columns(layer, values)
        values[column] = to_blob(shape, srs_id)
        names = ", ".join(map(quoted, values))
        marks = ", ".join("?" * len(values))
        cursor = self.database.execute(
            f"INSERT INTO {quoted(layer)} ({names}) VALUES ({marks})", [*values.values()]
        )
        self._extend(layer, shape.bounds)
        return int(cursor.lastrowid or 0)

    def delete(self, layer: str, fid: int, where: Mapping[str, object]) -> bool:
        """Remove a row, if it still has some values; return whether it was there."""
        key = self._key(layer)
        conditions = " AND ".join(f"{quoted(name)} IS ?" for name in where)
        cursor = self.database.execute(
            f"DELETE FROM {quoted(layer)} WHERE {quoted(key)} = ? AND {conditions}",
            [fid, *where.values()],
        )
        if cursor.rowcount:
            self._touch(layer)
        return bool(cursor.rowcount)

    def last(self, layer: str, where: Mapping[str, object]) -> dict[str, Any] | None:
        """Return the last row with some values, with its number as ``row``; None without one."""
        if not self._columns(layer).keys() >= where.keys():
            return None
        conditions = " AND ".join(f"{quoted(name)} IS ?" for name in where)
        key = quoted(self._key(layer))
        cursor = self.database.execute(
            f"SELECT {key} AS row, * FROM {quoted(layer)} WHERE {conditions} "
            f"ORDER BY {key} DESC LIMIT 1",
            [*where.values()],
        )
        names = [entry[0] for entry in cursor.description]
        found = cursor.fetchone()
        return None if found is None else dict(zip(names, found, strict=True))

    def _columns(self, layer: str) -> dict[str, bool]:
        """Return the columns, and whether each is the primary key."""
        rows = self.database.execute(f"PRAGMA table_info({quoted(layer)})")
        return {str(name): bool(is_key) for _, name, _, _, _, is_key in rows}

    def _key(self, layer: str) -> str:
        return next(name for name, is_key in self._columns(layer).items() if is_key)

    def _add_columns(self, layer: str, values: Mapping[str, object]) -> None:
        known = self._columns(layer)
        for name, value in values.items():
            if name not in known:
                kind = "REAL" if isinstance(value, float) else "TEXT"
                self.database.execute(
                    f"ALTER TABLE {quoted(layer)} ADD COLUMN {quoted(name)} {kind}"
                )

    def _extend(self, layer: str, bounds: tuple[float, float, float, float]) -> None:
        """Extend what the file says is the extent of a layer."""
        west, south, east, north = bounds
        self.database.execute(
            "UPDATE gpkg_contents SET min_x = min(coalesce(min_x, ?1), ?1), "
            "min_y = min(coalesce(min_y, ?2), ?2), max_x = max(coalesce(max_x, ?3), ?3), "
            "max_y = max(coalesce(max_y, ?4), ?4) WHERE table_name = ?5",
            [west, south, east, north, layer],
        )
        self._touch(layer)

    def forget_count(self, layer: str) -> None:
        """Let GDAL count the rows of a layer itself, instead of believing what the file says.

        A GDAL that has had the file open meanwhile writes the number of rows that it knows of, and
        others then read no more than so many.
        """
        if self._columns("gpkg_ogr_contents"):  # which only GDAL makes
            self.database.execute(
                "UPDATE gpkg_ogr_contents SET feature_count = NULL "
                "WHERE table_name = ? AND feature_count IS NOT NULL",
                [layer],
            )

    def _touch(self, layer: str) -> None:
        self.forget_count(layer)
        self.database.execute(
            "UPDATE gpkg_contents SET last_change = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') "
            "WHERE table_name = ?",
            [layer],
        )


@contextmanager
def rows_in_place(path: Path) -> Iterator[GeoPackageRows]:
    """Yield the rows of a GeoPackage; what is done with them is kept when the block succeeds.

    Raises:
        BusyFileError: another program writes it, for longer than ``WAIT_S``.
        OutputError: it cannot be written.
    """
    path = path.resolve()
    with one_at_a_time(path.parent):  # a command of capecam may be about to replace the file
        try:
            database = sqlite3.connect(
                f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=WAIT_S
            )
        except sqlite3.Error as error:
            raise OutputError(
                f"{path}: cannot be opened ({error}); check its permissions"
            ) from error
        with closing(database):
            _add_functions(database)
            try:
                database.execute("BEGIN IMMEDIATE")
                yield GeoPackageRows(database)
                database.execute("COMMIT")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise BusyFileError(
                        f"{path}: is being written by another program; try again"
                    ) from error
                raise OutputError(
                    f"{path}: cannot be written ({error}); check its disk and permissions"
                ) from error
            except sqlite3.DatabaseError as error:
                raise OutputError(
                    f"{path}: takes no row ({error}); take out what forbids it, such as a rule of "
                    "a column, or bring back a copy of the file if it is damaged"
                ) from error


def _add_functions(database: sqlite3.Connection) -> None:
    """Define the functions that the triggers of a spatial index call; SQLite has none of them."""

    def bound(index: int) -> Any:
        return lambda blob: None if blob is None else float(from_blob(blob).bounds[index])

    def is_empty(blob: bytes | None) -> int | None:
        return None if blob is None else int(from_blob(blob).is_empty)

    database.create_function("ST_IsEmpty", 1, is_empty)
    for index, name in enumerate(("ST_MinX", "ST_MinY", "ST_MaxX", "ST_MaxY")):
        database.create_function(name, 1, bound(index))
