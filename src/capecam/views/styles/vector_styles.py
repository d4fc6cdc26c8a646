"""Styles of vector layers: symbols, labels, and rules that are also the legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from capecam.views.palette import DARK, LIGHT, NO_VALUE, OUTLINE, WHITE, mixed, rgb
from capecam.views.styles.qml import LayerStyle, options, rgba


@dataclass(frozen=True, slots=True)
class Width:
    """Width of a line that grows with the map scale, between two limits.

    In map units: with metres, QGIS computes on the ellipsoid at each feature, which takes 2.5 s
    instead of 1.8 for 40,000 features (3.22, one core). A map in degrees gets the upper limit.
    """

    ground: float
    min_mm: float
    max_mm: float

    def options(self, name: str) -> dict[str, str]:
        """Return the width as options of a line."""
        return {
            name: f"{self.ground:g}",
            f"{name}_unit": "MapUnit",
            "width_map_unit_scale": f"3x:0,0,1,{self.min_mm:g},1,{self.max_mm:g}",
        }


CORE, CASING = Width(0.25, 0.3, 0.5), Width(0.45, 0.4, 0.95)
"""Widths of outlines: about 2 and 4 px on a screen, less where objects are only dots."""


def area(color: str, alpha: int = 200, pattern: str = "solid") -> ET.Element:
    """Return a fill with a thin grey outline."""
    properties = {
        "color": rgba(color, alpha), "outline_color": rgba(OUTLINE), "style": pattern,
        "outline_style": "solid", "outline_width": "0.2", "outline_width_unit": "MM",
    }  # fmt: skip
    return symbol("fill", layer("SimpleFill", properties))


def outlined(color: str, *, dash: bool = False, alpha: int = 50) -> ET.Element:
    """Return an outline with a casing, visible on any roof, and a faint fill."""
    casing = {"line_color": rgba(_against(color), 170), "joinstyle": "round"}
    core = {"line_color": rgba(color), "joinstyle": "round"}
    if dash:
        core |= {"line_style": "dash"}
    return symbol(
        "fill",
        layer("SimpleFill", {"color": rgba(color, alpha), "outline_style": "no"}),
        layer("SimpleLine", casing | CASING.options("line_width")),
        layer("SimpleLine", core | CORE.options("line_width")),
    )


def halo(color: str) -> ET.Element:
    """Return a wide line around an object."""
    line = {"line_color": rgba(color), "line_width": "2", "line_width_unit": "MM"}
    return symbol("fill", layer("SimpleLine", line | {"joinstyle": "round"}))


def marked(color: str, size_mm: float, to_scale: int) -> ET.Element:
    """Return :func:`outlined` with a disc on top at map scales of 1:``to_scale`` and smaller."""
    disc = {
        "name": "circle", "color": rgba(color, 235), "size": f"{size_mm:g}", "size_unit": "MM",
        "outline_color": rgba(_against(color)), "outline_width": "0.3", "outline_width_unit": "MM",
    }  # fmt: skip
    # Not a CentroidFill, which QGIS 3.22 does not draw in the colour of what is selected.
    point = {"SymbolType": "Marker", "geometryModifier": "point_on_surface($geometry)"}
    centre = layer("GeometryGenerator", point | {"units": "MapUnit"})
    centre.append(expressions({"enabled": f"@map_scale > {to_scale}"}))
    centre.append(symbol("marker", layer("SimpleMarker", disc), name="@0@3"))
    element = outlined(color, dash=True, alpha=0)
    element.append(centre)
    return element


def symbol(kind: str, *layers: ET.Element, name: str = "0") -> ET.Element:
    """Return a symbol of layers, the lowest first."""
    element = ET.Element("symbol", type=kind, name=name, alpha="1", clip_to_extent="1")
    element.extend(layers)
    return element


def layer(kind: str, properties: dict[str, str]) -> ET.Element:
    """Return a layer of a symbol; properties that are not given have the defaults of QGIS."""
    element = ET.Element("layer", {"class": kind, "enabled": "1", "locked": "0", "pass": "0"})
    element.append(options(properties))
    return element


def expressions(properties: Mapping[str, str], tag: str = "data_defined_properties") -> ET.Element:
    """Return properties that depend on a QGIS expression, by name."""
    element = ET.Element(tag)
    top = ET.SubElement(element, "Option", type="Map")
    ET.SubElement(top, "Option", type="QString", name="name", value="")
    entries = ET.SubElement(top, "Option", type="Map", name="properties")
    for name, expression in properties.items():
        entry = ET.SubElement(entries, "Option", type="Map", name=name)
        ET.SubElement(entry, "Option", type="bool", name="active", value="true")
        ET.SubElement(entry, "Option", type="QString", name="expression", value=expression)
        ET.SubElement(entry, "Option", type="int", name="type", value="3")  # an expression
    ET.SubElement(top, "Option", type="QString", name="type", value="collection")
    return element


def _against(color: str) -> str:
    """Return dark or light, whichever contrasts with a colour's luminance (ITU-R BT.709)."""
    red, green, blue = rgb(color)
    return DARK if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 100 else LIGHT


PLACEMENTS = {"outside": "8", "centred": "1", "inside": "4"}
"""Placement codes of QGIS: outside of a polygon, over its centre, horizontal inside."""


@dataclass(frozen=True, slots=True)
class Label:
    """Label of a feature."""

    text: str
    """QGIS expression."""
    placement: str = "outside"
    size_pt: float = 8.0
    color: str = DARK
    halo: str | None = LIGHT
    from_scale: int = 0
    """Denominator of the smallest scale at which it is shown; 0: no limit."""
    to_scale: int = 0
    """Denominator of the largest scale at which it is shown; 0: no limit."""
    where: str = ""
    """QGIS expression that selects features; empty: all."""

    def settings(self) -> ET.Element:
        """Return the ``settings`` element of QGIS."""
        element = ET.Element("settings", calloutType="simple")
        style = ET.SubElement(element, "text-style", {
            "fieldName": self.text, "isExpression": "1", "fontSize": f"{self.size_pt:g}",
            "fontSizeUnit": "Point", "fontWeight": "63", "textColor": rgba(self.color),
            "textOpacity": "1", "multilineHeight": "1", "textOrientation": "horizontal",
        })  # fmt: skip
        ET.SubElement(style, "text-buffer", {
            "bufferDraw": "0" if self.halo is None else "1", "bufferSize": "0.8",
            "bufferSizeUnits": "MM", "bufferColor": rgba(self.halo or LIGHT),
            "bufferOpacity": "0.85", "bufferJoinStyle": "128", "bufferNoFill": "1",
        })  # fmt: skip
        ET.SubElement(element, "text-format", multilineAlign="1", wrapChar="")
        ET.SubElement(element, "placement", {
            "placement": PLACEMENTS[self.placement],
            "dist": "0.8" if self.placement == "outside" else "0",
            "distUnits": "MM", "polygonPlacementFlags": "2", "priority": "5",
            "centroidInside": "1", "quadOffset": "4",
        })  # fmt: skip
        ET.SubElement(element, "rendering", {
            "drawLabels": "1", "scaleVisibility": "1" if self.from_scale else "0",
            "scaleMax": str(self.from_scale), "scaleMin": "0", "obstacle": "1",
            # At 1, 13 % of the sample city's labels lay on another object at 1:1,000; at 2, none.
            "obstacleFactor": "2", "displayAll": "0", "upsidedownLabels": "0",
        })  # fmt: skip
        return element


def labelled(label: Label) -> ET.Element:
    """Return labels that are the same for all features."""
    element = ET.Element("labeling", type="simple")
    element.append(label.settings())
    return element


def labelled_by_rule(labels: Sequence[Label]) -> ET.Element:
    """Return labels for some features, or at some scales."""
    element = ET.Element("labeling", type="rule-based")
    rules = ET.SubElement(element, "rules", key="labels")
    for number, label in enumerate(labels):
        rule = ET.SubElement(rules, "rule", key=f"label-{number}", filter=label.where)
        if label.from_scale:
            rule.set("scalemaxdenom", str(label.from_scale))
        if label.to_scale:
            rule.set("scalemindenom", str(label.to_scale))
        rule.append(label.settings())
    return element


STEPS = 5
"""Number of shades of a graduated style."""

PALEST = 0.15
"""Share of the full colour in the first shade."""

FIGURES = 3
"""Significant figures of the class limits."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Rule of a renderer and entry of the legend; nested rules draw where all rules above hold."""

    label: str
    where: str
    """QGIS expression."""
    symbol: ET.Element | None = None
    """None: only the nested rules draw."""
    shown: bool = True
    """Whether it is ticked when the layer opens."""
    nested: tuple[Rule, ...] = ()


def graduated(
    value: str, values: NDArray[np.float64], color: str, missing: str
) -> tuple[Rule, ...]:
    """Return shades of a colour by quantiles of the values; grey where there is none.

    Args:
        value: QGIS expression, such as the quoted name of a column.
        values: its values; NaN where there is none.
        color: #RRGGBB of the highest class.
        missing: legend of features without a value.
    """
    known = values[~np.isnan(values)]
    limits = _limits(known[known > 0])
    rules = [
        Rule(missing, f"{value} IS NULL", area(NO_VALUE)),
        Rule("0", f"{value} = 0", area(WHITE)),
    ]
    edges = ["0", *(f"{limit:g}" for limit in limits)]
    for step, (low, high) in enumerate(pairwise(edges), start=1):
        where = f"{value} > {low} AND {value} <= {high}"
        rules.append(Rule(f"{low} - {high}", where, area(_shade(color, step / len(edges)))))
    rules.append(Rule(f"over {edges[-1]}", f"{value} > {edges[-1]}", area(color)))
    return tuple(rules)


def _limits(values: NDArray[np.float64]) -> list[float]:
    """Return the class limits; fewer where there are few values."""
    if not len(values):
        return []
    quantiles = np.quantile(values, np.arange(1, STEPS) / STEPS)
    rounded = {float(f"{value:.{FIGURES}g}") for value in quantiles}
    return sorted(limit for limit in rounded if limit < values.max())


def _shade(color: str, share: float) -> str:
    """Return a colour mixed with white."""
    return mixed(WHITE, color, PALEST + (1 - PALEST) * share)


def ruled(rules: Sequence[Rule], *more: ET.Element, labels: ET.Element | None = None) -> LayerStyle:
    """Return a style of rules, with labels and other elements."""
    renderer = ET.Element("renderer-v2", type="RuleRenderer", symbollevels="0")
    symbols = ET.Element("symbols")
    _add(ET.SubElement(renderer, "rules", key="root"), symbols, rules, "rule")
    renderer.append(symbols)
    labelled = () if labels is None else (labels,)
    return LayerStyle((renderer, *labelled, *more), {"labelsEnabled": str(len(labelled))})


def _add(parent: ET.Element, symbols: ET.Element, rules: Sequence[Rule], key: str) -> None:
    """Append rules to an element, and their symbols to ``symbols``."""
    for number, rule in enumerate(rules):
        own = f"{key}-{number}"
        attributes = {"key": own, "label": rule.label, "filter": rule.where}
        attributes["checkstate"] = "1" if rule.shown else "0"
        if rule.symbol is not None:
            attributes["symbol"] = str(len(symbols))
            symbols.append(_named(rule.symbol, attributes["symbol"]))
        _add(ET.SubElement(parent, "rule", attributes), symbols, rule.nested, own)


def _named(symbol: ET.Element, name: str) -> ET.Element:
    symbol = deepcopy(symbol)
    for part in symbol.iter("symbol"):  # markers inside are named after the symbol around them
        part.set("name", name if part is symbol else part.get("name", "").replace("@0", f"@{name}"))
    return symbol
