"""Opening rasters safely, and what an image file says about itself."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pyproj
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from capecam.errors import ImageError

DRIVER = "GTiff"
"""The only driver allowed: a VRT in disguise reads any file of the machine (DESIGN section 8)."""

CACHE_MB = 64
"""GDAL's block cache; 256 MB were no faster, and memory grew until it was full. GDAL_NUM_THREADS
stays unset: a thread with a handle of its own is faster than GDAL's (DESIGN section 8)."""

BANDS = (1, 2, 3)

HEADER_THREADS = 16
"""Disks and networks answer slowly."""

HEADERS_A_PROCESS = 500
"""To make out a CRS without an EPSG code takes GDAL 4 ms, under Python's lock, so that threads do
not help; a process takes 0.6 s to start."""


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


@dataclass(frozen=True, slots=True)
class Header:
    """What an image file says about itself."""

    path: Path
    crs: str
    """WKT, verbatim."""
    corner: tuple[float, float]
    """Map coordinates of the top-left corner."""
    pixel: tuple[float, float]
    """Width and height of a pixel, both positive."""
    width: int
    height: int

    @property
    def group(self) -> tuple[str, str, str]:
        """Equal for images that can share a grid: CRS parameters and resolution."""
        return (crs_key(self.crs), *(f"{size:.7g}" for size in self.pixel))  # type: ignore[return-value]


def read_header(path: Path) -> Header:
    """Check that a file can be used as it is, without decoding any pixel.

    Raises:
        ImageError: what was found instead, and what to do.
    """
    (found,) = read_headers([path])
    if isinstance(found, ImageError):
        raise found
    return found


def read_headers(paths: Sequence[Path]) -> list[Header | ImageError]:
    """Those of many files, or why they cannot be used; in processes where there are thousands."""
    count = min(os.cpu_count() or 1, len(paths) // HEADERS_A_PROCESS)
    if count < 2:
        return _read_here(paths)
    edges = [len(paths) * n // count for n in range(count + 1)]
    shares = [paths[start:stop] for start, stop in pairwise(edges)]
    with ThreadPoolExecutor(count) as threads:
        return list(chain.from_iterable(threads.map(_read_elsewhere, shares)))


def _read_here(paths: Sequence[Path]) -> list[Header | ImageError]:
    def read(path: Path) -> Header | ImageError:
        try:
            with rasterio.open(path, driver=DRIVER) as dataset:
                return _header(path, dataset)
        except RasterioError as error:
            return ImageError(_not_a_geotiff(path, error))
        except ImageError as error:
            return error

    with warnings.catch_warnings(), ThreadPoolExecutor(HEADER_THREADS) as threads:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return list(threads.map(read, paths))


def _read_elsewhere(paths: Sequence[Path]) -> list[Header | ImageError]:
    """In a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", "from capecam.raster.header import _serve; _serve()"],
        input=pickle.dumps(paths),
        stdout=subprocess.PIPE,
        check=True,
        start_new_session=True,  # Ctrl-C goes to the main process alone
    )
    found: list[Header | ImageError] = pickle.loads(done.stdout)
    return found


def _serve() -> None:
    found = _read_here(pickle.load(sys.stdin.buffer))
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


def _header(path: Path, dataset: Any) -> Header:
    t = dataset.transform
    if dataset.crs is None or not dataset.crs.wkt:
        raise ImageError(
            f"{path}: has no coordinate reference system; assign it with gdal_edit.py -a_srs"
        )
    if t.b or t.d or t.a <= 0 or t.e >= 0:
        raise ImageError(f"{path}: is rotated or not north-up; straighten it with gdalwarp")
    if dataset.count < len(BANDS):
        raise ImageError(f"{path}: has {dataset.count} band(s), expected at least 3 (R, G, B)")
    if set(dataset.dtypes[:3]) != {"uint8"}:
        raise ImageError(
            f"{path}: pixels are {dataset.dtypes[0]}, expected uint8; "
            "convert it with gdal_translate -ot Byte -scale"
        )
    return Header(
        path, dataset.crs.wkt, (t.c, t.f), (t.a, -t.e), int(dataset.width), int(dataset.height)
    )


@cache  # a city has thousands of images and a handful of spellings
def crs_key(wkt: str) -> str:
    """CRS by its parameters, not by name or code: equal keys mean the same map grid.

    ESRI:102562 and the same grid as a custom WKT agree; EPSG:2048, the same with both axes
    flipped, does not.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "you will likely lose information": wanted
        parameters = pyproj.CRS.from_wkt(wkt).to_dict()
    if not parameters:
        return wkt
    if parameters.pop("datum", None) == "WGS84":
        parameters["ellps"] = "WGS84"
    if not any(map(float, parameters.get("towgs84", [1]))):
        del parameters["towgs84"]
    for key in ("no_defs", "type", "wktext"):
        parameters.pop(key, None)
    return " ".join(f"+{key}={value}" for key, value in sorted(parameters.items()))
