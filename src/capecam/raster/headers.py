"""Reading what many image files say about themselves."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise, repeat
from pathlib import Path

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from capecam.errors import ImageError
from capecam.raster.crs import crs_of_setting
from capecam.raster.header import Header, header_of
from capecam.raster.opening import DRIVER
from capecam.settings import ImagerySettings

AS_IS = ImagerySettings()
"""The defaults."""

HEADER_THREADS = 16
"""Disks and networks answer slowly."""

UNREADABLE = (RasterioError, CPLE_BaseError, UnicodeDecodeError)
"""What an open dataset raises when GDAL finds damage late: reading colour interpretation opens a
mask's directory, and a CRS may have a name that is no text."""

HEADERS_A_PROCESS = 500
"""To make out a CRS without an EPSG code takes GDAL 4 ms, under Python's lock, so that threads do
not help; a process takes 0.6 s to start."""


def read_header(path: Path, settings: ImagerySettings = AS_IS) -> Header:
    """Check that a file can be used as it is, without decoding any pixel.

    Raises:
        ImageError: what was found instead, and what to do.
    """
    (found,) = read_headers([path], settings)
    if isinstance(found, ImageError):
        raise found
    return found


def read_headers(
    paths: Sequence[Path], settings: ImagerySettings = AS_IS
) -> list[Header | ImageError]:
    """Those of many files, or why they cannot be used; in processes where there are thousands.

    Raises:
        SettingsError: the CRS to be assigned is none.
    """
    crs_of_setting(settings.crs)
    count = min(os.cpu_count() or 1, len(paths) // HEADERS_A_PROCESS)
    if count < 2:
        return _read_here(paths, settings)
    edges = [len(paths) * n // count for n in range(count + 1)]
    shares = [paths[start:stop] for start, stop in pairwise(edges)]
    with ThreadPoolExecutor(count) as threads:
        return list(chain.from_iterable(threads.map(_read_elsewhere, shares, repeat(settings))))


def _read_here(paths: Sequence[Path], settings: ImagerySettings) -> list[Header | ImageError]:
    def read(path: Path) -> Header | ImageError:
        try:
            with rasterio.open(path, driver=DRIVER) as dataset:
                return header_of(path, dataset, settings)
        except UNREADABLE as error:
            return ImageError(_not_a_geotiff(path, error))
        except ImageError as error:
            return error

    with warnings.catch_warnings(), ThreadPoolExecutor(HEADER_THREADS) as threads:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return list(threads.map(read, paths))


def _read_elsewhere(paths: Sequence[Path], settings: ImagerySettings) -> list[Header | ImageError]:
    """In a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", "from capecam.raster.headers import _serve; _serve()"],
        input=pickle.dumps((paths, settings)),
        stdout=subprocess.PIPE,
        check=True,
        start_new_session=True,  # Ctrl-C goes to the main process alone
    )
    found: list[Header | ImageError] = pickle.loads(done.stdout)
    return found


def _serve() -> None:
    found = _read_here(*pickle.load(sys.stdin.buffer))
    sys.stdout.buffer.write(pickle.dumps(found))


def _not_a_geotiff(path: Path, error: Exception) -> str:
    try:
        size = path.stat().st_size
    except OSError as reason:
        return f"{path}: {reason.strerror}"
    if size == 0:
        return f"{path}: the file is empty (0 bytes); deliver it again"
    message = " ".join(str(error).split())
    return f"{path}: not a readable GeoTIFF ({message}); check the delivery"
