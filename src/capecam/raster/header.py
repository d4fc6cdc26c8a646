"""What an image file says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from capecam.raster.bands import Pixels, pixels_of
from capecam.raster.crs import crs_key
from capecam.raster.locations import Location
from capecam.raster.placement import Orientation, Placement, placement_of
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

    path: Location
    place: Placement
    """Where it lies."""
    pixels: Pixels
    """Which of its values are pixels."""
    storage: Storage
    """How they are stored."""

    @property
    def crs(self) -> str:
        """WKT, verbatim but for heights; that of the settings where the file says none."""
        return self.place.crs

    @property
    def width(self) -> int:
        """Of the file, in pixels."""
        return self.place.width

    @property
    def height(self) -> int:
        """Of the file, in pixels."""
        return self.place.height

    @property
    def corner(self) -> tuple[float, float]:
        """Map coordinates of its top-left corner, or of the straight box around it."""
        return self.place.corner

    @property
    def pixel(self) -> tuple[float, float]:
        """Width and height of a pixel, both positive, along its rows and columns."""
        return self.place.pixel

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top of the straight box around it."""
        return self.place.bounds

    @property
    def orientation(self) -> Orientation:
        """Only what is north-up can be read as it is; the rest goes through GDAL's warper."""
        return self.place.orientation

    @property
    def group(self) -> tuple[str, str, str]:
        """Equal for images that can share a grid: CRS parameters and resolution."""
        return crs_key(self.crs), *_digits(self.pixel)


def header_of(path: Location, dataset: Any, settings: ImagerySettings) -> Header:
    """That of an open dataset.

    Raises:
        ImageError: it cannot be used so; what was found, and what to do.
    """
    place = placement_of(path, dataset, settings.crs)
    pixels = pixels_of(path, dataset, settings)
    return Header(path, place, pixels, Storage.of(dataset, pixels))


def same_size(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether pixels are equal but for rounding: to seven digits, a pixel in 10 million."""
    return _digits(one) == _digits(other)


def _digits(pixel: tuple[float, float]) -> tuple[str, str]:
    return f"{pixel[0]:.7g}", f"{pixel[1]:.7g}"
