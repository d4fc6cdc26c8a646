"""Description of an image file, also of one that cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import pyproj
from pyproj.exceptions import CRSError
from rasterio.enums import MaskFlags

from capecam.imagery.validation.file_type import cut_off
from capecam.imagery.validation.sidecars import has_lossy_mask
from capecam.io.paths import VRT, Location

DATE_TAGS = ("ACQUISITIONDATETIME", "TIFFTAG_DATETIME")
"""Tags that say when an image was taken. GDAL's domain IMAGERY is left alone, since GDAL then looks
for files of satellites beside each image."""


@dataclass(frozen=True, slots=True)
class ImageMetadata:
    """Description of an open file; nothing is checked here."""

    width: int
    height: int
    kinds: tuple[str, ...]
    """Colour interpretation of every band."""
    dtypes: tuple[str, ...]
    nodata: tuple[float | None, ...]
    mask: bool
    """There is an internal or external mask."""
    crs: str
    """WKT; empty if missing."""
    transform: tuple[float, ...]
    """a, b, c, d, e, f."""
    block: tuple[int, int]
    """Height and width."""
    compression: str
    """GDAL's name; empty if uncompressed."""
    lossy: bool
    """Pixels may have changed when the file was written."""
    lossy_mask: bool
    """The values of the mask may have changed, too."""
    stored: tuple[tuple[float, float], ...]
    """Scale and offset in the file, by band."""
    pages: int
    """Images in the file, of which the first is used; overviews and masks do not count."""
    missing: str
    """Description of the part missing at the end of the file; empty if it is whole."""
    captured: str
    """Date in the first of ``DATE_TAGS`` that the file has, as it stands there; may be empty."""

    @classmethod
    def of(cls, path: Location, dataset: Any) -> Self:
        """Return the metadata of an open dataset."""
        structure = dataset.tags(ns="IMAGE_STRUCTURE")
        compression = structure.get("COMPRESSION", "")
        rounded = structure.get("MAX_Z_ERROR", "0") != "0"
        mask = has_mask(dataset, 1)
        return cls(
            int(dataset.width),
            int(dataset.height),
            tuple(kind.name for kind in dataset.colorinterp),
            tuple(map(str, dataset.dtypes)),
            tuple(dataset.nodatavals),
            mask,
            dataset.crs.wkt if dataset.crs else "",
            tuple(dataset.transform)[:6],
            tuple(dataset.block_shapes[0]),
            compression,
            rounded
            or "JPEG" in compression
            or structure.get("COMPRESSION_REVERSIBILITY") == "LOSSY",
            mask and path.suffix.lower() != VRT and has_lossy_mask(path),
            tuple(zip(dataset.scales, dataset.offsets, strict=True)),
            max(1, len(dataset.subdatasets)),
            cut_off(path) or "",
            next(filter(None, (_tag(dataset, name) for name in DATE_TAGS)), ""),
        )

    @property
    def lossy_alpha(self) -> bool:
        """True if the values of an alpha band may have changed; WebP keeps them."""
        return self.lossy and self.compression != "WEBP"

    @property
    def striped(self) -> bool:
        """True if a block is as wide as the image."""
        return self.block[1] >= self.width

    def to_rows(self) -> list[tuple[str, str]]:
        """Return names and values for people to read."""
        height, width = self.block
        layout = f"strips of {height} rows" if self.striped else f"tiles of {width} x {height} px"
        compression = self.compression or "not compressed"
        # In these, a flipped bit changes pixels and raises no error.
        unchecked = not self.compression or "JPEG" in self.compression
        whole = [("is whole", f"no: {self.missing}")] if self.missing else []
        a, b, c, d, e, f = self.transform
        rotation = f", {b!r}, {d!r} off the axes" if b or d else ""
        return [
            *whole,
            ("size", f"{self.width} x {self.height} px"),
            ("bands", f"{len(self.kinds)}: {join_names(self.kinds)}"),
            ("type", join_names(list(dict.fromkeys(self.dtypes)))),
            ("pixel", f"{abs(a):g} x {abs(e):g} CRS units{rotation}"),
            ("first corner", f"{c!r}, {f!r}"),
            ("CRS", crs_name(self.crs)),
            ("imagery is", self._validity()),
            ("stored in", f"{layout}, {compression}{' (lossy)' if self.lossy else ''}"),
            (
                "damage is noticed",
                "only with --checksums" if unchecked else "yes, where a block is read",
            ),
        ]

    def _validity(self) -> str:
        if self.mask:
            return "where the mask says so"
        if "alpha" in self.kinds:
            return "where the alpha band is not 0"
        if None not in self.nodata:
            values = dict.fromkeys(f"{value:g}" for value in self.nodata)
            return f"where not all bands are nodata ({', '.join(values)})"
        if set(self.nodata) != {None}:
            return "where not all bands that are read are nodata; not all bands have one"
        return "everywhere: it has no mask, alpha or nodata (--collar auto looks for a border)"


def _tag(dataset: Any, name: str) -> str | None:
    """Return a tag, or None if the file has none, or one that is no text."""
    try:
        text: str | None = dataset.get_tag_item(name)
    except UnicodeDecodeError:
        return None
    return text


def has_mask(dataset: Any, band: int) -> bool:
    """Return whether a band has an internal or external mask."""
    flags = dataset.mask_flag_enums[band - 1]
    return MaskFlags.alpha not in flags and (not flags or MaskFlags.per_dataset in flags)


@cache
def crs_name(wkt: str) -> str:
    """Return the name of a CRS, and its code if it has one."""
    if not wkt:
        return "none"
    try:
        crs = pyproj.CRS.from_wkt(wkt)
    except CRSError:
        return f"not understood: {wkt[:60]}"
    authority = crs.to_authority(min_confidence=100)
    return f"{crs.name} ({':'.join(authority)})" if authority else crs.name


def join_names(names: Sequence[str], limit: int = 12) -> str:
    """Return the first names, comma-separated."""
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
