"""The provider of Processing."""

from __future__ import annotations

from pathlib import Path

from processing.core.ProcessingConfig import ProcessingConfig, Setting
from qgis.core import QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from .algorithms import ALGORITHMS, COMMAND
from .command import plugin_version

ICON = str(Path(__file__).with_name("icon.svg"))


class CapecamProvider(QgsProcessingProvider):
    """Commands of capecam, and the setting that says where it is."""

    def id(self) -> str:
        """Return the first part of the ids of algorithms."""
        return "capecam"

    def name(self) -> str:
        """Return the name in the toolbox."""
        return "capecam"

    def icon(self) -> QIcon:
        """Return the icon."""
        return QIcon(ICON)

    def versionInfo(self) -> str:
        """Return the version of the plugin, for the log."""
        return plugin_version()

    def load(self) -> bool:
        """Add the setting to those of Processing, and the algorithms to the toolbox."""
        ProcessingConfig.settingIcons[self.name()] = self.icon()
        ProcessingConfig.addSetting(
            Setting(
                self.name(),
                COMMAND,
                "Program capecam, or the python of its environment (empty: the one on the PATH)",
                "",
                valuetype=Setting.FILE,
            )
        )
        ProcessingConfig.readSettings()
        self.refreshAlgorithms()
        return True

    def unload(self) -> None:
        """Take the setting away; its value is kept."""
        ProcessingConfig.removeSetting(COMMAND)

    def loadAlgorithms(self) -> None:
        """Add the algorithms."""
        for algorithm in ALGORITHMS:
            self.addAlgorithm(algorithm())
