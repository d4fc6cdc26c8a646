"""Configuration of the log."""

from __future__ import annotations

import logging
import os

LIBRARIES = ("rasterio", "pyogrio", "fiona", "py.warnings")
"""Loggers whose messages on a file are in the error or warning of capecam that follows."""


def configure(level: int) -> None:
    """Log to stderr: messages of capecam from a level on, and warnings of other packages.

    Python's warnings are logged, and what GDAL would print by itself is dropped.
    """
    logging.captureWarnings(True)
    os.environ.setdefault("CPL_LOG", os.devnull)  # of rasterio's GDAL and of pyogrio's
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    set_level(level)


def set_level(level: int) -> None:
    """Set the level from which messages of capecam are logged.

    Messages of libraries about a file are in the error that is raised in the end; their warnings
    before that are logged at the level DEBUG only.
    """
    logging.getLogger("capecam").setLevel(level)
    quiet = level > logging.DEBUG
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.CRITICAL if quiet else logging.WARNING)
