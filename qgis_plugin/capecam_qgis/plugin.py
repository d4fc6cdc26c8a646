"""What QGIS loads."""

from __future__ import annotations

from qgis.core import QgsApplication
from qgis.gui import QgisInterface

from .provider import CapecamProvider


class CapecamPlugin:
    """The provider of Processing, and the map tool.

    Args:
        iface: the window of QGIS; None in ``qgis_process``.
    """

    def __init__(self, iface: QgisInterface | None) -> None:
        self._iface = iface
        self._provider = None

    def initProcessing(self) -> None:
        """Add the provider."""
        self._provider = CapecamProvider()
        QgsApplication.processingRegistry().addProvider(self._provider)

    def initGui(self) -> None:
        """Add everything."""
        self.initProcessing()

    def unload(self) -> None:
        """Take everything away."""
        QgsApplication.processingRegistry().removeProvider(self._provider)
