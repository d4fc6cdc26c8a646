"""Print layout of the review queue: an atlas with a page for each object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from xml.etree import ElementTree as ET

from capecam.detections.object_columns import OBJECT_COLUMNS
from capecam.views.qgis.project import Bounds, MapLayer, tree_layer
from capecam.views.styles.columns import DETECTION, EVIDENCE_SENTENCE, shown
from capecam.views.styles.vector_styles import expressions

NAME = "Review queue"

PAGE_MM = (297.0, 210.0)
MAP_MM, LEFT_MM, TOP_MM, GAP_MM = 108.0, 10.0, 24.0, 4.0
"""Edge of a map, corner of the left one, and space between items."""

LARGEST = 250
"""Denominator of the scale of most pages: a map shows 27 m."""

SPACE = 1.6
"""Edge of a map, as a multiple of a large object."""

REVIEW, EXPLAIN = "Review", "Explain"
"""Themes that the maps show; the right one that of the object's class, which has its name."""

ITEM = {
    "page": 65638, "map": 65639, "label": 65641, "legend": 65642, "scale bar": 65646,
}  # fmt: skip
"""Types of items (QgsLayoutItemRegistry)."""

NUMBERS = {
    column: DETECTION[column] for column in ("confidence", "p_right", "rival_in", *OBJECT_COLUMNS)
}

VERDICT = """Verdict     [    ] right     [    ] wrong     [    ] unsure

True class  ________________________

Note  ______________________________

Who, when  _________________________"""

Box = tuple[float, float, float, float]
"""Left, top, width and height in mm."""


def review_pages(
    queue: MapLayer,
    explanation: MapLayer | None,
    *,
    bounds: Bounds,
    metres: float,
    footer: str,
) -> ET.Element:
    """Return the layout: imagery, explanation and numbers of an object, and room for a verdict.

    Args:
        queue: layer with an object a page.
        explanation: one of the layers that the right map shows; None: there is no such map.
        bounds: of the data.
        metres: length of a unit of the CRS.
        footer: text at the bottom of each page.
    """
    layout = ET.Element("Layout", name=NAME, units="mm", printResolution="200")
    pages = ET.SubElement(layout, "PageCollection")
    pages.append(_item("page", (0, 0, *PAGE_MM), "page"))
    boxes = [(LEFT_MM + n * (MAP_MM + GAP_MM), TOP_MM, MAP_MM, MAP_MM) for n in range(2)]
    maps, legend = {"Imagery": f"'{REVIEW}'"}, {"Evidence": queue}
    if explanation is not None:
        maps["Explanation"] = f"""'{EXPLAIN}, ' || "class\""""
        legend["Explanation"] = explanation
    for (name, theme), box in zip(maps.items(), boxes, strict=False):
        layout.append(_map(name, box, theme, bounds, metres))
        layout.append(_label(f"title of {name}", _above(box), name, 9, bold=True))
        layout.append(_scale_bar(box, name))
    side = LEFT_MM + 2 * (MAP_MM + GAP_MM)
    layout.append(_legend((side, TOP_MM, PAGE_MM[0] - side - 5, 90), legend))
    title = f"""[% "review" %]  [% "class" %], {shown("area_m2", 1)} m²"""
    layout.append(_label("object", (LEFT_MM, 8, 200, 8), title, 15, bold=True))
    count = "Page [% @atlas_featurenumber %] of [% @atlas_totalfeatures %]"
    layout.append(_label("page number", (227, 8, 60, 8), count, 9, align="right"))
    below = TOP_MM + MAP_MM + GAP_MM
    names, values = "\n".join(NUMBERS.values()), "\n".join(map(shown, NUMBERS))
    layout.append(_label("names of numbers", (LEFT_MM, below, 78, 60), names, 8))
    layout.append(_label("numbers", (LEFT_MM + 78, below, 20, 60), values, 8, align="right"))
    about = (
        f"Evidence: [% {EVIDENCE_SENTENCE} %]\nRival class: [% coalesce(\"rival\", '–') %]\n\n"
        f'Object [% "id" %]\n{shown("lat", 6)}°, {shown("lon", 6)}°\nImages: [% "images" %]'
    )
    layout.append(_label("evidence and location", (boxes[1][0], below, 80, 60), about, 8))
    layout.append(_label("verdict", (side - 28, below, 80, 60), VERDICT, 9))
    layout.append(_label("footer", (LEFT_MM, 200, 277, 6), footer, 7))
    ET.SubElement(layout, "Atlas", {
        "enabled": "1", "coverageLayer": queue.id, "coverageLayerName": queue.name,
        "coverageLayerProvider": queue.provider, "coverageLayerSource": f"./{queue.source}",
        "hideCoverage": "0", "sortFeatures": "1", "sortKey": '"review"', "sortAscending": "1",
        "filterFeatures": "0", "pageNameExpression": '"id"',
        "filenamePattern": "'review-' || lpad(\"review\", 4, '0')",
    })  # fmt: skip
    return layout


def _item(kind: str, box: Box, key: str, **attributes: str) -> ET.Element:
    """Return an item of the page; its key is unique."""
    left, top, width, height = box
    place, size = f"{left:g},{top:g},mm", f"{width:g},{height:g},mm"
    return ET.Element("LayoutItem", {
        "type": str(ITEM[kind]), "uuid": f"{{{key}}}", "templateUuid": f"{{{key}}}", "id": key,
        "position": place, "positionOnPage": place, "size": size, "referencePoint": "0",
        "visibility": "1", "opacity": "1", "background": "false", "frame": "false", **attributes,
    })  # fmt: skip


def _above(box: Box) -> Box:
    left, top, width, _ = box
    return left, top - 6, width, 6


def _map(key: str, box: Box, theme: str, bounds: Bounds, metres: float) -> ET.Element:
    """Return a map around the object of the page.

    Args:
        key: name of the item.
        box: place on the page.
        theme: QGIS expression of the theme that it shows.
        bounds: extent until there is an object.
        metres: length of a unit of the CRS.
    """
    element = _item("map", box, key, frame="true", followPreset="true")
    size = "max(bounds_width(@atlas_geometry), bounds_height(@atlas_geometry))"
    large = f"{SPACE * 1000 * metres / MAP_MM!r} * {size}"
    scale = f"50 * ceil(max({LARGEST}, coalesce({large}, 0)) / 50)"
    properties = {"dataDefinedMapStylePreset": theme, "dataDefinedMapScale": scale}
    ET.SubElement(element, "LayoutObject").append(expressions(properties, "dataDefinedProperties"))
    left, bottom, right, top = bounds
    x, y, half = (left + right) / 2, (bottom + top) / 2, max(right - left, top - bottom) / 2
    square = (x - half, y - half, x + half, y + half)  # the map would take the shape of its extent
    corners = zip(("xmin", "ymin", "xmax", "ymax"), map(repr, square), strict=True)
    ET.SubElement(element, "Extent", dict(corners))
    ET.SubElement(element, "AtlasMap", atlasDriven="1", scalingMode="0", margin="0.1")
    return element


def _scale_bar(box: Box, of_map: str) -> ET.Element:
    """Return a scale bar of 10 m in the corner of a map."""
    left, top, _, height = box
    place = (left + 1.5, top + height - 11.5, 45.0, 10.0)
    element = _item("scale bar", place, f"scale of {of_map}", background="true")
    for name, value in {
        "mapUuid": f"{{{of_map}}}", "style": "Single Box", "unitType": "meters", "unitLabel": "m",
        "numMapUnitsPerScaleBarUnit": "1", "numSegments": "2", "numSegmentsLeft": "0",
        "numUnitsPerSegment": "5", "segmentSizeMode": "0", "height": "1.5", "labelBarSpace": "1",
        "boxContentSpace": "1", "outlineWidth": "0.2",
    }.items():  # fmt: skip
        element.set(name, value)
    ET.SubElement(element, "text-style", fontSize="7", fontSizeUnit="Point", textColor="0,0,0,255")
    return element


def _label(
    key: str, box: Box, text: str, size_pt: int, *, bold: bool = False, align: str = "left"
) -> ET.Element:
    """Return a text, in which QGIS expressions stand between ``[%`` and ``%]``."""
    codes = {"left": "1", "right": "2"}
    element = _item(
        "label", box, key, labelText=text, htmlState="0", valign="32", halign=codes[align]
    )
    weight = 75 if bold else 50
    ET.SubElement(element, "LabelFont", description=f"Sans Serif,{size_pt},-1,5,{weight},0,0,0,0,0")
    return element


def _legend(box: Box, layers: Mapping[str, MapLayer]) -> ET.Element:
    """Return the legend of some layers, under other names."""
    element = _item(
        "legend", box, "legend", map_uuid="{Imagery}", resizeToContents="1", columnCount="1",
        symbolWidth="6", symbolHeight="3.5", title="",
    )  # fmt: skip
    styles = ET.SubElement(element, "styles")
    for name, size, margin in (
        ("title", 9, "0"), ("group", 9, "2"), ("subgroup", 9, "2"), ("symbol", 8, "1.5"),
        ("symbolLabel", 8, "1"),
    ):  # fmt: skip
        style = ET.SubElement(styles, "style", name=name, marginTop=margin, alignment="1")
        if name == "symbolLabel":
            style.set("marginLeft", "2")
        weight = 75 if name == "subgroup" else 50
        ET.SubElement(style, "styleFont", description=f"Sans Serif,{size},-1,5,{weight},0,0,0,0,0")
    tree = ET.SubElement(element, "layer-tree-group")
    for title, layer in layers.items():
        tree.append(
            tree_layer(replace(layer, legend={**layer.legend, "legend/title-label": title}))
        )
    return element
