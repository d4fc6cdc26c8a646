"""Header of an image file: all that is known without decoding pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from capecam.errors import ImageError
from capecam.imagery.bands import Pixels, pixels_of
from capecam.imagery.datum import Frame
from capecam.imagery.georeferencing import Bounds, Placement, placement_of
from capecam.imagery.metadata import ImageMetadata
from capecam.io.paths import Location
from capecam.settings import ImagerySettings


@dataclass(frozen=True, slots=True)
class Header:
    """Placement, pixels and metadata of an image file."""

    path: Location
    placement: Placement
    """Position in map coordinates."""
    pixels: Pixels
    """Bands, values and validity of its pixels."""
    metadata: ImageMetadata
    """Description of the file."""

    @property
    def crs(self) -> str:
        """WKT, as in the file but without heights; that of the settings if the file has none."""
        return self.placement.crs

    @property
    def pixel(self) -> tuple[float, float]:
        """Width and height of a pixel, both positive, along its rows and columns."""
        return self.placement.pixel

    @property
    def bounds(self) -> Bounds:
        """Bounding box in map coordinates."""
        return self.placement.bounds

    @property
    def frame(self) -> Frame:
        """CRS and epoch of its coordinates."""
        return Frame(self.placement.crs, self.placement.epoch)


def header_of(path: Location, dataset: Any, settings: ImagerySettings) -> Header:
    """Return the header of an open dataset.

    Raises:
        ImageError: it cannot be used with these settings; says why and what to do.
    """
    metadata = ImageMetadata.of(path, dataset)
    try:
        placement = placement_of(path, dataset, settings.crs)
        return Header(path, placement, pixels_of(path, dataset, settings), metadata)
    except ImageError as error:
        error.facts = dict(metadata.to_rows())
        raise


def same_size(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Return whether pixel sizes are equal to seven digits: a pixel in 10 million."""
    return size_digits(one) == size_digits(other)


def size_digits(pixel: tuple[float, float]) -> tuple[str, str]:
    """Return a pixel size to seven digits."""
    return f"{pixel[0]:.7g}", f"{pixel[1]:.7g}"
