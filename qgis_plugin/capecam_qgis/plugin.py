"""What QGIS loads: the provider of Processing, and the map tool."""

from __future__ import annotations

from qgis.core import QgsApplication, QgsPointXY
from qgis.gui import QgisInterface, QgsMapToolEmitPoint
from qgis.PyQt.QtCore import Qt
from qgis.PyQt.QtGui import QIcon
from qgis.PyQt.QtWidgets import QAction

from .explain_panel import ExplainPanel
from .provider import ICON, CapecamProvider


class CapecamPlugin:
    """The plugin.

    Args:
        iface: the window of QGIS; ``qgis_process`` has none.
    """

    def __init__(self, iface: QgisInterface | None) -> None:
        self._iface = iface
        self._provider = CapecamProvider()

    def initProcessing(self) -> None:
        """Add the provider, which is all that ``qgis_process`` asks for."""
        QgsApplication.processingRegistry().addProvider(self._provider)

    def initGui(self) -> None:
        """Add the provider, and the tool to the toolbar and the menu of plugins."""
        self.initProcessing()
        canvas, window = self._iface.mapCanvas(), self._iface.mainWindow()
        self._panel = ExplainPanel(canvas)
        self._panel.hide()
        self._iface.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, self._panel)
        self._action = QAction(QIcon(ICON), "Explain here", window)
        self._action.setCheckable(True)
        self._action.triggered.connect(self._activate)
        self._tool = QgsMapToolEmitPoint(canvas)
        self._tool.setAction(self._action)
        self._tool.canvasClicked.connect(self._explain)
        self._iface.addToolBarIcon(self._action)
        self._iface.addPluginToMenu("capecam", self._action)

    def unload(self) -> None:
        """Take everything away."""
        QgsApplication.processingRegistry().removeProvider(self._provider)
        self._iface.mapCanvas().unsetMapTool(self._tool)
        self._iface.removeToolBarIcon(self._action)
        self._iface.removePluginMenu("capecam", self._action)
        self._panel.remove()
        self._iface.removeDockWidget(self._panel)
        self._panel.deleteLater()

    def _activate(self) -> None:
        self._iface.mapCanvas().setMapTool(self._tool)
        self._action.setChecked(True)  # also when it was chosen already
        self._panel.show()
        self._panel.connect_viewer()

    def _explain(self, point: QgsPointXY) -> None:
        self._panel.show()
        self._panel.explain(QgsPointXY(point))  # the signal's own ends with it
