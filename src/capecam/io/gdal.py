"""GDAL's configuration, and opening products."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rasterio

DRIVER = "GTiff"
"""The only driver allowed: a VRT in disguise reads any file of the machine (DESIGN section 8)."""


CACHE_MB = 64
"""GDAL's block cache; 256 MB were no faster, and memory grew until it was full. GDAL_NUM_THREADS
stays unset: a thread with a handle of its own is faster than GDAL's (DESIGN section 8)."""


SETTINGS = {
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_VRT_ENABLE_RAWRASTERBAND": "NO",
    "GDAL_VRT_RAWRASTERBAND_ALLOWED_SOURCE": "SIBLING_OR_CHILD_OF_VRT_PATH",
}
"""Behind what is checked already (``sidecars``, ``vrtcheck``)."""


NETWORK = {
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
    "GDAL_HTTP_TIMEOUT": "120",
    "GDAL_HTTP_LOW_SPEED_TIME": "30",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",
}
"""For /vsicurl/ and its like, unless the environment says otherwise: nothing waits for ever."""


@contextmanager
def gdal_settings() -> Iterator[None]:
    """GDAL's configuration, once around a run."""
    network = {key: value for key, value in NETWORK.items() if key not in os.environ}
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB, **SETTINGS, **network):
        yield


def open_readonly(path: Path, level: int | None = None) -> Any:
    """A product of ours as a rasterio dataset (GeoTIFF only).

    With ``level``, that of its overviews, 0 being the finest.
    """
    options = {} if level is None else {"overview_level": level}
    return rasterio.open(path, driver=DRIVER, **options)
