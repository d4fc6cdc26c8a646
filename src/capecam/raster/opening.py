"""Opening rasters safely."""

from __future__ import annotations

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


@contextmanager
def gdal_settings() -> Iterator[None]:
    """GDAL's configuration, once around a run."""
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB):
        yield


def open_readonly(path: Path, level: int | None = None) -> Any:
    """A product of ours, or an image to inspect, as a rasterio dataset (GeoTIFF only).

    With ``level``, that of its overviews, 0 being the finest.
    """
    options = {} if level is None else {"overview_level": level}
    return rasterio.open(path, driver=DRIVER, **options)
