"""How layers look in QGIS: said once, for projects, ``.qml`` files and GeoPackages."""

from capecam.styles.geopackage import embed_style
from capecam.styles.rules import Rule, graduated, ruled
from capecam.styles.style import Style
from capecam.styles.symbols import area

__all__ = ["Rule", "Style", "area", "embed_style", "graduated", "ruled"]
