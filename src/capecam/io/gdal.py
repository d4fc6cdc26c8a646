"""Configuration of GDAL, and opening of products."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rasterio
from rasterio.env import env_ctx_if_needed
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import DatasetReader

DRIVER = "GTiff"
"""The only driver that is allowed: a VRT with the suffix of a GeoTIFF could read any file of the
machine."""

CACHE_MB = 64
"""Size of GDAL's block cache; 256 MB were no faster. GDAL_NUM_THREADS is not set, since threads
with their own handles are faster than those of GDAL."""

SETTINGS = {
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_VRT_ENABLE_RAWRASTERBAND": "NO",
    "GDAL_VRT_RAWRASTERBAND_ALLOWED_SOURCE": "SIBLING_OR_CHILD_OF_VRT_PATH",
}
"""A second barrier behind the checks of files in ``imagery.validation``."""

NETWORK = {
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
    "GDAL_HTTP_TIMEOUT": "120",
    "GDAL_HTTP_LOW_SPEED_TIME": "30",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",
}
"""Limits for network file systems such as /vsicurl/; the environment overrides them."""


@contextmanager
def gdal_settings() -> Iterator[None]:
    """Apply the configuration of GDAL."""
    network = {key: value for key, value in NETWORK.items() if key not in os.environ}
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB, **SETTINGS, **network):
        yield


def gdal_versions() -> dict[str, str]:
    """Return the versions of GDAL and PROJ that read and write rasters."""
    return {"gdal": rasterio.__gdal_version__, "proj": rasterio.__proj_version__}


def overview_options(level: int | None) -> dict[str, int]:
    """Return the options of ``rasterio.open`` for an overview, 0 being the finest; None: for the
    raster itself."""
    return {} if level is None else {"overview_level": level}


def open_readonly(path: Path, level: int | None = None) -> Any:
    """Open a product (a GeoTIFF) as a rasterio dataset.

    Args:
        path: the file.
        level: open this overview instead, 0 being the finest.
    """
    return rasterio.open(path, driver=DRIVER, **overview_options(level))


def open_pixels(path: Path, level: int | None = None) -> Any:
    """Open a product as :func:`open_readonly` does, for its pixels alone: it has no CRS and place.

    That takes .3 ms instead of 5, in which PROJ looks up the CRS in its database (GDAL 3.10); a
    city has 14,000 rasters.
    """
    options = overview_options(level)
    with env_ctx_if_needed():
        return DatasetReader(path, driver=DRIVER, GEOREF_SOURCES="NONE", **options)


# rasterio warns the function that opens a file without a place, which is the one above alone.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning, module=re.escape(__name__))
