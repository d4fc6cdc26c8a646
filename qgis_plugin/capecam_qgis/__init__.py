"""Plugin of QGIS: capecam in the Processing toolbox, and explanations on a click.

Runs in the Python of QGIS 3.22 and later, with nothing but it and the standard library.
"""

from __future__ import annotations

from typing import Any


def classFactory(iface: Any) -> Any:
    """Return the plugin; QGIS calls this."""
    from .plugin import CapecamPlugin  # noqa: PLC0415 after QGIS has looked at the metadata

    return CapecamPlugin(iface)
