"""Which bands of a file are red, green and blue, and what says where they are valid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Any, Literal

import numpy as np

from capecam.errors import ImageError
from capecam.imagery.metadata import has_mask, listed
from capecam.io.paths import Location
from capecam.settings import ImagerySettings

COLORS = ("red", "green", "blue")

PLAIN = ("gray", "undefined")
"""Colour interpretations that say nothing."""

TAKEN = (None, "0", "1", "2", "3", "6")
"""Photometric interpretations (TIFF tag 262) that are grey, RGB, palette, or decoded to RGB."""

FOREIGN = {
    "5": "CMYK", "8": "CIELab", "9": "ICCLab", "10": "ITULab", "32803": "a colour filter array",
    "32844": "LogL", "32845": "LogLuv", "34892": "linear raw",
}  # fmt: skip
"""Those that are none. GDAL makes RGB of some of them, by formulas that know no colour profile."""

NO_COLORS = (
    "alpha", "palette", "hue", "saturation", "lightness", "cyan", "magenta", "yellow", "black", "Y",
    "Cb", "Cr",
)  # fmt: skip
"""Bands that cannot be red, green or blue."""

MULTISPECTRAL = 5
"""From so many bands on, the first three are as often blue, green, red, or coastal, blue, green."""

COMPLEX = "complex"

Validity = Literal["all", "mask", "alpha", "nodata"]


@dataclass(frozen=True, slots=True)
class Pixels:
    """How the values of a file become red, green and blue of 0..255, and valid or not."""

    bands: tuple[int, int, int]
    """Numbers of the red, green and blue band, from 1."""
    dtype: str = "uint8"
    """Of these bands."""
    bits: int = 8
    """That a value takes in the file; fewer than the dtype has in masks of one bit, say."""
    palette: bool = False
    """The colours are those of the table of the first band."""
    validity: Validity = "all"
    """What decides where there is imagery: a mask, else alpha, else nodata."""
    alpha: int | None = None
    """Number of the alpha band, whatever decides."""
    nodata: tuple[float | None, ...] = (None, None, None)
    """Of the chosen bands; rasterio leaves out a value that the dtype cannot have."""

    def __post_init__(self) -> None:
        if min(self.bands) < 1:
            raise ValueError(f"bands are numbered from 1, got {self.bands}")
        if self.validity == "alpha" and self.alpha is None:
            raise ValueError("validity by alpha needs the number of the alpha band")

    @property
    def scaled(self) -> bool:
        """Whether values have to be scaled to become 0..255."""
        return not self.palette and (self.dtype != "uint8" or self.bits < 8)

    @property
    def warping(self) -> dict[str, Any]:
        """How GDAL's warper learns where the file is valid: options of a ``WarpedVRT``.

        Its own choice among mask, alpha and nodata would be another.
        """
        # Numbers that are none would spread to what they are mixed with.
        nodata: float | None = nan if self.dtype.startswith("float") else None
        if self.validity == "nodata":
            nodata = self.nodata[0]
        alpha = {"src_alpha": self.alpha} if self.validity == "alpha" else {"add_alpha": True}
        # Without UNIFIED_SRC_NODATA, black in one band alone would be lost there.
        return {"src_nodata": nodata, "nodata": None, "UNIFIED_SRC_NODATA": "YES", **alpha}

    def warped(self, count: int) -> Pixels:
        """Those of the file with ``count`` bands after it went through the warper."""
        alpha = self.alpha if self.validity == "alpha" else count + 1
        return replace(self, validity="alpha", alpha=alpha)

    @property
    def peculiarities(self) -> dict[str, Any]:
        """In what pixels differ from bands 1, 2, 3 and GDAL's own mask, for what is made of them:
        empty for an ordinary image.
        """
        found: dict[str, Any] = {}
        if self.bands != (1, 2, 3) or self.palette:
            found["bands"] = "palette" if self.palette else list(self.bands)
        ordinary = self.alpha == 4 and set(self.nodata) == {None}
        if self.validity == "alpha" and not ordinary:
            found["alpha"] = self.alpha
        return found


def pixels_of(path: Location, dataset: Any, settings: ImagerySettings) -> Pixels:
    """How an open dataset is to be read.

    Raises:
        ImageError: its bands are no picture, or it has to be said which of them are one.
    """
    _check_photometric(path, dataset)
    kinds = [kind.name for kind in dataset.colorinterp]
    bands = _bands(path, kinds, settings)
    alpha = kinds.index("alpha") + 1 if "alpha" in kinds else None
    dtype = _dtype(path, dataset, bands)
    nodata = tuple(dataset.nodatavals[band - 1] for band in bands)
    pixels = Pixels(
        bands,
        dtype,
        _bits(dataset, bands[0], dtype),
        settings.bands == "palette",
        _validity(dataset, bands[0], alpha, nodata),
        alpha,
        nodata,
    )
    if pixels.palette and dtype not in ("uint8", "uint16"):
        raise ImageError(
            f"{path}: its colour table is indexed by {dtype}; expected uint8 or uint16"
        )
    if pixels.scaled and settings.scale is None:
        raise ImageError(
            f"{path}: pixels are {_kind(pixels)}, expected uint8; say which values become 0 and "
            "255 with --scale LOW,HIGH, or --scale 2%,98% for percentiles of the whole mosaic"
        )
    return pixels


def _check_photometric(path: Location, dataset: Any) -> None:
    """Raises where colours are not red, green and blue, or a shade of grey."""
    # A debugging aid of GDAL's GeoTIFF driver, and the only way to see this tag; VRTs have none.
    photometric = dataset.get_tag_item("TIFFTAG_PHOTOMETRIC", "_DEBUG_")
    structure = dataset.tags(ns="IMAGE_STRUCTURE")
    space = structure.get("SOURCE_COLOR_SPACE", "RGB")
    foreign = FOREIGN.get(photometric, space if space not in ("RGB", "YCbCr") else "")
    if photometric not in TAKEN and not foreign:
        foreign = f"photometric interpretation {photometric}"
    if photometric == "6" and "JPEG" not in structure.get("COMPRESSION", ""):
        foreign = "YCbCr without JPEG"
    if foreign:
        raise ImageError(f"{path}: its colours are {foreign}, not RGB; convert it to RGB")
    if structure.get("MINISWHITE") == "YES" and dataset.colorinterp[0].name != "palette":
        raise ImageError(
            f"{path}: is a negative (photometric interpretation: white is zero); invert it"
        )


def _bands(path: Location, kinds: Sequence[str], settings: ImagerySettings) -> tuple[int, int, int]:
    wanted = settings.bands
    if wanted == "palette":
        if kinds[0] != "palette":
            raise ImageError(
                f"{path}: band 1 has no colour table (--bands palette); its bands are "
                f"{listed(kinds)}; use --bands auto, gray or R,G,B"
            )
        return 1, 1, 1
    if wanted == "gray":
        return _gray(path, kinds)
    if wanted == "auto":
        return _automatic(path, kinds)
    return _chosen(path, kinds, wanted)


def _gray(path: Location, kinds: Sequence[str]) -> tuple[int, int, int]:
    if kinds[0] == "palette":
        raise ImageError(
            f"{path}: band 1 has a colour table, its values are no greys; use --bands palette"
        )
    return _chosen(path, kinds, (1, 1, 1))


def _chosen(
    path: Location, kinds: Sequence[str], wanted: tuple[int, int, int]
) -> tuple[int, int, int]:
    """The bands that were named, if they are there and are colours."""
    for band in wanted:
        if band > len(kinds):
            raise ImageError(
                f"{path}: there is no band {band} (--bands), only {_count(kinds)}: {listed(kinds)}"
                "; name others"
            )
        if kinds[band - 1] in NO_COLORS:
            raise ImageError(
                f"{path}: band {band} is {kinds[band - 1]}, no colour (--bands); its bands are "
                f"{listed(kinds)}; name others"
            )
    return wanted


def _automatic(path: Location, kinds: Sequence[str]) -> tuple[int, int, int]:
    """By colour interpretation; else the first three, where there is hardly another way."""
    if all(kinds.count(color) == 1 for color in COLORS):
        red, green, blue = (kinds.index(color) + 1 for color in COLORS)
        return red, green, blue
    if len(kinds) < len(COLORS):
        cure = "palette" if kinds[0] == "palette" else "gray"
        raise ImageError(
            f"{path}: has {_count(kinds)} ({listed(kinds)}), expected red, green and blue; "
            f"use --bands {cure} if that is meant"
        )
    if len(kinds) >= MULTISPECTRAL or any(kind not in PLAIN for kind in kinds[:3]):
        raise ImageError(
            f"{path}: does not say which of its {_count(kinds)} are red, green and blue "
            f"({listed(kinds)}); name them with --bands R,G,B"
        )
    return 1, 2, 3


def _dtype(path: Location, dataset: Any, bands: Sequence[int]) -> str:
    """That all chosen bands have."""
    found = list(dict.fromkeys(str(dataset.dtypes[band - 1]) for band in bands))
    if len(found) > 1:
        raise ImageError(
            f"{path}: bands {', '.join(map(str, bands))} have different types "
            f"({', '.join(found)}); convert them to one"
        )
    if found[0].startswith(COMPLEX):
        raise ImageError(
            f"{path}: pixels are complex numbers ({found[0]}), which are no picture"
            "; convert it to RGB"
        )
    return found[0]


def _bits(dataset: Any, band: int, dtype: str) -> int:
    whole = np.dtype(dtype).itemsize * 8
    bits = dataset.tags(band, ns="IMAGE_STRUCTURE").get("NBITS", "")
    return int(bits) if bits.isdecimal() else whole


def _validity(
    dataset: Any, band: int, alpha: int | None, nodata: Sequence[float | None]
) -> Validity:
    """What decides: an internal or external mask, else alpha, else nodata."""
    if has_mask(dataset, band):
        return "mask"
    if alpha is not None:
        return "alpha"
    return "nodata" if all(value is not None for value in nodata) else "all"


def _kind(pixels: Pixels) -> str:
    few = pixels.dtype == "uint8" and pixels.bits < 8
    return f"{pixels.bits}-bit" if few else pixels.dtype


def _count(kinds: Sequence[str]) -> str:
    return f"{len(kinds)} band(s)"
