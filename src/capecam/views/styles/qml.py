"""Layer styles as QGIS stores them: in a project, in a ``.qml`` file, and inside a GeoPackage."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

from capecam.io.geopackage import OWN_STYLE, STYLES, style_note, styles_of
from capecam.views.palette import rgb

VERSION = "3.22"
"""Version of QGIS that writes this format; later versions read it."""

EVERY_SCALE = 100_000_000


@dataclass(frozen=True, slots=True)
class LayerStyle:
    """Style of one layer."""

    elements: tuple[ET.Element, ...]
    """``renderer-v2``, ``labeling``, ``pipe`` ..."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Attributes of the element that holds the elements."""
    from_scale: int | None = None
    """Denominator of the smallest map scale at which the layer is shown; None: no limit."""
    to_scale: int | None = None
    """Denominator of the largest map scale at which the layer is shown; None: no limit."""

    def __post_init__(self) -> None:
        for scale in (self.from_scale, self.to_scale):
            if scale is not None and scale < 1:
                raise ValueError(f"the denominator of a scale must be at least 1, got {scale}")

    def put_on(self, element: ET.Element) -> ET.Element:
        """Apply the style to a ``maplayer`` or ``qgis`` element, and return the element."""
        element.set("styleCategories", "AllStyleCategories")
        limited = (self.from_scale, self.to_scale) != (None, None)
        element.set("hasScaleBasedVisibilityFlag", str(int(limited)))
        element.set("minScale", str(self.from_scale or EVERY_SCALE))
        element.set("maxScale", str(self.to_scale or 0))
        for name, value in self.attributes.items():
            element.set(name, value)
        element.extend(map(deepcopy, self.elements))
        return element

    def to_element(self) -> ET.Element:
        """Return the style as a document of its own."""
        return self.put_on(ET.Element("qgis", version=VERSION))

    def to_qml(self) -> str:
        """Return the text of a ``.qml`` file."""
        root = self.to_element()
        ET.indent(root, " ")
        return "<!DOCTYPE qgis>\n" + ET.tostring(root, encoding="unicode") + "\n"


def options(values: Mapping[str, str]) -> ET.Element:
    """Return strings by name as the ``Option`` element of QGIS."""
    element = ET.Element("Option", type="Map")
    for name, value in values.items():
        ET.SubElement(element, "Option", type="QString", name=name, value=value)
    return element


def rgba(color: str, alpha: int = 255) -> str:
    """Return a colour #RRGGBB in the form of symbols: ``255,0,0,255``."""
    red, green, blue = rgb(color)
    return f"{red},{green},{blue},{alpha}"


LAYER_STYLES = """
CREATE TABLE IF NOT EXISTS layer_styles (
  id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256),
  f_table_schema TEXT(256), f_table_name TEXT(256), f_geometry_column TEXT(256),
  styleName TEXT(30), styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN, description TEXT,
  owner TEXT(30), ui TEXT(30), update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now'))
)"""
"""The table in which QGIS looks up the styles of a GeoPackage, as QGIS itself creates it."""


def embed_style(path: Path, layer: str, style: LayerStyle) -> None:
    """Make a style the default of a layer in a GeoPackage, unless somebody has chosen another.

    A style of capecam that somebody has edited stays.
    """
    text = style.to_qml()
    with closing(sqlite3.connect(path)) as database, database:
        if _has_table(database):
            written = styles_of(database, layer)
            if written == [(text, True)] or not all(is_own for _, is_own in written):
                return  # without writing: the file may be read-only
        database.execute(LAYER_STYLES)
        database.execute(
            "INSERT OR IGNORE INTO gpkg_contents (table_name, data_type, identifier) "
            "VALUES ('layer_styles', 'attributes', 'layer_styles')"
        )
        database.execute(
            "DELETE FROM layer_styles WHERE f_table_name = ? AND styleName = ?", [layer, OWN_STYLE]
        )
        database.execute(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, "
            "f_geometry_column, styleName, styleQML, styleSLD, useAsDefault, description, owner) "
            "SELECT '', '', table_name, column_name, ?, ?, '', NOT EXISTS (SELECT * FROM "
            "layer_styles WHERE f_table_name = ? AND useAsDefault), ?, '' "
            "FROM gpkg_geometry_columns WHERE table_name = ?",
            [OWN_STYLE, text, layer, style_note(text), layer],
        )


def _has_table(database: sqlite3.Connection) -> bool:
    query = "SELECT name FROM sqlite_master WHERE name = ?"
    return bool(database.execute(query, [STYLES]).fetchall())
