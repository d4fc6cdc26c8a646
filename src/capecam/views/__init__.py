"""QGIS styles and project, report and panels: the products that people look at."""
