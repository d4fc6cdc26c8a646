"""Paths of images: files of this machine, or paths of GDAL's virtual file systems."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeGuard

from capecam.settings import VSI

TIFFS = (".tif", ".tiff")
"""Suffixes of GeoTIFFs in lower case."""
VRT = ".vrt"


@dataclass(frozen=True, slots=True, order=True)
class VsiPath:
    """A path such as ``/vsizip/...``, ``/vsicurl/...`` or ``/vsis3/...``.

    It is not a ``Path``, which would replace the two slashes of a URL by one.
    """

    gdal: str
    """The path as GDAL opens it."""

    def __str__(self) -> str:
        """Return the path for messages, without user, password and query."""
        path, *_ = self.gdal.split("?", 1) if "://" in self.gdal else [self.gdal]
        if self.gdal.startswith("/vsicurl?"):
            path = "/vsicurl?..."
        return re.sub(r"://[^/@]*@", "://", path)

    @property
    def name(self) -> str:
        """Name of the file."""
        return PurePosixPath(self.gdal.split("?", 1)[0] if "://" in self.gdal else self.gdal).name

    @property
    def stem(self) -> str:
        """Name of the file without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """Suffix of the file with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def secret(self) -> bool:
        """True if the path contains a secret, which must not be shown or recorded."""
        return str(self) != self.gdal

    def absolute(self) -> VsiPath:
        """Return the path itself, which is always absolute."""
        return self


Location = Path | VsiPath


def location(text: str) -> Location:
    """Return the path that a user has given."""
    return VsiPath(text) if text.startswith(VSI) else Path(text)


def is_there(path: Path) -> bool:
    """Return whether a file is there, also one that is named with a layer, FILE|layername=NAME."""
    return os.path.exists(path) or os.path.exists(str(path).partition("|")[0])


def names_checkpoint(path: Location) -> TypeGuard[Path]:
    """Return whether a path is that of a checkpoint, and not of an image."""
    return isinstance(path, Path) and path.suffix.lower() not in (*TIFFS, VRT)


def in_words(path: Location, error: BaseException) -> str:
    """Return an error of GDAL about an image as one line without secrets."""
    message = " ".join(str(error).split())
    if not isinstance(path, VsiPath):
        return message
    message = message.replace(path.gdal, str(path))
    return message.replace(_behind_scheme(path.gdal), _behind_scheme(str(path)))


def _behind_scheme(text: str) -> str:
    """Return a URL without its scheme, as curl reports it."""
    return text.partition("://")[2] or text


def inside(path: Location, folders: tuple[str, ...]) -> bool:
    """Return whether a path, links resolved, is in one of some folders, given by real paths."""
    if isinstance(path, VsiPath):
        return False
    real = os.path.realpath(path)
    return any(os.path.commonpath((real, folder)) == folder for folder in folders)
