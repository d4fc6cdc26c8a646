"""QGIS project files, written without QGIS; QGIS 3.22 and later read them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

from capecam.views.palette import SELECTED_ALPHA, SELECTED_COLOR, rgb
from capecam.views.styles.qml import VERSION, LayerStyle, options

ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""Earliest time of a zip member, so that the bytes do not depend on the time of writing."""

INSIDE = "capecam.qgs"

MARGIN = 0.03
"""Margin around the data, as a share of its extent."""

Bounds = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class MapLayer:
    """Layer of the layer tree."""

    key: str
    """Unique in the project; part of ``id``."""
    name: str
    source: str
    """File beside the project; for a GeoPackage with ``|layername=`` and ``|subset=``."""
    abstract: str
    """Description of the layer and how to read it."""
    style: LayerStyle
    others: Mapping[str, LayerStyle] = field(default_factory=dict)
    """Further styles by name, for the user to choose."""
    ticked: bool = True
    """Whether it is ticked in its group; it is visible if the group is ticked, too."""
    legend: Mapping[str, str] = field(default_factory=dict)
    """Properties of its entries in legends, by the names of QGIS."""
    attribution: str = ""
    """Whose data it shows."""

    @property
    def id(self) -> str:
        """Return the id; QGIS replaces ids of 10 letters or fewer."""
        return f"capecam_{self.key}"

    @property
    def vector(self) -> bool:
        """Return whether it is a vector layer, not a raster."""
        return self.source.split("|")[0].endswith(".gpkg")

    @property
    def provider(self) -> str:
        """Return the name of the QGIS data provider."""
        return "ogr" if self.vector else "gdal"


@dataclass(frozen=True, slots=True)
class Group:
    """Layers of one theme."""

    name: str
    layers: tuple[MapLayer, ...]
    ticked: bool = False
    exclusive: bool = False
    """Ticking one of its layers unticks the others."""

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError(f"the group {self.name!r} has no layer")


@dataclass(frozen=True, slots=True)
class Theme:
    """Layers that are shown together, for the user to choose by name."""

    name: str
    layers: frozenset[str]
    """Ids."""


@dataclass(frozen=True, slots=True)
class Project:
    """Contents of a project file."""

    title: str
    abstract: str
    created: str
    """ISO time of what it shows; empty if that is not known."""
    crs: str
    """WKT."""
    bounds: Bounds
    """Bounds of the data: left, bottom, right, top."""
    groups: tuple[Group, ...]
    """The topmost first, in the legend and on the map."""
    themes: tuple[Theme, ...]
    layouts: tuple[ET.Element, ...]
    """Print layouts, as QGIS stores them."""

    @property
    def layers(self) -> list[MapLayer]:
        """Return all layers, the topmost first."""
        return [layer for group in self.groups for layer in group.layers]


def write_project(path: Path, project: Project) -> None:
    """Write the ``.qgz``; the same project gives the same bytes."""
    root = to_element(project)
    ET.indent(root, " ")
    text = "<!DOCTYPE qgis>\n" + ET.tostring(root, encoding="unicode") + "\n"
    entry = zipfile.ZipInfo(INSIDE, ZIP_TIME)
    entry.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(entry, text.encode())


def to_element(project: Project) -> ET.Element:
    """Return the document of the ``.qgs`` in the archive."""
    root = ET.Element("qgis", version=VERSION, projectname=project.title)
    ET.SubElement(root, "homePath", path="")
    ET.SubElement(root, "title").text = project.title
    ET.SubElement(root, "projectCrs").append(_crs(project.crs))
    root.append(_tree(project.groups))
    root.append(_canvas(project))
    layers = ET.SubElement(root, "projectlayers")
    order = ET.SubElement(root, "layerorder")
    for group in project.groups:
        for layer in group.layers:
            layers.append(_map_layer(layer, f"{group.name}: {layer.name}", project.crs))
            ET.SubElement(order, "layer", id=layer.id)
    root.append(_properties())
    root.append(_presets(project))
    root.append(_metadata(project))
    ET.SubElement(root, "Layouts").extend(project.layouts)
    view = ET.SubElement(root, "ProjectViewSettings", UseProjectScales="0")
    names = ("xmin", "ymin", "xmax", "ymax")
    extent = dict(zip(names, map(repr, _with_margin(project.bounds)), strict=True))
    ET.SubElement(view, "DefaultViewExtent", extent).append(_crs(project.crs))
    return root


def _crs(wkt: str) -> ET.Element:
    """Return a CRS by its parameters only: QGIS would look up a code, and some files have a wrong
    one."""
    element = ET.Element("spatialrefsys")
    ET.SubElement(element, "wkt").text = wkt
    return element


def _tree(groups: Sequence[Group]) -> ET.Element:
    root = ET.Element("layer-tree-group")
    for group in groups:
        attributes = {"name": group.name, **_state(group.ticked)}
        if group.exclusive:
            first = next((n for n, entry in enumerate(group.layers) if entry.ticked), -1)
            attributes |= {"mutually-exclusive": "1", "mutually-exclusive-child": str(first)}
        element = ET.SubElement(root, "layer-tree-group", attributes)
        for layer in group.layers:
            element.append(tree_layer(layer))
    return root


def tree_layer(layer: MapLayer) -> ET.Element:
    """Return the entry of a layer in a layer tree, such as that of a legend."""
    element = ET.Element("layer-tree-layer", {
        "id": layer.id, "name": layer.name, "source": f"./{layer.source}",
        "providerKey": layer.provider, **_state(layer.ticked),
    })  # fmt: skip
    ET.SubElement(element, "customproperties").append(options(layer.legend))
    return element


def _state(ticked: bool) -> dict[str, str]:
    """Return the attributes of a ticked or unticked entry; ticked entries are expanded."""
    return {"checked": "Qt::Checked" if ticked else "Qt::Unchecked", "expanded": str(int(ticked))}


def _canvas(project: Project) -> ET.Element:
    """Return the map canvas that QGIS shows at first."""
    canvas = ET.Element("mapcanvas", name="theMapCanvas", annotationsVisible="1")
    canvas.append(_extent(_with_margin(project.bounds)))
    ET.SubElement(canvas, "rotation").text = "0"
    ET.SubElement(canvas, "destinationsrs").append(_crs(project.crs))
    return canvas


def _extent(bounds: Bounds) -> ET.Element:
    element = ET.Element("extent")
    for name, value in zip(("xmin", "ymin", "xmax", "ymax"), bounds, strict=True):
        ET.SubElement(element, name).text = repr(value)
    return element


def _with_margin(bounds: Bounds) -> Bounds:
    left, bottom, right, top = bounds
    space = MARGIN * max(right - left, top - bottom)
    return left - space, bottom - space, right + space, top + space


def _map_layer(layer: MapLayer, title: str, crs: str) -> ET.Element:
    element = ET.Element("maplayer", type="vector" if layer.vector else "raster")
    if layer.vector:
        element.set("geometry", "Polygon")
        element.set("simplifyDrawingHints", "1")
    for name, text in (
        ("id", layer.id), ("datasource", f"./{layer.source}"), ("layername", layer.name),
        ("abstract", layer.abstract),
    ):  # fmt: skip
        ET.SubElement(element, name).text = text
    ET.SubElement(element, "srs").append(_crs(crs))
    metadata = ET.SubElement(element, "resourceMetadata")
    ET.SubElement(metadata, "title").text = title
    ET.SubElement(metadata, "abstract").text = layer.abstract
    if layer.attribution:
        ET.SubElement(metadata, "rights").text = layer.attribution
    ET.SubElement(element, "provider", encoding="UTF-8").text = layer.provider
    manager = ET.SubElement(element, "map-layer-style-manager", current="default")
    ET.SubElement(manager, "map-layer-style", name="default")
    for name, style in layer.others.items():
        ET.SubElement(manager, "map-layer-style", name=name).append(style.to_element())
    return layer.style.put_on(element)


def _presets(project: Project) -> ET.Element:
    """Return the themes; a group is ticked if one of its layers is shown.

    QGIS ticks the layers that a theme lists. Those of other groups are listed, too, so that ticking
    such a group shows something, as when the project was opened.
    """
    element = ET.Element("visibility-presets")
    for theme in project.themes:
        preset = ET.SubElement(element, "visibility-preset", {
            "name": theme.name, "has-checked-group-info": "1", "has-expanded-info": "0",
        })  # fmt: skip
        checked = ET.Element("checked-group-nodes")
        for group in project.groups:
            shown = [layer for layer in group.layers if layer.id in theme.layers]
            for layer in shown or [entry for entry in group.layers if entry.ticked]:
                ET.SubElement(
                    preset, "layer", id=layer.id, style="default", visible=str(int(bool(shown)))
                )
            if shown:
                ET.SubElement(checked, "checked-group-node", id=group.name)
        preset.append(checked)
    return element


def _metadata(project: Project) -> ET.Element:
    element = ET.Element("projectMetadata")
    for name, text in (
        ("title", project.title), ("abstract", project.abstract), ("author", "capecam"),
        ("creation", project.created),
    ):  # fmt: skip
        ET.SubElement(element, name).text = text
    return element


def _properties() -> ET.Element:
    """Return settings of the project; without a colour of its own, what is selected is white."""
    element = ET.Element("properties")
    channels = dict(zip(("Red", "Green", "Blue"), rgb(SELECTED_COLOR), strict=True))
    for section, values in {
        "SpatialRefSys": {"ProjectionsEnabled": ("int", "1")},
        "Paths": {"Absolute": ("bool", "false")},
        "Gui": {
            f"SelectionColor{name}Part": ("int", str(value))
            for name, value in (channels | {"Alpha": SELECTED_ALPHA}).items()
        },
        "PAL": {
            "PlacementEngineVersion": ("int", "1"),
            "ShowingPartialsLabels": ("bool", "false"),  # no half of a label at the map's edge
        },
    }.items():
        group = ET.SubElement(element, section)
        for name, (kind, value) in values.items():
            ET.SubElement(group, name, type=kind).text = value
    return element
