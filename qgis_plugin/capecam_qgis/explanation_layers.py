"""The pictures of an explanation on the map."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsFeature,
    QgsFillSymbol,
    QgsGeometry,
    QgsPointXY,
    QgsProject,
    QgsRasterLayer,
    QgsVectorLayer,
)
from qgis.PyQt.QtGui import QImage

GROUP, OUTLINE = "Explained here", "outline"
"""Names of the group of layers, and of one of them; the others are named by the server."""

OPACITY = 0.75
"""That of the viewer's page: the roof shows through."""

UNASKED = ("skipMemoryLayersCheck", 1)
"""Property of layers for which QGIS does not ask whether to save them."""


class ExplanationLayers:
    """The layers of one explanation: pictures, and the outline of the object."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._files = TemporaryDirectory(prefix="capecam-qgis-")
        self._count = 0

    def show(
        self,
        answer: dict[str, Any],
        pictures: list[bytes],
        crs: QgsCoordinateReferenceSystem,
        color: str,
    ) -> None:
        """Show an explanation in place of the one before.

        Args:
            answer: of the server.
            pictures: PNGs of its overlays, in their order.
            crs: of the run.
            color: of the class, #RRGGBB.
        """
        self.clear()
        overlays = answer["overlays"]
        layers = [
            _outline(answer["outline"], crs, color),
            *(self._picture(*pair, crs) for pair in zip(overlays, pictures)),
        ]
        shown = (OUTLINE, overlays[0]["title"])  # in as many pictures as the object has parts
        project = QgsProject.instance()
        group = project.layerTreeRoot().insertGroup(0, GROUP)
        for layer in layers:
            project.addMapLayer(layer, False)
            node = group.addLayer(layer)
            node.setItemVisibilityChecked(layer.name() in shown)
            node.setExpanded(False)  # the legend is in the panel
            self._ids.append(layer.id())

    def clear(self) -> None:
        """Take the layers off the map, also those that an earlier session has saved in a project:
        their files are gone."""
        project = QgsProject.instance()
        root = project.layerTreeRoot()
        group = root.findGroup(GROUP)
        saved = [] if group is None else group.findLayerIds()
        project.removeMapLayers([id_ for id_ in {*self._ids, *saved} if project.mapLayer(id_)])
        self._ids = []
        if group is not None and not group.children():
            root.removeChildNode(group)

    def close(self) -> None:
        """Remove everything, files included."""
        self.clear()
        self._files.cleanup()

    def _picture(
        self, overlay: dict[str, Any], content: bytes, crs: QgsCoordinateReferenceSystem
    ) -> QgsRasterLayer:
        """Return a layer of a temporary PNG with a world file."""
        self._count += 1  # GDAL may still hold a file of the explanation before
        path = Path(self._files.name) / f"{self._count}.png"
        path.write_bytes(content)
        image = QImage.fromData(content, "PNG")
        west, south, east, north = overlay["extent"]
        x, y = (east - west) / image.width(), (north - south) / image.height()
        world = (x, 0, 0, -y, west + x / 2, north - y / 2)
        path.with_suffix(".pgw").write_text("\n".join(f"{number:.12g}" for number in world))
        options = QgsRasterLayer.LayerOptions()
        options.skipCrsValidation = True  # or QGIS may ask for the CRS
        layer = QgsRasterLayer(str(path), overlay["title"], "gdal", options)
        layer.setCrs(crs)
        layer.setOpacity(OPACITY)
        layer.setCustomProperty(*UNASKED)
        return layer


def _outline(
    outline: dict[str, Any], crs: QgsCoordinateReferenceSystem, color: str
) -> QgsVectorLayer:
    """Return a layer in memory with a polygon or multipolygon of GeoJSON, in the CRS of the run."""
    coordinates = outline["coordinates"]
    parts = coordinates if outline["type"] == "MultiPolygon" else [coordinates]
    feature = QgsFeature()
    feature.setGeometry(
        QgsGeometry.fromMultiPolygonXY(
            [[[QgsPointXY(*point[:2]) for point in ring] for ring in part] for part in parts]
        )
    )
    options = QgsVectorLayer.LayerOptions()
    options.skipCrsValidation = True  # as above
    layer = QgsVectorLayer("MultiPolygon", OUTLINE, "memory", options)
    layer.setCrs(crs)
    layer.dataProvider().addFeature(feature)
    layer.updateExtents()
    line = {"style": "no", "outline_color": color, "outline_width": "0.6"}
    layer.renderer().setSymbol(QgsFillSymbol.createSimple(line))
    layer.setCustomProperty(*UNASKED)
    return layer
