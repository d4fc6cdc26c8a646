"""The plugin in real QGIS: the program behind qgis_plugin.py, run by the Python of QGIS.

The argument is a folder into which the zip of the plugin was unpacked. Each line of standard input
is a call, ``[name, arguments]``, of a method of ``Steps``; a line of standard output is its answer.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

os.environ["QT_QPA_PLATFORM"] = "offscreen"

import qgis.utils
from qgis.core import (
    QgsApplication,
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsFeatureRequest,
    QgsMapLayer,
    QgsProcessingException,
    QgsProcessingFeatureSourceDefinition,
    QgsProcessingFeedback,
    QgsProject,
    QgsRectangle,
    QgsVectorLayer,
)
from qgis.gui import QgsLayerTreeMapCanvasBridge, QgsMapCanvas
from qgis.PyQt.QtCore import QPoint, Qt, QThread
from qgis.PyQt.QtTest import QTest
from qgis.PyQt.QtWidgets import QMainWindow, QTextBrowser

PLUGIN = "capecam_qgis"
PATIENCE_S = 120


class Window:
    """The part of QgisInterface that the plugin uses: a real window with a real map."""

    def __init__(self) -> None:
        self.window, self.canvas = QMainWindow(), QgsMapCanvas()
        self.window.resize(1200, 800)
        self.window.setCentralWidget(self.canvas)
        self.toolbar = self.window.addToolBar("plugins")
        self.bridge = QgsLayerTreeMapCanvasBridge(
            QgsProject.instance().layerTreeRoot(), self.canvas
        )
        self.removeDockWidget = self.window.removeDockWidget
        self.addToolBarIcon = self.toolbar.addAction
        self.removeToolBarIcon = self.toolbar.removeAction

    def mainWindow(self) -> QMainWindow:
        return self.window

    def mapCanvas(self) -> QgsMapCanvas:
        return self.canvas

    def addDockWidget(self, *given: Any) -> None:
        self.window.addDockWidget(*given)

    def addPluginToMenu(self, *_: Any) -> None:
        """Nothing: there is no menu."""

    def removePluginMenu(self, *_: Any) -> None:
        """Nothing."""


class Feedback(QgsProcessingFeedback):
    """Keeps what an algorithm says; cancels it once it says something.

    Args:
        cancel_at: words.
    """

    def __init__(self, cancel_at: str | None) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.cancel_at = cancel_at

    def _keep(self, line: str) -> None:
        self.lines.append(line)
        if self.cancel_at and self.cancel_at in line:
            self.cancel()

    def pushInfo(self, info: str) -> None:
        self._keep(info)

    def pushWarning(self, warning: str) -> None:
        self._keep(warning)

    def pushConsoleInfo(self, info: str) -> None:
        self._keep(info)

    def setProgressText(self, text: str) -> None:
        self._keep(text)

    def reportError(self, error: str, _: bool = False) -> None:
        self._keep(error)


class Steps:
    """What tests do in QGIS."""

    def __init__(self, plugins: str) -> None:
        self.window = qgis.utils.iface = Window()
        qgis.utils.plugin_paths = [plugins]
        sys.path.insert(0, plugins)
        qgis.utils.updateAvailablePlugins()
        self._load()
        self.window.window.show()
        self._wait(lambda: self.window.canvas.width() > 200)

    def _load(self) -> None:
        assert qgis.utils.loadPlugin(PLUGIN)
        assert qgis.utils.startPlugin(PLUGIN)

    def command(self, path: str) -> None:
        """Set the provider's setting."""
        from processing.core.ProcessingConfig import ProcessingConfig  # noqa: PLC0415 see main

        ProcessingConfig.setSettingValue("CAPECAM_COMMAND", path)

    def run(
        self, algorithm: str, parameters: dict[str, Any], cancel_at: str | None = None
    ) -> dict[str, Any]:
        """Run an algorithm, and load its results as the dialog does."""
        from processing.core.Processing import Processing  # noqa: PLC0415 see main
        from processing.gui.Postprocessing import handleAlgorithmResults  # noqa: PLC0415

        feedback = Feedback(cancel_at)
        given = {name: self._value(value) for name, value in parameters.items()}
        try:
            results = Processing.runAlgorithm(algorithm, given, handleAlgorithmResults, feedback)
        except QgsProcessingException as error:
            return {"error": str(error), "log": feedback.lines}
        return {"results": results, "log": feedback.lines}

    def _value(self, value: Any) -> Any:
        """Return the value of a parameter; ``{"selected": PATH}`` is the first feature of a copy of
        a layer in memory."""
        if not isinstance(value, dict):
            return value
        layer = QgsVectorLayer(value["selected"], "", "ogr").materialize(QgsFeatureRequest())
        QgsProject.instance().addMapLayer(layer, False)
        layer.select(next(layer.getFeatures()).id())
        return QgsProcessingFeatureSourceDefinition(layer.id(), selectedFeaturesOnly=True)

    def layers(self) -> list[dict[str, Any]]:
        """Return the layers of the project, from the top."""
        return [
            {
                "name": node.name(),
                "source": node.layer().source(),
                "is_visible": node.isVisible(),
                "style": renderer.type() if (renderer := node.layer().renderer()) else None,
            }
            for node in QgsProject.instance().layerTreeRoot().findLayers()
        ]

    def forget_layers(self) -> None:
        """Begin with an empty project."""
        QgsProject.instance().clear()

    def click(self, address: str, x: float, y: float, wkt: str, crs: str) -> dict[str, Any]:
        """Click with the tool on a map in another CRS than the place; return what is to be seen."""
        canvas, plugin = self.window.canvas, qgis.utils.plugins[PLUGIN]
        canvas.setDestinationCrs(QgsCoordinateReferenceSystem(crs))
        source = QgsCoordinateReferenceSystem.fromWkt(wkt)
        way = QgsCoordinateTransform(
            source, canvas.mapSettings().destinationCrs(), QgsProject.instance()
        )
        box = way.transformBoundingBox(QgsRectangle(x - 8, y - 8, x + 8, y + 8))
        canvas.setExtent(box)
        (text,) = self.window.window.findChildren(QTextBrowser)
        plugin._panel._address.setText(address)
        self.window.toolbar.actions()[0].trigger()
        place = canvas.getCoordinateTransform().transform(box.center())
        QTest.mouseClick(
            canvas.viewport(), Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier,
            QPoint(round(place.x()), round(place.y())),
        )  # fmt: skip
        self._wait(lambda: "Explaining" not in text.toPlainText())
        layers = QgsProject.instance().mapLayers().values()
        return {
            "text": text.toPlainText(),
            "layers": {layer.name(): self._extent(layer, source) for layer in layers},
        }

    def _extent(self, layer: QgsMapLayer, crs: QgsCoordinateReferenceSystem) -> list[float]:
        way = QgsCoordinateTransform(layer.crs(), crs, QgsProject.instance())
        box = way.transformBoundingBox(layer.extent())
        return [box.xMinimum(), box.yMinimum(), box.xMaximum(), box.yMaximum()]

    def unload(self) -> list[str]:
        """Unload the plugin, and load it again; return what was left of it meanwhile."""
        assert qgis.utils.unloadPlugin(PLUGIN)
        providers = QgsApplication.processingRegistry().providers()
        left = [
            *(provider.id() for provider in providers if provider.id() == "capecam"),
            *(action.text() for action in self.window.toolbar.actions()),
            *(layer.name() for layer in QgsProject.instance().mapLayers().values()),
        ]
        self._load()
        return left

    def _wait(self, condition: Any) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            QgsApplication.processEvents()
            QThread.msleep(10)


def main() -> None:
    application = QgsApplication([], True)
    application.initQgis()
    sys.path.append(f"{application.pkgDataPath()}/python/plugins")
    from processing.core.Processing import Processing  # noqa: PLC0415 found just now

    Processing.initialize()
    steps = Steps(sys.argv[1])
    print(json.dumps("started"), flush=True)
    for line in sys.stdin:
        name, given = json.loads(line)
        print(json.dumps(getattr(steps, name)(**given)), flush=True)
    os._exit(0)  # without the destructors of offscreen Qt


if __name__ == "__main__":
    main()
