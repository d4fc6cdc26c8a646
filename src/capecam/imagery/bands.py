"""Bands that are read as red, green and blue, and the rule for valid pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Any, Literal

import numpy as np
from pydantic import JsonValue

from capecam.errors import ImageError
from capecam.imagery.metadata import has_mask, join_names
from capecam.io.paths import Location
from capecam.settings import ImagerySettings

COLORS = ("red", "green", "blue")

UNSPECIFIC = ("gray", "undefined")
"""Colour interpretations that do not name a colour."""

USABLE_PHOTOMETRIC = (None, "0", "1", "2", "3", "6")
"""Photometric interpretations (TIFF tag 262) that are grey, RGB, palette, or decoded to RGB."""

NOT_RGB = {
    "5": "CMYK", "8": "CIELab", "9": "ICCLab", "10": "ITULab", "32803": "a colour filter array",
    "32844": "LogL", "32845": "LogLuv", "34892": "linear raw",
}  # fmt: skip
"""Refused photometric interpretations. GDAL converts some to RGB, ignoring colour profiles."""

NO_COLORS = (
    "alpha", "palette", "hue", "saturation", "lightness", "cyan", "magenta", "yellow", "black", "Y",
    "Cb", "Cr",
)  # fmt: skip
"""Colour interpretations that cannot be read as red, green or blue."""

MULTISPECTRAL = 5
"""Number of bands from which the first three are often not red, green, blue, but for example
coastal, blue, green."""

Triple = tuple[int, int, int]
Validity = Literal["all", "mask", "alpha", "nodata"]


@dataclass(frozen=True, slots=True)
class Pixels:
    """Mapping from the values of a file to red, green and blue of 0..255 and validity."""

    bands: Triple
    """Numbers of the red, green and blue band, from 1."""
    dtype: str = "uint8"
    """Data type of these bands."""
    bits: int = 8
    """Bits per value in the file; fewer than in ``dtype`` for one-bit masks, for example."""
    palette: bool = False
    """Colours are looked up in the colour table of the first band."""
    validity: Validity = "all"
    """Source of validity: a mask, else alpha, else nodata."""
    alpha: int | None = None
    """Number of the alpha band, whether or not it decides validity."""
    nodata: tuple[float | None, ...] = (None, None, None)
    """Nodata of the chosen bands; rasterio drops values that the dtype cannot represent."""

    def __post_init__(self) -> None:
        if min(self.bands) < 1:
            raise ValueError(f"bands are numbered from 1, got {self.bands}")
        if self.validity == "alpha" and self.alpha is None:
            raise ValueError("validity by alpha needs the number of the alpha band")

    @property
    def scaled(self) -> bool:
        """True if values have to be scaled to 0..255."""
        return not self.palette and (self.dtype != "uint8" or self.bits < 8)

    @property
    def warp_options(self) -> dict[str, object]:
        """Options of a ``WarpedVRT`` that make GDAL's warper use the same validity.

        Its own order of mask, alpha and nodata differs.
        """
        # NaN pixels would otherwise spread to the pixels that they are interpolated with.
        nodata: float | None = nan if self.dtype.startswith("float") else None
        if self.validity == "nodata":
            nodata = self.nodata[0]
        alpha: dict[str, object] = {"add_alpha": True}
        if self.validity == "alpha":  # of 16 bits, 1 of 65,535 would be as good as nothing
            alpha = {"src_alpha": self.alpha, "SRC_ALPHA_MAX": "1"}
        # Without UNIFIED_SRC_NODATA, a pixel that is black in one band only would be lost.
        return {"src_nodata": nodata, "nodata": None, "UNIFIED_SRC_NODATA": "YES", **alpha}

    def warped(self, count: int) -> Pixels:
        """Return the pixels of the file, of ``count`` bands, after warping with these options."""
        alpha = self.alpha if self.validity == "alpha" else count + 1
        return replace(self, validity="alpha", alpha=alpha)

    @property
    def nondefault(self) -> dict[str, JsonValue]:
        """Bands and alpha where they differ from bands 1, 2, 3 and GDAL's own mask.

        Part of a cell's recorded inputs; empty for an ordinary image.
        """
        entries: dict[str, JsonValue] = {}
        if self.bands != (1, 2, 3) or self.palette:
            entries["bands"] = "palette" if self.palette else [*self.bands]
        ordinary = self.alpha == 4 and set(self.nodata) == {None}
        if self.validity == "alpha" and not ordinary:
            entries["alpha"] = self.alpha
        return entries


def pixels_of(path: Location, dataset: Any, settings: ImagerySettings) -> Pixels:
    """Return how the pixels of an open dataset are to be read.

    Raises:
        ImageError: its bands are not colours, or the settings have to name the right ones.
    """
    _check_photometric(path, dataset)
    kinds = [kind.name for kind in dataset.colorinterp]
    bands = _bands(path, kinds, settings)
    alpha = kinds.index("alpha") + 1 if "alpha" in kinds else None
    dtype = _dtype(path, dataset, bands)
    nodata = tuple(dataset.nodatavals[band - 1] for band in bands)
    validity: Validity = "all"
    if has_mask(dataset, bands[0]):
        validity = "mask"
    elif alpha is not None:
        validity = "alpha"
    elif None not in nodata:
        validity = "nodata"
    pixels = Pixels(
        bands,
        dtype,
        _bits(dataset, bands[0]),
        settings.bands == "palette",
        validity,
        alpha,
        nodata,
    )
    if pixels.palette and dtype not in ("uint8", "uint16"):
        raise ImageError(
            f"{path}: its colour table is indexed by {dtype}; expected uint8 or uint16"
        )
    if not pixels.palette:
        check_scale(path, dataset, bands[0], settings)
    return pixels


def check_scale(path: Location, dataset: Any, band: int, settings: ImagerySettings) -> None:
    """Check that the settings say which values of a band become 0 and 255, if it is not uint8.

    Raises:
        ImageError: they do not.
    """
    dtype, bits = str(dataset.dtypes[band - 1]), _bits(dataset, band)
    convertible = dtype.startswith("complex") or dataset.colorinterp[band - 1].name == "palette"
    if settings.scale is not None or convertible or (dtype == "uint8" and bits >= 8):
        return
    kind = f"{bits}-bit" if dtype == "uint8" else dtype
    raise ImageError(
        f"{path}: pixels are {kind}, expected uint8; say which values become 0 and "
        "255 with --scale LOW,HIGH, or --scale 2%,98% for percentiles of the whole mosaic"
    )


def _bits(dataset: Any, band: int) -> int:
    """Return the bits per value in the file."""
    bits = dataset.tags(band, ns="IMAGE_STRUCTURE").get("NBITS", "")
    if bits.isdecimal():
        return int(bits)
    dtype = dataset.dtypes[band - 1]
    return 8 * np.dtype("int32" if dtype == "complex_int16" else dtype).itemsize


def _check_photometric(path: Location, dataset: Any) -> None:
    """Raise an ImageError if colours are not red, green and blue, or shades of grey."""
    # _DEBUG_ is the only domain in which GDAL's GeoTIFF driver shows this tag; VRTs have none.
    photometric = dataset.get_tag_item("TIFFTAG_PHOTOMETRIC", "_DEBUG_")
    structure = dataset.tags(ns="IMAGE_STRUCTURE")
    space = structure.get("SOURCE_COLOR_SPACE", "RGB")
    other = NOT_RGB.get(photometric, space if space not in ("RGB", "YCbCr") else "")
    if photometric not in USABLE_PHOTOMETRIC and not other:
        other = f"photometric interpretation {photometric}"
    if photometric == "6" and "JPEG" not in structure.get("COMPRESSION", ""):
        other = "YCbCr without JPEG"
    if other:
        raise ImageError(f"{path}: its colours are {other}, not RGB; convert it to RGB")
    if structure.get("MINISWHITE") == "YES" and dataset.colorinterp[0].name != "palette":
        raise ImageError(
            f"{path}: is a negative (photometric interpretation: white is zero); invert it"
        )


def _bands(path: Location, kinds: Sequence[str], settings: ImagerySettings) -> Triple:
    chosen = settings.bands
    if chosen == "auto":
        return _automatic_bands(path, kinds)
    if chosen == "palette":
        if kinds[0] != "palette":
            raise ImageError(
                f"{path}: band 1 has no colour table (--bands palette); its bands are "
                f"{join_names(kinds)}; use --bands auto, gray or R,G,B"
            )
        return 1, 1, 1
    if chosen == "gray":
        if kinds[0] == "palette":
            raise ImageError(
                f"{path}: band 1 has a colour table, so its values are not grey levels; "
                "use --bands palette"
            )
        chosen = 1, 1, 1
    for band in chosen:
        if band > len(kinds):
            raise ImageError(
                f"{path}: there is no band {band} (--bands), only {len(kinds)} band(s): "
                f"{join_names(kinds)}; name others"
            )
        if kinds[band - 1] in NO_COLORS:
            raise ImageError(
                f"{path}: band {band} is {kinds[band - 1]}, not a colour (--bands); its bands are "
                f"{join_names(kinds)}; name others"
            )
    return chosen


def _automatic_bands(path: Location, kinds: Sequence[str]) -> Triple:
    """Choose bands by colour interpretation; else the first three, unless others are as likely."""
    if all(kinds.count(color) == 1 for color in COLORS):
        red, green, blue = (kinds.index(color) + 1 for color in COLORS)
        return red, green, blue
    count = f"{len(kinds)} band(s)"
    if len(kinds) < len(COLORS):
        remedy = "palette" if kinds[0] == "palette" else "gray"
        raise ImageError(
            f"{path}: has {count} ({join_names(kinds)}), expected red, green and blue; "
            f"use --bands {remedy} if that is meant"
        )
    if len(kinds) >= MULTISPECTRAL or any(kind not in UNSPECIFIC for kind in kinds[:3]):
        raise ImageError(
            f"{path}: does not say which of its {count} are red, green and blue "
            f"({join_names(kinds)}); name them with --bands R,G,B"
        )
    return 1, 2, 3


def _dtype(path: Location, dataset: Any, bands: Sequence[int]) -> str:
    """Return the common data type of the chosen bands."""
    dtypes = list(dict.fromkeys(str(dataset.dtypes[band - 1]) for band in bands))
    if len(dtypes) > 1:
        raise ImageError(
            f"{path}: bands {', '.join(map(str, bands))} have different types "
            f"({', '.join(dtypes)}); convert them to one"
        )
    if dtypes[0].startswith("complex"):
        raise ImageError(f"{path}: pixels are complex numbers ({dtypes[0]}); convert it to RGB")
    return dtypes[0]
