"""Check the files that GDAL reads beside an image: they must not lead to other files.

GDAL opens ``x.tif.msk``, ``x.tif.ovr`` and ``OVERVIEW_FILE``, named in the file's own metadata or
in ``x.tif.aux.xml``, with any driver. If one of them is a VRT, its pixels can be those of any file
of the machine (tested with GDAL 3.10). Opening the image alone does not read them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.parsers import expat

from capecam.errors import ImageError
from capecam.imagery.validation.file_type import check_kind, check_tiff
from capecam.imagery.validation.tiff import StructureError, has_jpeg_mask
from capecam.io.paths import Location, inside

MASK = ".msk"
RASTERS = (MASK, ".ovr")
AUX = ".aux.xml"
STEM_SUFFIXES = (".tfw", ".tifw", ".tiffw", ".wld", ".tab")

MAX_AUX_BYTES = 16 << 20
"""Size of an ``.aux.xml``; real ones, with histograms and attribute tables, have some 100 kB."""

MAX_DEPTH = 2
"""Sidecars of sidecars: ``x.tif.ovr.msk``."""


def sidecars(path: Path) -> Iterator[Path]:
    """Yield existing sidecars on which pixels or the georeference depend."""
    folder = path.parent
    names = [path.name + suffix for suffix in (*RASTERS, AUX)]
    names += [path.stem + suffix for suffix in STEM_SUFFIXES]
    listing = _listing(folder, folder.stat().st_mtime_ns)
    for name in names:
        for entry in listing.get(name.casefold(), ()):
            yield folder / entry


@lru_cache(maxsize=8)
def _listing(folder: Path, _changed: int) -> dict[str, list[str]]:
    """Return the names in a folder by case-folded name: GDAL ignores case in sidecars."""
    names: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)):
        names.setdefault(name.casefold(), []).append(name)
    return names


def check_sidecars(path: Path, folders: tuple[str, ...], depth: int = MAX_DEPTH) -> None:
    """Check that GDAL may read the sidecars of an image.

    Args:
        path: of the image.
        folders: real paths; targets of linked sidecars must be in one of them or in the image's.
        depth: levels of sidecars of sidecars.

    Raises:
        ImageError: naming the sidecar.
    """
    for sidecar in sidecars(path):
        status = check_kind(sidecar)
        own = os.path.realpath(path.parent)
        if sidecar.is_symlink() and not inside(sidecar, (*folders, own)):
            raise ImageError(
                f"{sidecar}: is a link out of the folders given, to {os.path.realpath(sidecar)}; "
                "name that folder as a source, too, or remove the link"
            )
        if sidecar.suffix.lower() in RASTERS:
            check_tiff(sidecar)
            if depth:
                check_sidecars(sidecar, folders, depth - 1)
        elif sidecar.name.lower().endswith(AUX):
            _check_aux(sidecar, status.st_size)


def raster_sidecars(path: Path) -> list[Path]:
    """Return the external masks and overviews."""
    return [sidecar for sidecar in sidecars(path) if sidecar.suffix.lower() in RASTERS]


def has_lossy_mask(path: Location) -> bool:
    """Return whether JPEG may have changed the values of an image's mask, internal or external."""
    if not isinstance(path, Path):
        return False
    masks = [sidecar for sidecar in raster_sidecars(path) if sidecar.suffix.lower() == MASK]
    for file, is_mask in [(path, False), *((mask, True) for mask in masks)]:
        with file.open("rb") as stream, suppress(StructureError):
            if has_jpeg_mask(stream, file.stat().st_size, is_mask=is_mask):
                return True
    return False


def check_metadata(path: Location, dataset: Any) -> None:
    """Check that an image's metadata do not lead GDAL to another file.

    Raises:
        ImageError: naming the other file.
    """
    for key, value in dataset.tags(ns="OVERVIEWS").items():
        raise ImageError(
            f"{path}: its metadata send readers to another file ({key}={value}), which is not "
            "followed; rewrite it with gdal_translate -nomd, or remove its .aux.xml"
        )


def _check_aux(sidecar: Path, size: int) -> None:
    if size > MAX_AUX_BYTES:
        raise ImageError(
            f"{sidecar}: has {size >> 20} MB, at most {MAX_AUX_BYTES >> 20} MB are read; remove it"
        )
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(sidecar.read_bytes(), True)
    except (expat.ExpatError, _DoctypeError, ValueError) as error:
        raise ImageError(
            f"{sidecar}: belongs to an image and is not plain XML ({error}), so that its CRS or "
            "nodata may be missing; remove it, or deliver it again"
        ) from error


class _DoctypeError(ValueError):
    """A document type, which may define entities."""


def _refuse_doctype(*_: object) -> None:
    raise _DoctypeError("it has a document type")
