"""Open input images safely."""

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
from capecam.imagery.validation.tiff import MAX_BANDS, MAX_BLOCK_BYTES
from capecam.imagery.validation.vrt import check_vrt
from capecam.io.gdal import DRIVER, overview_options
from capecam.io.paths import VRT, Location, VsiPath


@dataclass(frozen=True, slots=True)
class Trust:
    """Permissions for reading images."""

    vrt: bool = False
    """VRTs may be read."""
    folders: tuple[str, ...] = ()
    """Real paths of the folders that the user named, and of the folders of named files."""


def check_image(path: Location, trust: Trust) -> None:
    """Check that GDAL may open an image and its sidecars.

    Raises:
        ImageError: it must not; says why and what to do.
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


def open_image(path: Location, level: int | None = None) -> Any:
    """Open a checked image with rasterio, as a GeoTIFF, or as a VRT if its suffix is ``.vrt``.

    Args:
        path: the image.
        level: open this overview instead, 0 being the finest.

    Raises:
        ImageError: its metadata lead to other files, or its blocks need too much memory.
        RasterioError: it cannot be opened.
    """
    # Absolute, since GDAL gives a meaning to names such as GTIFF_DIR:1:x.tif.
    name = path.gdal if isinstance(path, VsiPath) else path.absolute()
    driver = "VRT" if path.suffix.lower() == VRT else DRIVER
    dataset = rasterio.open(name, driver=driver, **overview_options(level))
    try:
        check_metadata(path, dataset)
        _check_blocks(path, dataset)
        for sidecar in _sidecars(path, dataset):
            _check_sidecar(path, sidecar)
    except BaseException:
        dataset.close()
        raise
    return dataset


def _sidecars(path: Location, dataset: Any) -> list[Path | str]:
    """Return external masks and overviews; of a virtual file, those that GDAL has found."""
    if isinstance(path, Path):
        return [sidecar.absolute() for sidecar in raster_sidecars(path)]
    return [name for name in dataset.files if name.lower().endswith(RASTERS)]


def _check_sidecar(path: Location, sidecar: Path | str) -> None:
    """Refuse sidecars of another format, and ones whose metadata lead to other files."""
    try:
        with rasterio.open(sidecar, driver=DRIVER) as dataset:
            check_metadata(path, dataset)
    except RasterioError as error:
        name = Path(sidecar).name
        raise ImageError(
            f"{path}: {name}, which belongs to it, is no GeoTIFF; remove it, or deliver it again"
        ) from error


def _check_blocks(path: Location, dataset: Any) -> None:
    """Check the limits that ``check_tiff`` cannot check for virtual files."""
    if dataset.count > MAX_BANDS:
        raise ImageError(
            f"{path}: has {dataset.count} bands; at most {MAX_BANDS} are read; leave some out "
            "with gdal_translate -b"
        )
    height, width = dataset.block_shapes[0]
    interleaved = dataset.interleaving and dataset.interleaving.value == "PIXEL"
    # numpy has no complex_int16, a name of rasterio's
    types = ("int32" if dtype == "complex_int16" else dtype for dtype in dataset.dtypes)
    value_bytes = max(np.dtype(dtype).itemsize for dtype in types)
    size = height * width * (dataset.count if interleaved else 1) * value_bytes
    if size > MAX_BLOCK_BYTES:
        raise ImageError(
            f"{path}: its blocks of {width} x {height} px are {size >> 20} MB each when decoded; "
            f"at most {MAX_BLOCK_BYTES >> 20} MB are; rewrite it with gdal_translate -co TILED=YES"
        )
