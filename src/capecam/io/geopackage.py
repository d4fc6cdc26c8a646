"""GeoPackages that people may edit: comparison with the tables they were made of, and copies."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
from pyogrio.errors import DataLayerError, DataSourceError

STYLES = "layer_styles"
"""Table in which QGIS looks up styles."""

OWN_STYLE = "capecam"
"""Name of the styles that capecam writes into it."""

JOURNALS = ("-wal", "-shm")
"""Suffixes of the files beside a database that another program has open."""


def holds(path: Path, tables: Mapping[str, Path]) -> bool:
    """Return whether a GeoPackage has the rows and columns of GeoParquet files, and nothing more.

    Args:
        path: the GeoPackage.
        tables: by layer, the file that the layer was made of.
    """
    try:
        layers = {name for name, _ in pyogrio.list_layers(path).tolist()}
        return (
            layers == {*tables, STYLES}
            and not _other_styles(path)
            and all(_is_equal(path, layer, source) for layer, source in tables.items())
        )
    except (OSError, DataSourceError, DataLayerError, sqlite3.Error, pa.ArrowException):
        return False


def _other_styles(path: Path) -> int:
    """Return the number of styles that somebody has saved in a GeoPackage."""
    with closing(sqlite3.connect(path)) as database:
        query = f"SELECT count(*) FROM {STYLES} WHERE styleName != ?"
        (count,) = database.execute(query, [OWN_STYLE]).fetchone()
    return int(count)


def _is_equal(path: Path, layer: str, source: Path) -> bool:
    meta, found = pyogrio.read_arrow(path, layer=layer)
    expected = pq.read_table(source).replace_schema_metadata()  # the types of the file alone
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
