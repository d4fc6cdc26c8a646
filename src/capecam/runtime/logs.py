"""What a process of ours says on the way."""

from __future__ import annotations

import logging


def configure(level: int) -> None:
    """Lines on stderr: capecam's own from a level on, of others warnings."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    set_level(level)


def set_level(level: int) -> None:
    """From which level on. What GDAL has to say of a file is in the error that it ends in; the
    dozen warnings on the way there come with ``-v`` only.
    """
    logging.getLogger("capecam").setLevel(level)
    quiet = level > logging.DEBUG
    logging.getLogger("rasterio").setLevel(logging.CRITICAL if quiet else logging.WARNING)
