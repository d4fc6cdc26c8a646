"""What an image file is, in words and numbers, also where it cannot be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import pyproj
from pyproj.exceptions import CRSError
from rasterio.enums import MaskFlags

from capecam.imagery.validation.file_type import cut_off
from capecam.io.paths import Location


@dataclass(frozen=True, slots=True)
class ImageMetadata:
    """An open file, described; nothing is judged here."""

    width: int
    height: int
    kinds: tuple[str, ...]
    """Colour interpretation of every band."""
    dtypes: tuple[str, ...]
    nodata: tuple[float | None, ...]
    mask: bool
    """It has an internal or external mask."""
    crs: str
    """WKT; empty for none."""
    transform: tuple[float, ...]
    """a, b, c, d, e, f."""
    points: int
    """Ground control points."""
    block: tuple[int, int]
    """Height and width."""
    compression: str
    """As GDAL has it; empty for none."""
    lossy: bool
    """Pixels may have changed when the file was written."""
    stored: tuple[tuple[float, float], ...]
    """Scale and offset that the file gives, by band."""
    pages: int
    """Pictures in the file, of which the first is used; overviews and masks are none."""
    missing: str
    """In words, what is missing at the end of the file; empty for nothing."""

    @classmethod
    def of(cls, path: Location, dataset: Any) -> Self:
        """That of an open dataset."""
        structure = dataset.tags(ns="IMAGE_STRUCTURE")
        compression = structure.get("COMPRESSION", "")
        return cls(
            int(dataset.width),
            int(dataset.height),
            tuple(kind.name for kind in dataset.colorinterp),
            tuple(map(str, dataset.dtypes)),
            tuple(dataset.nodatavals),
            has_mask(dataset, 1),
            dataset.crs.wkt if dataset.crs else "",
            tuple(dataset.transform)[:6],
            len(dataset.gcps[0]),
            tuple(dataset.block_shapes[0]),
            compression,
            _lossy(compression, structure),
            tuple(zip(dataset.scales, dataset.offsets, strict=True)),
            max(1, len(dataset.subdatasets)),
            cut_off(path) or "",
        )

    @property
    def striped(self) -> bool:
        """A block is as wide as the image."""
        return self.block[1] >= self.width

    @property
    def hides_damage(self) -> bool:
        """A flipped bit makes other pixels, and no error."""
        return not self.compression or "JPEG" in self.compression

    def to_rows(self) -> list[tuple[str, str]]:
        """Names and values for people."""
        height, width = self.block
        layout = f"strips of {height} rows" if self.striped else f"tiles of {width} x {height} px"
        packed = self.compression or "not compressed"
        noticed = "only with --checksums" if self.hides_damage else "yes, where a block is read"
        whole = [("is whole", f"no: {self.missing}")] if self.missing else []
        a, b, c, d, e, f = self.transform
        turned = f", {b!r}, {d!r} off the axes" if b or d else ""
        return [
            *whole,
            ("size", f"{self.width} x {self.height} px"),
            ("bands", f"{len(self.kinds)}: {listed(self.kinds)}"),
            ("type", listed(list(dict.fromkeys(self.dtypes)))),
            ("pixel", f"{abs(a):g} x {abs(e):g} CRS units{turned}"),
            ("first corner", f"{c!r}, {f!r}"),
            ("CRS", crs_name(self.crs)),
            ("imagery is", self._validity()),
            ("stored in", f"{layout}, {packed}{' (lossy)' if self.lossy else ''}"),
            ("damage is noticed", noticed),
        ]

    def _validity(self) -> str:
        if self.mask:
            return "where the mask says so"
        if "alpha" in self.kinds:
            return "where the alpha band is not 0"
        if all(value is not None for value in self.nodata):
            values = dict.fromkeys(f"{value:g}" for value in self.nodata)
            return f"where not all bands are nodata ({', '.join(values)})"
        if any(value is not None for value in self.nodata):
            return "where not all bands that are read are nodata; not all bands have one"
        return "everywhere: it has no mask, alpha or nodata (--collar auto looks for a border)"


def has_mask(dataset: Any, band: int) -> bool:
    """Whether a band has an internal or external mask."""
    flags = dataset.mask_flag_enums[band - 1]
    return MaskFlags.alpha not in flags and (not flags or MaskFlags.per_dataset in flags)


def _lossy(compression: str, structure: Mapping[str, str]) -> bool:
    rounded = structure.get("MAX_Z_ERROR", "0") != "0"
    return rounded or "JPEG" in compression or structure.get("COMPRESSION_REVERSIBILITY") == "LOSSY"


@cache
def crs_name(wkt: str) -> str:
    """Name and code, as far as it has any."""
    if not wkt:
        return "none"
    try:
        crs = pyproj.CRS.from_wkt(wkt)
    except CRSError:
        return f"not understood: {wkt[:60]}"
    authority = crs.to_authority(min_confidence=100)
    return f"{crs.name} ({':'.join(authority)})" if authority else crs.name


def listed(names: Sequence[str], most: int = 12) -> str:
    """The first of them, comma-separated."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
