"""Styles of QGIS layers, defined once for projects, ``.qml`` files and GeoPackages."""
