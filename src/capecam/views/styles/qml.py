"""A style as QGIS writes it down: the same elements in a project, a ``.qml`` and a GeoPackage."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

VERSION = "3.22"
"""Of the QGIS whose format this is; later ones read it."""

EVERY_SCALE = 100_000_000


@dataclass(frozen=True, slots=True)
class LayerStyle:
    """What a layer looks like."""

    elements: tuple[ET.Element, ...]
    """``renderer-v2``, ``labeling``, ``pipe`` ..."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Of the element that holds them."""
    from_scale: int | None = None
    """Shown at 1:this and closer; None: from the farthest on."""
    to_scale: int | None = None
    """Shown at 1:this and further out; None: to the closest."""

    def __post_init__(self) -> None:
        for scale in (self.from_scale, self.to_scale):
            if scale is not None and scale < 1:
                raise ValueError(f"a scale is 1:N with N from 1 on, got {scale}")

    def put_on(self, element: ET.Element) -> ET.Element:
        """Style a ``maplayer`` or ``qgis`` element, and return it."""
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
        """As a document of its own."""
        return self.put_on(ET.Element("qgis", version=VERSION))

    def to_qml(self) -> str:
        """The text of a ``.qml`` file."""
        root = self.to_element()
        ET.indent(root, " ")
        return "<!DOCTYPE qgis>\n" + ET.tostring(root, encoding="unicode") + "\n"


def options(values: Mapping[str, str]) -> ET.Element:
    """What QGIS keeps as a map of strings."""
    element = ET.Element("Option", type="Map")
    for name, value in values.items():
        ET.SubElement(element, "Option", type="QString", name=name, value=value)
    return element


def rgba(color: str, alpha: int = 255) -> str:
    """#RRGGBB as symbols have it: ``255,0,0,255``."""
    red, green, blue = bytes.fromhex(color[1:])
    return f"{red},{green},{blue},{alpha}"
