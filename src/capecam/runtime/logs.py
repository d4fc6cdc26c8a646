"""Configuration of the log."""

from __future__ import annotations

import logging


def configure(level: int) -> None:
    """Log to stderr: messages of capecam from a level on, and warnings of other packages."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    set_level(level)


def set_level(level: int) -> None:
    """Set the level from which messages of capecam are logged.

    Messages of GDAL about a file are in the error that is raised in the end; its warnings before
    that are logged at the level DEBUG only.
    """
    logging.getLogger("capecam").setLevel(level)
    quiet = level > logging.DEBUG
    logging.getLogger("rasterio").setLevel(logging.CRITICAL if quiet else logging.WARNING)
