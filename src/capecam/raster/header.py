"""What an image file says about itself."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyproj

from capecam.errors import ImageError
from capecam.raster.locations import Location
from capecam.settings import ImagerySettings

BANDS = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Header:
    """What an image file says about itself."""

    path: Location
    crs: str
    """WKT, verbatim."""
    corner: tuple[float, float]
    """Map coordinates of the top-left corner."""
    pixel: tuple[float, float]
    """Width and height of a pixel, both positive."""
    width: int
    height: int
    pages: int = 1
    """Pictures in the file, of which the first is used; overviews and masks are none."""

    @property
    def group(self) -> tuple[str, str, str]:
        """Equal for images that can share a grid: CRS parameters and resolution."""
        return (crs_key(self.crs), *(f"{size:.7g}" for size in self.pixel))  # type: ignore[return-value]


def header_of(path: Location, dataset: Any, settings: ImagerySettings) -> Header:
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
    if dataset.count < len(BANDS):
        raise ImageError(f"{path}: has {dataset.count} band(s), expected at least 3 (R, G, B)")
    if set(dataset.dtypes[:3]) != {"uint8"}:
        raise ImageError(
            f"{path}: pixels are {dataset.dtypes[0]}, expected uint8; "
            "convert it with gdal_translate -ot Byte -scale"
        )
    return Header(
        path,
        dataset.crs.wkt,
        (t.c, t.f),
        (t.a, -t.e),
        int(dataset.width),
        int(dataset.height),
        max(1, len(dataset.subdatasets)),
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
