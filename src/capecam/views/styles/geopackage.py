"""GeoPackages that open in colour: QGIS reads its style from the table ``layer_styles`` inside."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from capecam.views.styles.qml import LayerStyle

LAYER_STYLES = """
CREATE TABLE IF NOT EXISTS layer_styles (
  id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256),
  f_table_schema TEXT(256), f_table_name TEXT(256), f_geometry_column TEXT(256),
  styleName TEXT(30), styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN, description TEXT,
  owner TEXT(30), ui TEXT(30), update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now'))
)"""
"""As QGIS itself makes it."""


def embed_style(path: Path, layer: str, style: LayerStyle) -> None:
    """Make a style the default of a layer in a GeoPackage."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(LAYER_STYLES)
        database.execute(
            "INSERT OR IGNORE INTO gpkg_contents (table_name, data_type, identifier) "
            "VALUES ('layer_styles', 'attributes', 'layer_styles')"
        )
        database.execute("DELETE FROM layer_styles WHERE f_table_name = ?", [layer])
        database.execute(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, "
            "f_geometry_column, styleName, styleQML, styleSLD, useAsDefault, description, owner) "
            "SELECT '', '', table_name, column_name, 'capecam', ?, '', 1, '', '' "
            "FROM gpkg_geometry_columns WHERE table_name = ?",
            [style.to_qml(), layer],
        )
