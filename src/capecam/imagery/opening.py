"""Opening rasters safely."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import RasterioError

from capecam.errors import ImageError
from capecam.imagery.validation.file_type import check_kind, check_tiff
from capecam.imagery.validation.sidecars import (
    RASTERS,
    check_metadata,
    check_sidecars,
    raster_sidecars,
)
from capecam.imagery.validation.tiff import BLOCK_BYTES, MOST_BANDS
from capecam.imagery.validation.vrt import check_vrt
from capecam.io.gdal import DRIVER
from capecam.io.paths import VRT, Location, VsiPath

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
