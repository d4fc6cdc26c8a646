"""Names of the files in the folder of a run: the contract with everything that reads them."""

from pathlib import Path

from capecam.errors import OutputError

RUN_JSON = "run.json"

DETECTIONS, GEOPACKAGE = "detections.parquet", "detections.gpkg"
"""All objects of the city."""

LAYER = "detections"
"""Layer of the GeoPackage."""

REJECTED = "rejected"
"""Layer of the GeoPackage, and stem of the file, with the objects that a filter removed."""

SUMMARY = "summary.csv"

EVALUATION_JSON = "evaluation.json"
"""Result of ``capecam evaluate``."""

REVIEWS_JSON = "reviews.json"
"""Result of ``capecam evaluate --reviews``."""
P_RIGHT_JSON = "p_right.json"
"""Result of ``capecam calibrate``: how likely detections are right."""

PIECES = "detections.parquet"
"""Unfiltered pieces of a cell, in the cell's folder."""

OBJECTS = "objects"
"""Stem of the rasters of the objects' own explanations."""

PROJECT = "capecam.qgz"
"""The QGIS project."""

REPORT = "report.html"

CATALOGUE = "stac"
"""Folder of the STAC catalogue."""

PANELS = "panels"
"""Default folder of ``capecam panel``."""

ESTIMATES, ESTIMATES_JSON = "estimates", "estimates.json"
"""Stem of the tables of ``capecam estimate``, and its result."""

REVIEW = "review.gpkg"
"""What people say about the detections: the only file of the folder that is theirs."""

VERDICTS, MISSED, SAMPLE, SAMPLE_DESIGN = "verdicts", "missed", "sample", "sample_design"
"""Layers of the review file."""


def check_is_run(out: Path) -> None:
    """Check that a folder holds a run.

    Raises:
        OutputError: it does not.
    """
    if not (out / RUN_JSON).exists():
        raise OutputError(f"{out}: holds no run.json; start with capecam run")
