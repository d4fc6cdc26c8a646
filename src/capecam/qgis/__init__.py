"""``capecam.qgz``: a project in which everything of a run opens, styled and explained."""

from capecam.qgis.products import lay_out_imagery, write_styles
from capecam.qgis.project import write_project
from capecam.qgis.themes import project_of

PROJECT = "capecam.qgz"

__all__ = [
    "PROJECT",
    "lay_out_imagery",
    "project_of",
    "write_project",
    "write_styles",
]
