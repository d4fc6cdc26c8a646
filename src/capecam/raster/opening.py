"""Opening rasters safely."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import RasterioError

from capecam.errors import ImageError
from capecam.raster.locations import VRT, Location, VsiPath
from capecam.raster.sidecars import RASTERS, check_metadata, check_sidecars, raster_sidecars
from capecam.raster.sniffing import check_kind, check_tiff
from capecam.raster.tiff import BLOCK_BYTES, MOST_BANDS
from capecam.raster.vrtcheck import check_vrt

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


NOT_OF_NUMPY = {"complex_int16": "int32"}
"""Types that rasterio alone knows, and what has their size."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What may be read as imagery."""

    vrt: bool = False
    """Whether VRTs are."""
    folders: tuple[str, ...] = ()
    """Real paths of those that the user has named; the folder of a named file is one."""


def check_image(path: Location, trust: Trust) -> None:
    """May GDAL be shown an image, and what lies beside it?

    Raises:
        ImageError: what was found instead, and what to do.
    """
    is_vrt = path.suffix.lower() == VRT
    if isinstance(path, VsiPath):
        if is_vrt:
            raise ImageError(
                f"{path}: a VRT is read from a disk only, with --allow-vrt; copy it to one"
            )
        return
    folders = trust.folders or (os.path.realpath(path.parent),)
    if not is_vrt:
        check_tiff(path)
        check_sidecars(path, folders)
    elif trust.vrt:
        check_vrt(path, folders)
    else:
        check_kind(path)
        raise ImageError(
            f"{path}: a VRT, which is read only with --allow-vrt"
            "; give that, if its sources can be trusted"
        )


def open_image(path: Location) -> Any:
    """A checked image as a rasterio dataset; GeoTIFF, or VRT where it is called one.

    Raises:
        ImageError: it would send GDAL to other files, or exceed what memory is there.
        RasterioError: it cannot be opened.
    """
    # In full: GDAL takes a name such as GTIFF_DIR:1:x.tif for something else.
    name = path.gdal if isinstance(path, VsiPath) else path.absolute()
    dataset = rasterio.open(name, driver="VRT" if path.suffix.lower() == VRT else DRIVER)
    try:
        check_metadata(path, dataset)
        _check_blocks(path, dataset)
        for beside in _beside(path, dataset):
            _check_beside(path, beside)
    except BaseException:
        dataset.close()
        raise
    return dataset


def _beside(path: Location, dataset: Any) -> list[Path | str]:
    """External masks and overviews; where GDAL alone can look, those that it has found."""
    if isinstance(path, Path):
        return [beside.absolute() for beside in raster_sidecars(path)]
    return [name for name in dataset.files if name.lower().endswith(RASTERS)]


def _check_beside(path: Location, beside: Path | str) -> None:
    """They, too, may be of another format, or have metadata that lead elsewhere."""
    try:
        with rasterio.open(beside, driver=DRIVER) as dataset:
            check_metadata(path, dataset)
    except RasterioError as error:
        name = Path(beside).name
        raise ImageError(
            f"{path}: {name}, which belongs to it, is no GeoTIFF; remove it, or deliver it again"
        ) from error


def _check_blocks(path: Location, dataset: Any) -> None:
    """Of a file that was looked through this holds; it is for those that only GDAL can read."""
    if dataset.count > MOST_BANDS:
        raise ImageError(
            f"{path}: has {dataset.count} bands; at most {MOST_BANDS} are read; leave some out "
            "with gdal_translate -b"
        )
    height, width = dataset.block_shapes[0]
    together = (
        dataset.count if dataset.interleaving and dataset.interleaving.value == "PIXEL" else 1
    )
    numbers = (np.dtype(NOT_OF_NUMPY.get(kind, kind)).itemsize for kind in dataset.dtypes)
    size = height * width * together * max(numbers)
    if size > BLOCK_BYTES:
        raise ImageError(
            f"{path}: its blocks of {width} x {height} px are {size >> 20} MB each when decoded; "
            f"at most {BLOCK_BYTES >> 20} MB are; rewrite it with gdal_translate -co TILED=YES"
        )
