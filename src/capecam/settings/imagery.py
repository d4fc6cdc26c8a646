"""Settings of the conversion of image files to pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from capecam.settings.base import Option, Section


def _bands(value: object) -> object:
    """Parse auto, gray, palette, or three band numbers."""
    if value in ("auto", "gray", "palette"):
        return value
    parts = value.split(",") if isinstance(value, str) else value
    try:
        red, green, blue = map(int, parts)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise ValueError("must be auto, gray, palette or three band numbers, R,G,B") from None
    if min(red, green, blue) < 1:
        raise ValueError("must be band numbers of at least 1, R,G,B")
    return red, green, blue


@dataclass(frozen=True, slots=True)
class ValueRange:
    """Pixel values that become 0 and 255; values beyond are clipped."""

    low: float
    high: float
    percent: bool = False
    """True if the values are percentiles of the whole mosaic, 0..100."""

    def __post_init__(self) -> None:
        top = 100.0 if self.percent else float("inf")
        if not self.low < self.high <= top or (self.percent and self.low < 0):
            raise ValueError("must be LOW,HIGH with LOW below HIGH, or percentiles such as 2%,98%")
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError("must be two finite numbers, LOW,HIGH")

    def __str__(self) -> str:
        mark = "%" if self.percent else ""
        low, high = (f"{value!r}".removesuffix(".0") + mark for value in (self.low, self.high))
        return f"{low},{high}"  # every digit, since records are read again


def _scale(value: object) -> object:
    """Parse 0,4095 or 2%,98%."""
    if value is None or isinstance(value, ValueRange):
        return value
    parts = value.split(",") if isinstance(value, str) else value
    try:
        low, high = map(str, parts)  # type: ignore[call-overload]
        marks = [text.strip().endswith("%") for text in (low, high)]
        bottom, top = (float(text.strip().removesuffix("%")) for text in (low, high))
    except (TypeError, ValueError):
        raise ValueError("must be LOW,HIGH, or percentiles such as 2%,98%") from None
    if marks[0] != marks[1]:
        raise ValueError("must be two values or two percentiles, not one of each")
    return ValueRange(bottom, top, percent=marks[0])


OptionalRange = Annotated[
    ValueRange | None,
    BeforeValidator(_scale),
    PlainSerializer(lambda scale: None if scale is None else str(scale)),
]
"""A range of values that is written as text in files."""


class ImagerySettings(Section):
    """Conversion of an image file to red, green and blue pixels of 0..255 (docs/inputs.md)."""

    bands: Annotated[
        Literal["auto", "gray", "palette"] | tuple[int, int, int],
        BeforeValidator(_bands),
        Option("--bands", "R,G,B|gray|palette"),
    ] = Field(
        "auto",
        description="numbers of the red, green and blue band, from 1; auto uses the colour "
        "interpretation of the file; gray uses band 1 for all three, palette its colour table",
    )
    scale: Annotated[OptionalRange, Option("--scale", "LOW,HIGH|P%,P%")] = Field(
        None,
        description="for images that are not uint8: values that become 0 and 255, or percentiles "
        "of the whole mosaic, such as 2%,98%",
    )
    crs: Annotated[str | None, Option("--crs", "CRS")] = Field(
        None, description="CRS of images that have none: EPSG:..., ESRI:..., WKT or PROJ"
    )
    collar: Annotated[Literal["none", "auto"], Option("--collar")] = Field(
        "none",
        description="auto: a black or white border is nodata, even if the file does not mark it",
    )
    allow_vrt: Annotated[bool, Option("--allow-vrt")] = Field(
        False,
        description="also read VRTs, whose sources must be GeoTIFFs in the given folders",
    )
    checksums: Annotated[Path | None, Option("--checksums", "FILE")] = Field(
        None,
        description="file of checksums, as sha256sum or md5sum writes it; images that differ fail",
    )
