"""What polygons are drawn with."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree as ET

from capecam.views.styles.qml import options, rgba

OUTLINE = "#505050"

LIGHT, DARK = "#FFFFFF", "#1A1A1A"


@dataclass(frozen=True, slots=True)
class Width:
    """Of a line that grows with the map, between two limits.

    In units of the map: for those in metres QGIS asks the ellipsoid at each feature, and 40,000
    take it 2.5 s instead of 1.8 (3.22, one core). A map in degrees has the upper limit.
    """

    ground: float
    least_mm: float
    most_mm: float

    def options(self, name: str) -> dict[str, str]:
        """As options of the line."""
        return {
            name: f"{self.ground:g}",
            f"{name}_unit": "MapUnit",
            "width_map_unit_scale": f"3x:0,0,1,{self.least_mm:g},1,{self.most_mm:g}",
        }


CORE, CASING = Width(0.25, 0.3, 0.5), Width(0.45, 0.4, 0.95)
"""Of outlines: about 2 and 4 px on a screen, and less where objects become dots."""


def area(color: str, alpha: int = 200, pattern: str = "solid") -> ET.Element:
    """A fill with a thin grey outline."""
    facts = {
        "color": rgba(color, alpha), "outline_color": rgba(OUTLINE), "style": pattern,
        "outline_style": "solid", "outline_width": "0.2", "outline_width_unit": "MM",
    }  # fmt: skip
    return symbol("fill", layer("SimpleFill", facts))


def outlined(color: str, *, dash: bool = False, alpha: int = 50) -> ET.Element:
    """An outline with a casing, which is seen on any roof, and a breath of the colour inside."""
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


def marked(color: str, size_mm: float, to_scale: int) -> ET.Element:
    """:func:`outlined`, and a disc on top while the map is at 1:``to_scale`` or further out."""
    disc = {
        "name": "circle", "color": rgba(color, 235), "size": f"{size_mm:g}", "size_unit": "MM",
        "outline_color": rgba(LIGHT), "outline_width": "0.4", "outline_width_unit": "MM",
    }  # fmt: skip
    centre = layer("CentroidFill", {"point_on_surface": "1", "point_on_all_parts": "0"})
    centre.append(_only_where("enabled", f"@map_scale > {to_scale}"))
    centre.append(symbol("marker", layer("SimpleMarker", disc), name="@0@3"))
    found = outlined(color, dash=True, alpha=0)
    found.append(centre)
    return found


def symbol(kind: str, *layers: ET.Element, name: str = "0") -> ET.Element:
    """Layers from the lowest to the topmost."""
    element = ET.Element("symbol", type=kind, name=name, alpha="1", clip_to_extent="1")
    element.extend(layers)
    return element


def layer(kind: str, facts: dict[str, str]) -> ET.Element:
    """One of the layers of a symbol; what is not named is as QGIS has it."""
    element = ET.Element("layer", {"class": kind, "enabled": "1", "locked": "0", "pass": "0"})
    element.append(options(facts))
    return element


def _only_where(name: str, expression: str) -> ET.Element:
    """A property that depends on the map."""
    element = ET.Element("data_defined_properties")
    top = ET.SubElement(element, "Option", type="Map")
    ET.SubElement(top, "Option", type="QString", name="name", value="")
    properties = ET.SubElement(top, "Option", type="Map", name="properties")
    entry = ET.SubElement(properties, "Option", type="Map", name=name)
    ET.SubElement(entry, "Option", type="bool", name="active", value="true")
    ET.SubElement(entry, "Option", type="QString", name="expression", value=expression)
    ET.SubElement(entry, "Option", type="int", name="type", value="3")  # an expression
    ET.SubElement(top, "Option", type="QString", name="type", value="collection")
    return element


def _against(color: str) -> str:
    """What sets off a colour: by its luminance (ITU-R BT.709)."""
    red, green, blue = bytes.fromhex(color[1:])
    return DARK if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 100 else LIGHT
