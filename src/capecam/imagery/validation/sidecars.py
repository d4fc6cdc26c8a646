"""What GDAL reads beside an image, with any driver that it has: it must be no way to other files.

``x.tif.msk`` and ``x.tif.ovr`` may be of any format, and ``OVERVIEW_FILE``, in the file's own
metadata or in ``x.tif.aux.xml``, may name any file: where one of them is a VRT, its pixels are
those of any file of the machine (tried with GDAL 3.10). Opening alone does not follow them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.parsers import expat

from capecam.errors import ImageError
from capecam.imagery.validation.file_type import check_kind, check_tiff
from capecam.io.paths import Location, VsiPath

RASTERS = (".msk", ".ovr")
AUX = ".aux.xml"
OF_THE_STEM = (".tfw", ".tifw", ".tiffw", ".wld", ".tab")

AUX_BYTES = 16 << 20
"""Of an ``.aux.xml``: histograms and attribute tables of real ones have a few hundred kB."""

DEPTH = 2
"""``x.tif.ovr.msk``."""


def sidecars(path: Path) -> Iterator[Path]:
    """Those that there are, as far as pixels or their place depend on them."""
    folder = path.parent
    names = [path.name + suffix for suffix in (*RASTERS, AUX)]
    names += [path.stem + suffix for suffix in OF_THE_STEM]
    listing = _listing(folder, folder.stat().st_mtime_ns)
    for name in names:
        for found in listing.get(name.casefold(), ()):
            yield folder / found


@lru_cache(maxsize=8)
def _listing(folder: Path, _changed: int) -> dict[str, list[str]]:
    """Names in a folder by their small letters: GDAL looks for sidecars in any spelling."""
    found: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)):
        found.setdefault(name.casefold(), []).append(name)
    return found


def check_sidecars(path: Path, folders: tuple[str, ...], depth: int = DEPTH) -> None:
    """May GDAL be shown what lies beside an image?

    Args:
        path: of the image.
        folders: real paths; what links beside the image lead to must lie in one of them, or in its
            own.
        depth: how far sidecars may have sidecars.

    Raises:
        ImageError: naming the sidecar.
    """
    for beside in sidecars(path):
        status = check_kind(beside)
        if beside.is_symlink() and not inside(beside, (*folders, _folder(path))):
            raise ImageError(
                f"{beside}: is a link out of the folders given, to {os.path.realpath(beside)}; "
                "name that folder as a source, too, or remove the link"
            )
        if beside.suffix.lower() in RASTERS:
            check_tiff(beside)
            if depth:
                check_sidecars(beside, folders, depth - 1)
        elif beside.name.lower().endswith(AUX):
            _check_aux(beside, status.st_size)


def raster_sidecars(path: Path) -> list[Path]:
    """The external masks and overviews."""
    return [beside for beside in sidecars(path) if beside.suffix.lower() in RASTERS]


def check_metadata(path: Location, dataset: Any) -> None:
    """Does an image itself send GDAL to another file?

    Raises:
        ImageError: naming that.
    """
    for key, value in dataset.tags(ns="OVERVIEWS").items():
        raise ImageError(
            f"{path}: its metadata send readers to another file ({key}={value}), which is not "
            "followed; write it anew with gdal_translate -nomd, or remove its .aux.xml"
        )


def inside(path: Location, folders: tuple[str, ...]) -> bool:
    """Whether a path, all links followed, lies in one of some folders, given by real paths."""
    if isinstance(path, VsiPath):
        return False
    real = os.path.realpath(path)
    return any(os.path.commonpath((real, folder)) == folder for folder in folders)


def _folder(path: Path) -> str:
    return os.path.realpath(path.parent)


def _check_aux(beside: Path, size: int) -> None:
    if size > AUX_BYTES:
        raise ImageError(
            f"{beside}: has {size >> 20} MB, at most {AUX_BYTES >> 20} MB are read; remove it"
        )
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(beside.read_bytes(), True)
    except (expat.ExpatError, _DoctypeError, ValueError) as error:
        raise ImageError(
            f"{beside}: belongs to an image and is no plain XML ({error}), so that its CRS or "
            "nodata may be missing; remove it, or deliver it again"
        ) from error


class _DoctypeError(ValueError):
    """Entities, that is."""


def _refuse_doctype(*_: object) -> None:
    raise _DoctypeError("it has a document type")
