"""What an image file says about itself."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyproj

from capecam.errors import ImageError
from capecam.raster.bands import Pixels, pixels_of
from capecam.settings import ImagerySettings


@dataclass(frozen=True, slots=True)
class Storage:
    """How a file is laid out: what it costs to read, and what can be noticed of damage."""

    kinds: tuple[str, ...]
    """Colour interpretation of every band."""
    compression: str
    """As GDAL has it; empty for none."""
    block: tuple[int, int]
    """Height and width."""
    lossy: bool
    """Pixels may have changed when the file was written."""
    stored: tuple[float, float] = (1.0, 0.0)
    """Scale and offset that the file gives for the first chosen band."""

    @classmethod
    def of(cls, dataset: Any, pixels: Pixels) -> Storage:
        """That of an open dataset."""
        structure, first = dataset.tags(ns="IMAGE_STRUCTURE"), pixels.bands[0] - 1
        compression = structure.get("COMPRESSION", "")
        return cls(
            tuple(kind.name for kind in dataset.colorinterp),
            compression,
            tuple(dataset.block_shapes[first]),
            _lossy(compression, structure),
            (dataset.scales[first], dataset.offsets[first]),
        )


def _lossy(compression: str, structure: Mapping[str, str]) -> bool:
    rounded = structure.get("MAX_Z_ERROR", "0") != "0"
    return rounded or "JPEG" in compression or structure.get("COMPRESSION_REVERSIBILITY") == "LOSSY"


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
    pixels: Pixels
    """Which of its values are pixels."""
    storage: Storage
    """How they are stored."""

    @property
    def group(self) -> tuple[str, str, str]:
        """Equal for images that can share a grid: CRS parameters and resolution."""
        return (crs_key(self.crs), *(f"{size:.7g}" for size in self.pixel))  # type: ignore[return-value]


def header_of(path: Path, dataset: Any, settings: ImagerySettings) -> Header:
    """That of an open dataset.

    Raises:
        ImageError: it cannot be used so; what was found, and what to do.
    """
    t = dataset.transform
    if dataset.crs is None or not dataset.crs.wkt:
        raise ImageError(
            f"{path}: has no coordinate reference system; assign it with gdal_edit.py -a_srs"
        )
    if t.b or t.d or t.a <= 0 or t.e >= 0:
        raise ImageError(f"{path}: is rotated or not north-up; straighten it with gdalwarp")
    pixels = pixels_of(path, dataset, settings)
    return Header(
        path,
        dataset.crs.wkt,
        (t.c, t.f),
        (t.a, -t.e),
        int(dataset.width),
        int(dataset.height),
        pixels,
        Storage.of(dataset, pixels),
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
