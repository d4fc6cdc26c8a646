"""How layers look in QGIS: said once, for projects, ``.qml`` files and GeoPackages."""

from capecam.styles.geopackage import embed_style
from capecam.styles.style import Style

__all__ = ["Style", "embed_style"]
