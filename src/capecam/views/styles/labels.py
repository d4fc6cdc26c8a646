"""Labels: an expression, and where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from capecam.views.styles.qml import rgba
from capecam.views.styles.symbols import DARK, LIGHT

PLACES = {"outside": "8", "centred": "1", "inside": "4"}
"""Names of ours for QGIS's numbers: outside of a polygon, on its middle, horizontal inside."""


@dataclass(frozen=True, slots=True)
class Label:
    """What stands at a feature."""

    text: str
    """QGIS expression."""
    place: str = "outside"
    size_pt: float = 8.0
    color: str = DARK
    halo: str | None = LIGHT
    from_scale: int = 0
    """Shown at 1:this and closer; 0 at every scale."""
    to_scale: int = 0
    """Shown at 1:this and further out; 0 at every scale."""
    where: str = ""
    """QGIS expression; empty for all features."""

    def settings(self) -> ET.Element:
        """As QGIS has it."""
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
            "placement": PLACES[self.place], "dist": "0.8" if self.place == "outside" else "0",
            "distUnits": "MM", "polygonPlacementFlags": "2", "priority": "5",
            "centroidInside": "1", "quadOffset": "4",
        })  # fmt: skip
        ET.SubElement(element, "rendering", {
            "drawLabels": "1", "scaleVisibility": "1" if self.from_scale else "0",
            "scaleMax": str(self.from_scale), "scaleMin": "0", "obstacle": "1",
            "obstacleFactor": "1", "displayAll": "0", "upsidedownLabels": "0",
        })  # fmt: skip
        return element


def labelled(label: Label) -> ET.Element:
    """One label for all features."""
    element = ET.Element("labeling", type="simple")
    element.append(label.settings())
    return element


def labelled_by_rule(labels: Sequence[Label]) -> ET.Element:
    """Labels for some features, or at some scales."""
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
