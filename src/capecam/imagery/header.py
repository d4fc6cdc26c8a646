"""What an image file says about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from capecam.errors import ImageError
from capecam.imagery.bands import Pixels, pixels_of
from capecam.imagery.crs import crs_key
from capecam.imagery.georeferencing import Orientation, Placement, placement_of
from capecam.imagery.metadata import ImageMetadata
from capecam.io.paths import Location
from capecam.settings import ImagerySettings


@dataclass(frozen=True, slots=True)
class Header:
    """What an image file says about itself."""

    path: Location
    place: Placement
    """Where it lies."""
    pixels: Pixels
    """Which of its values are pixels."""
    facts: ImageMetadata
    """What else it is."""

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
    facts = ImageMetadata.of(path, dataset)
    try:
        place = placement_of(path, dataset, settings.crs)
        return Header(path, place, pixels_of(path, dataset, settings), facts)
    except ImageError as error:
        error.facts = dict(facts.to_rows())
        raise


def same_size(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether pixels are equal but for rounding: to seven digits, a pixel in 10 million."""
    return _digits(one) == _digits(other)


def _digits(pixel: tuple[float, float]) -> tuple[str, str]:
    return f"{pixel[0]:.7g}", f"{pixel[1]:.7g}"
