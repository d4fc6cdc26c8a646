"""GeoPackages that open in colour: QGIS reads its style from the table ``layer_styles`` inside."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

STEPS = 5
"""Shades of a graduated style."""

PALEST = 0.15
"""Share of the full colour in the first of them."""

FIGURES = 3
"""Significant figures of the limits between them."""

OUTLINE, NO_VALUE = "#505050", "#C8C8C8"

LAYER_STYLES = """
CREATE TABLE IF NOT EXISTS layer_styles (
  id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256),
  f_table_schema TEXT(256), f_table_name TEXT(256), f_geometry_column TEXT(256),
  styleName TEXT(30), styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN, description TEXT,
  owner TEXT(30), ui TEXT(30), update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now'))
)"""
"""As QGIS itself makes it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of a legend; what is inside others is drawn where all of them apply."""

    label: str
    where: str
    """QGIS expression."""
    fill: str | None = None
    """#RRGGBB; without it only the rules inside draw."""
    shown: bool = True
    """Whether it is ticked when the layer opens."""
    inside: tuple[Rule, ...] = ()


def graduated(
    field: str, values: NDArray[np.float64], color: str, missing: str
) -> tuple[Rule, ...]:
    """Shades of a colour for equal shares of the values; grey where there is none.

    Args:
        field: name of the column.
        values: of the column; NaN is no value.
        color: #RRGGBB of the highest.
        missing: what it means to have no value.
    """
    known = values[~np.isnan(values)]
    limits = _limits(known[known > 0])
    rules = [
        Rule(missing, f'"{field}" IS NULL', NO_VALUE), Rule("0", f'"{field}" = 0', "#FFFFFF")
    ]  # fmt: skip
    edges = ["0", *(f"{limit:g}" for limit in limits)]
    for step, (low, high) in enumerate(pairwise(edges), start=1):
        where = f'"{field}" > {low} AND "{field}" <= {high}'
        rules.append(Rule(f"{low} - {high}", where, _shade(color, step / len(edges))))
    rules.append(Rule(f"over {edges[-1]}", f'"{field}" > {edges[-1]}', color))
    return tuple(rules)


def _limits(values: NDArray[np.float64]) -> list[float]:
    """Between shades; fewer where values are few."""
    if not len(values):
        return []
    found = np.quantile(values, np.arange(1, STEPS) / STEPS)
    rounded = {float(f"{value:.{FIGURES}g}") for value in found}
    return sorted(limit for limit in rounded if limit < values.max())


def _shade(color: str, share: float) -> str:
    """A colour mixed with white."""
    share = PALEST + (1 - PALEST) * share
    rgb = (round(255 + (value - 255) * share) for value in bytes.fromhex(color[1:]))
    return "#" + "".join(f"{value:02X}" for value in rgb)


def to_qml(rules: Sequence[Rule]) -> str:
    """A style for polygons, as QGIS 3.22 and later read it."""
    root = ET.Element("qgis", version="3.22", styleCategories="Symbology")
    renderer = ET.SubElement(root, "renderer-v2", type="RuleRenderer", symbollevels="0")
    symbols = ET.Element("symbols")
    _add(ET.SubElement(renderer, "rules", key="root"), symbols, rules, "rule")
    renderer.append(symbols)
    return "<!DOCTYPE qgis>\n" + ET.tostring(root, encoding="unicode")


def _add(parent: ET.Element, symbols: ET.Element, rules: Sequence[Rule], key: str) -> None:
    """The rules under an element, and what they draw with under ``symbols``."""
    for number, rule in enumerate(rules):
        own = f"{key}-{number}"
        facts = {"key": own, "label": rule.label, "filter": rule.where}
        facts["checkstate"] = "1" if rule.shown else "0"
        if rule.fill:
            facts["symbol"] = str(len(symbols))
            symbols.append(_symbol(facts["symbol"], rule.fill))
        _add(ET.SubElement(parent, "rule", facts), symbols, rule.inside, own)


def _symbol(name: str, fill: str) -> ET.Element:
    symbol = ET.Element("symbol", type="fill", name=name, alpha="1", clip_to_extent="1")
    layer = ET.SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1", "locked": "0"})
    options = ET.SubElement(layer, "Option", type="Map")
    for option, value in _fill(fill):
        ET.SubElement(options, "Option", type="QString", name=option, value=value)
    return symbol


def _fill(color: str) -> Iterator[tuple[str, str]]:
    for option, value in (("color", color), ("outline_color", OUTLINE)):
        red, green, blue = bytes.fromhex(value[1:])
        yield option, f"{red},{green},{blue},{200 if option == 'color' else 255}"
    yield from (("style", "solid"), ("outline_style", "solid"))
    yield from (("outline_width", "0.2"), ("outline_width_unit", "MM"))


def embed_style(path: Path, layer: str, qml: str) -> None:
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
            [qml, layer],
        )
