"""``capecam.qgz``: a QGIS project in which every product of a run opens, styled."""
