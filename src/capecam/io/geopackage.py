"""GeoPackages that people may edit: comparison with the tables they were made of, and copies."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
from pyogrio.errors import DataLayerError, DataSourceError

from capecam.io.parquet_texts import texts_of
from capecam.io.vector_writer import column_descriptions, data_columns

STYLES = "layer_styles"
"""Table in which QGIS looks up styles."""

OWN_STYLE = "capecam"
"""Name of the styles that capecam writes into it."""

DESCRIPTIONS = "gpkg_data_columns"
"""Table of the format with the descriptions of columns."""

JOURNALS = ("-wal", "-shm")
"""Suffixes of the files beside a database that another program has open."""


def holds(path: Path, tables: Mapping[str, Path]) -> bool:
    """Return whether a GeoPackage has the rows and columns of GeoParquet files, and nothing more.

    Args:
        path: the GeoPackage.
        tables: by layer, the file that the layer was made of.
    """
    try:
        with closing(sqlite3.connect(path)) as database:
            own = (
                _own_tables(database) == {*tables, STYLES}
                and not _is_annotated(database)
                and _descriptions(database) in (set(), _descriptions_of(tables))
            )
        texts = {layer: texts_of(source) for layer, source in tables.items()}
        return (
            own
            and _metadata(path, tables) == {layer: said for layer, said in texts.items() if said}
            and all(_is_equal(path, layer, source) for layer, source in tables.items())
        )
    except (OSError, DataSourceError, DataLayerError, sqlite3.Error, pa.ArrowException):
        return False


def _own_tables(database: sqlite3.Connection) -> set[str]:
    """Return the names of tables and views, without those of the format.

    GDAL does not list views, and tables such as ``qgis_projects``, that are not registered.
    """
    query = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
    names = {name for (name,) in database.execute(query)}
    return {name for name in names if not name.startswith(("gpkg_", "rtree_", "sqlite_"))}


def _metadata(path: Path, layers: Iterable[str]) -> dict[str, dict[str, str]] | None:
    """Return the metadata of layers that GDAL has written; None if there are others."""
    with closing(sqlite3.connect(path)) as database:
        query = "SELECT count(*) FROM sqlite_master WHERE name = 'gpkg_metadata'"
        ((exists,),) = database.execute(query)
        rows = "SELECT count(*) FROM gpkg_metadata"
        ((count,),) = database.execute(rows) if exists else ((0,),)
    found = {layer: pyogrio.read_info(path, layer=layer)["layer_metadata"] for layer in layers}
    found = {layer: metadata for layer, metadata in found.items() if metadata}
    return found if len(found) == count else None


def _is_annotated(database: sqlite3.Connection) -> bool:
    """Return whether somebody has described a layer, or saved a style."""
    described = "SELECT count(*) FROM gpkg_contents WHERE coalesce(description, '') != ''"
    ((count,),) = database.execute(described)
    return bool(count) or not all(is_own for _, is_own in styles_of(database))


def _descriptions(database: sqlite3.Connection) -> set[tuple[str, ...]]:
    """Return layer, column, name and description of columns; older files have none."""
    if not database.execute(f"PRAGMA table_info({DESCRIPTIONS})").fetchall():
        return set()
    return set(database.execute(
        f"SELECT table_name, column_name, name, description FROM {DESCRIPTIONS}"
    ))  # fmt: skip


def _descriptions_of(tables: Mapping[str, Path]) -> set[tuple[str, ...]]:
    """Return the same as it is written from GeoParquet files."""
    return {
        (layer, name, *described)
        for layer, source in tables.items()
        for name, described in column_descriptions(source).items()
    }


def styles_of(database: sqlite3.Connection, layer: str | None = None) -> list[tuple[str, bool]]:
    """Return the texts of styles, and whether capecam wrote them, of one layer or all."""
    query = f"SELECT styleName, styleQML, styleSLD, description, f_table_name FROM {STYLES}"
    return [
        (text, name == OWN_STYLE and (note == style_note(text) or not (note or sld)))
        for name, text, sld, note, table in database.execute(query)
        if layer is None or (table, name) == (layer, OWN_STYLE)
    ]


def style_note(text: str | None) -> str:
    """Return the description of a style that capecam writes, which tells it from an edited one."""
    digest = hashlib.sha256((text or "").encode()).hexdigest()
    return f"written by capecam ({digest[:16]})"


def is_intact(path: Path) -> bool:
    """Return whether a file is a GeoPackage that can be read from end to end."""
    try:
        with closing(sqlite3.connect(path)) as database:
            database.execute("SELECT count(*) FROM gpkg_contents").fetchall()
            return database.execute("PRAGMA quick_check").fetchall() == [("ok",)]
    except sqlite3.Error:
        return False


def _is_equal(path: Path, layer: str, source: Path) -> bool:
    meta, found = pyogrio.read_arrow(path, layer=layer)
    table = pq.read_table(source, columns=data_columns(source))
    expected = table.replace_schema_metadata()  # the types of the file alone
    shape = meta["geometry_name"] or "geometry"
    names = ["geometry" if name == shape else name for name in found.column_names]
    if names != expected.column_names:
        return False
    # As tables of pandas, in which NaN of one file equals NULL of the other.
    return bool(found.rename_columns(names).to_pandas().equals(expected.to_pandas()))


def copy_geopackage(path: Path, copy: Path) -> None:
    """Copy a GeoPackage with the changes that are still in the journal of another program."""
    try:
        with closing(sqlite3.connect(path)) as database, closing(sqlite3.connect(copy)) as target:
            database.backup(target)
    except sqlite3.Error:  # it is damaged, or no database at all
        shutil.copy2(path, copy)


def remove_journals(path: Path) -> None:
    """Remove the journals beside a GeoPackage that is about to be replaced: SQLite would apply them
    to the new file."""
    for suffix in JOURNALS:
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
