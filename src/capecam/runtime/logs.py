"""Configuration of the log."""

from __future__ import annotations

import json
import logging
import os

LIBRARIES = ("rasterio", "pyogrio", "fiona", "py.warnings")
"""Loggers whose messages on a file are in the error or warning of capecam that follows."""


FORMAT = "CAPECAM_LOG"
"""Environment variable that is ``json`` for this process and its children, to log as JSON."""


class _JsonFormatter(logging.Formatter):
    """One JSON object a message."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object as a line."""
        fields = {"level": record.levelname.lower(), "from": record.name}
        return json.dumps({"event": "message", **fields, "text": record.getMessage()})


def use_json() -> None:
    """Log as JSON from now on, in processes that are started later, too."""
    os.environ[FORMAT] = "json"
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_JsonFormatter())


def is_json() -> bool:
    """Return whether messages are JSON."""
    return os.environ.get(FORMAT) == "json"


def configure(level: int) -> None:
    """Log to stderr: messages of capecam from a level on, and warnings of other packages.

    Python's warnings are logged, and what GDAL would print by itself is dropped.
    """
    logging.captureWarnings(True)
    os.environ.setdefault("CPL_LOG", os.devnull)  # of rasterio's GDAL and of pyogrio's
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    if is_json():
        use_json()
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
