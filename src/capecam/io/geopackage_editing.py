"""Adding to a GeoPackage that people write, without touching what is in it.

Everything is done in a copy that takes the file's place at the end, so that a command that is
killed leaves the file as it was. While the copy is made and until it replaces the file, SQLite's
exclusive lock keeps other programs from writing into the one that is about to go.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import geopandas as gpd
import pandas as pd
import pyarrow as pa
import pyogrio
import pyproj
import shapely
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError

from capecam.errors import OutputError
from capecam.io.geopackage import is_intact
from capecam.io.reprojection import reproject_table
from capecam.runtime.files import atomic_write
from capecam.runtime.lock import lock_file

BESIDE = ("-wal", "-shm", "-journal")
"""Suffixes of the files that SQLite keeps beside a database."""

WAIT_S = 2.0
"""Time in which another program ends what it is writing; nobody waits longer at a terminal."""

WRITE_ERRORS = (OSError, DataSourceError, DataLayerError, FeatureError, FieldError, sqlite3.Error)

SQL_TYPES = {"f": "REAL", "i": "INTEGER", "u": "INTEGER", "b": "BOOLEAN"}
"""Type of a column of a GeoPackage by the kind of a numpy dtype; TEXT for all others."""


@contextmanager
def edited_geopackage(path: Path) -> Iterator[Path]:
    """Yield a copy of a GeoPackage, which replaces it when the block succeeds.

    Where there is no file, the block makes it. A link keeps leading to where it leads.

    Args:
        path: the file that people write.

    Raises:
        OutputError: it is open in another program, damaged, read-only, or was changed meanwhile.
    """
    path = path.resolve()
    with one_at_a_time(path.parent):
        temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
        for suffix in BESIDE:  # of a command that was killed
            temporary.with_name(f"{temporary.name}{suffix}").unlink(missing_ok=True)
        temporary.touch()  # of a folder that is read-only, Python says more than SQLite
        temporary.unlink()
        if not path.exists():
            with atomic_write(path) as temporary:
                yield temporary
                _finish(temporary)
            return
        before = path.stat()
        with closing(_locked(path)) as database, atomic_write(path) as temporary:
            if _identity(path.stat()) != _identity(before):
                raise OutputError(f"{path}: was replaced at this moment; give the command again")
            _copy(database, temporary, path)
            if not is_intact(temporary):
                raise OutputError(
                    f"{path}: is damaged; bring back a copy of it, or move it elsewhere"
                )
            shutil.copymode(path, temporary)
            yield temporary
            _finish(temporary)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait until no other capecam edits a file in a folder; the kernel ends the lock with us."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # where a filesystem has no locks, SQLite's are left
            lock_file(handle, wait=True)
        yield
    finally:
        os.close(handle)


def _copy(database: sqlite3.Connection, copy: Path, path: Path) -> None:
    try:
        with closing(sqlite3.connect(copy)) as target:
            database.backup(target)
    except sqlite3.Error as error:
        raise OutputError(
            f"{path}: cannot be copied ({error}); make space on its disk, or check it"
        ) from error


def _identity(state: os.stat_result) -> tuple[int, int]:
    return state.st_dev, state.st_ino


def _finish(path: Path) -> None:
    """Write a file to the disk, since the one that it replaces is gone after a power failure."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _locked(path: Path) -> sqlite3.Connection:
    """Return a connection that holds the exclusive lock of a file until it is closed.

    Leaving the mode of QGIS, a write-ahead log, succeeds only where nobody else has the file open,
    and merges what a program that crashed has left in the log.
    """
    if not os.access(path, os.W_OK):
        raise OutputError(f"{path}: is read-only; correct its permissions")
    database = sqlite3.connect(path, isolation_level=None, timeout=WAIT_S)
    try:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = DELETE")
        database.execute("BEGIN EXCLUSIVE")
        database.execute("COMMIT")  # the mode keeps the lock
    except sqlite3.OperationalError as error:
        database.close()
        raise OutputError(
            f"{path}: is open in another program ({error}); save and end editing there, and give "
            "the command again"
        ) from error
    except sqlite3.DatabaseError as error:
        database.close()
        raise OutputError(
            f"{path}: is no GeoPackage, or is damaged ({error}); bring back a copy of it, or move "
            "it elsewhere"
        ) from error
    return database


def layers_of(path: Path) -> dict[str, str | None]:
    """Return the geometry type of each layer of a GeoPackage by name; None for a plain table."""
    return {str(name): kind for name, kind in pyogrio.list_layers(path)} if path.exists() else {}


def make_layer(
    path: Path, layer: str, columns: pa.Schema, crs: pyproj.CRS, geometry: str | None
) -> None:
    """Add an empty layer to a GeoPackage, or make the file with it.

    Args:
        path: the GeoPackage.
        layer: name of the layer.
        columns: its columns, without the geometry.
        crs: CRS of the geometry.
        geometry: type such as ``MultiPolygon``; None makes a plain table.

    Raises:
        OutputError: it cannot be made.
    """
    spatial = {} if geometry is None else {
        "geometry_name": "geometry", "geometry_type": geometry, "crs": crs.to_wkt("WKT1_GDAL"),
    }  # fmt: skip
    schema = columns if geometry is None else columns.append(pa.field("geometry", pa.binary()))
    # Older releases of QGIS warn of version 1.3 and later.
    version = {} if path.exists() else {"VERSION": "1.2"}
    try:
        pyogrio.write_arrow(
            schema.empty_table(), path, driver="GPKG", layer=layer, dataset_options=version,
            **spatial,
        )  # fmt: skip
    except WRITE_ERRORS as error:
        raise OutputError(
            f"{path}: layer {layer} cannot be made ({str(error)[:200]}); make space on its disk, "
            "or take out a table of this name"
        ) from error


def append_rows(path: Path, layer: str, rows: pd.DataFrame) -> None:
    """Add rows behind those of a layer of a GeoPackage, with columns that it does not have yet.

    Rows with a geometry are moved to the CRS of the layer.

    Raises:
        OutputError: the layer cannot take them.
    """
    if not len(rows):
        return
    try:
        info = pyogrio.read_info(path, layer=layer)
        missing = [name for name in _attributes(rows) if name not in set(info["fields"])]
        _add_columns(path, layer, rows[missing])
        if isinstance(rows, gpd.GeoDataFrame):
            rows = as_layer(rows, pyproj.CRS(info["crs"]), info["geometry_type"])
        pyogrio.write_dataframe(rows, path, layer=layer, driver="GPKG", append=True)
    except WRITE_ERRORS as error:
        raise OutputError(
            f"{path}: layer {layer} cannot take rows ({str(error)[:200]}); take out what forbids "
            "it, such as a rule of a column, or move the file elsewhere"
        ) from error


GEOMETRY_FUNCTIONS = ("ST_IsEmpty", "ST_MinX", "ST_MaxX", "ST_MinY", "ST_MaxY")
"""Functions that the spatial index of a layer names; SQLite has none of them."""


def update_rows(path: Path, layer: str, key: str, values: pd.DataFrame) -> None:
    """Set columns of the rows of a layer by the text in another column; geometries stay.

    Args:
        path: the GeoPackage.
        layer: name of the layer.
        key: column of the layer that the index of the values names.
        values: a row for each text, a column for each column to set.
    """
    names = [str(name) for name in values.columns]
    columns = ", ".join(f"{quoted(name)} = ?" for name in names)
    statement = f"UPDATE {quoted(layer)} SET {columns} WHERE {quoted(key)} = ?"
    with closing(sqlite3.connect(path)) as database, database:
        for function in GEOMETRY_FUNCTIONS:  # named by triggers, and called for new geometries only
            database.create_function(function, 1, lambda _: None)
        rows = values[names].itertuples(name=None)
        database.executemany(statement, [(*row, text) for text, *row in rows])


def _attributes(rows: pd.DataFrame) -> list[str]:
    """Return the names of the columns without the geometry."""
    shape = rows.geometry.name if isinstance(rows, gpd.GeoDataFrame) else None
    return [str(name) for name in rows.columns if name != shape]


def _add_columns(path: Path, layer: str, columns: pd.DataFrame) -> None:
    """Add columns to a layer; SQLite leaves the rows as they are."""
    types: Mapping[str, str] = {
        str(name): SQL_TYPES.get(getattr(columns[name].dtype, "kind", "O"), "TEXT")
        for name in columns
    }
    with closing(sqlite3.connect(path)) as database, database:
        for name, kind in types.items():
            database.execute(f"ALTER TABLE {quoted(layer)} ADD COLUMN {quoted(name)} {kind}")


def quoted(name: str) -> str:
    """Return a name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def as_layer(rows: gpd.GeoDataFrame, crs: pyproj.CRS, kind: str) -> gpd.GeoDataFrame:
    """Return rows in the CRS and, as far as it goes, the geometry type of a layer."""
    moved = reproject_table(rows, crs)
    shapes = moved.geometry.to_numpy()
    if kind.startswith("Multi"):
        shapes = [shapely.MultiPolygon([s]) if s.geom_type == "Polygon" else s for s in shapes]
    elif kind == "Polygon":
        shapes = [s.geoms[0] if _is_single(s) else s for s in shapes]
    return moved.set_geometry(gpd.GeoSeries(shapes, index=moved.index, crs=moved.crs))


def _is_single(shape: shapely.Geometry) -> bool:
    return bool(shape.geom_type == "MultiPolygon" and len(shape.geoms) == 1)
