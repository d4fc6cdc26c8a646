"""The pictures of an explanation on the map."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsGeometry,
    QgsPointXY,
    QgsProject,
    QgsRasterLayer,
    QgsWkbTypes,
)
from qgis.gui import QgsMapCanvas, QgsRubberBand
from qgis.PyQt.QtGui import QColor, QImage

GROUP = "Explained here"
"""Name of the group of layers."""

OPACITY = 0.75
"""That of the viewer's page: the roof shows through."""


class ExplanationLayers:
    """Layers and outline of one explanation, until they are cleared.

    Args:
        canvas: the map.
    """

    def __init__(self, canvas: QgsMapCanvas) -> None:
        self._canvas = canvas
        self._ids: list[str] = []
        self._outline = QgsRubberBand(canvas, QgsWkbTypes.GeometryType.PolygonGeometry)
        self._outline.setFillColor(QColor(0, 0, 0, 0))
        self._outline.setWidth(2)
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
        project = QgsProject.instance()
        group = project.layerTreeRoot().insertGroup(0, GROUP)
        for n, (overlay, content) in enumerate(zip(answer["overlays"], pictures)):
            layer = self._layer(overlay, content, crs)
            layer.setName(f"{overlay['title']}: {answer['class']}")
            project.addMapLayer(layer, False)
            node = group.addLayer(layer)
            node.setItemVisibilityChecked(n == 0)
            node.setExpanded(False)  # the legend is in the panel
            self._ids.append(layer.id())
        outline = _geometry(answer["outline"])
        outline.transform(
            QgsCoordinateTransform(crs, self._canvas.mapSettings().destinationCrs(), project)
        )
        self._outline.setStrokeColor(QColor(color))
        self._outline.setToGeometry(outline, None)

    def clear(self) -> None:
        """Take layers and outline off the map."""
        project = QgsProject.instance()
        project.removeMapLayers([id_ for id_ in self._ids if project.mapLayer(id_)])
        self._ids = []
        root = project.layerTreeRoot()
        group = root.findGroup(GROUP)
        if group is not None and not group.children():
            root.removeChildNode(group)
        self._outline.reset(QgsWkbTypes.GeometryType.PolygonGeometry)

    def close(self) -> None:
        """Remove everything, files included."""
        self.clear()
        self._canvas.scene().removeItem(self._outline)
        self._files.cleanup()

    def _layer(
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
        options.skipCrsValidation = True  # or QGIS may ask for it
        layer = QgsRasterLayer(str(path), overlay["title"], "gdal", options)
        layer.setCrs(crs)
        layer.setOpacity(OPACITY)
        layer.setCustomProperty("skipMemoryLayersCheck", 1)  # no question when QGIS is closed
        return layer


def _geometry(outline: dict[str, Any]) -> QgsGeometry:
    """Return a polygon or multipolygon of GeoJSON, in whose CRS it stays."""
    parts = (
        outline["coordinates"] if outline["type"] == "MultiPolygon" else [outline["coordinates"]]
    )
    return QgsGeometry.fromMultiPolygonXY(
        [[[QgsPointXY(*point[:2]) for point in ring] for ring in part] for part in parts]
    )
