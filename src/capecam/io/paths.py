"""Where an image is: a file of this machine, or a path of GDAL's virtual file systems."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from capecam.settings import VSI

TIFFS = (".tif", ".tiff")
VRT = ".vrt"
"""Suffixes of images, in small letters."""


@dataclass(frozen=True, slots=True, order=True)
class VsiPath:
    """``/vsizip/...``, ``/vsicurl/...``, ``/vsis3/...``: never a ``Path``, which makes one slash of
    two and ``/vsicurl/https:/`` of a URL."""

    gdal: str
    """As GDAL opens it."""

    def __str__(self) -> str:
        """For people: without what may be a secret, that is user, password and query."""
        path, *_ = self.gdal.split("?", 1) if "://" in self.gdal else [self.gdal]
        if self.gdal.startswith("/vsicurl?"):
            path = "/vsicurl?..."
        return re.sub(r"://[^/@]*@", "://", path)

    @property
    def name(self) -> str:
        """Of the file itself."""
        return PurePosixPath(self.gdal.split("?", 1)[0] if "://" in self.gdal else self.gdal).name

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """With its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def secret(self) -> bool:
        """Whether it must not be shown or written down."""
        return str(self) != self.gdal

    def absolute(self) -> VsiPath:
        """It is."""
        return self


Location = Path | VsiPath


def location(text: str) -> Location:
    """What a user names."""
    return VsiPath(text) if text.startswith(VSI) else Path(text)


def in_words(path: Location, error: BaseException) -> str:
    """What GDAL says of an image, in one line and without secrets."""
    message = " ".join(str(error).split())
    if not isinstance(path, VsiPath):
        return message
    message = message.replace(path.gdal, str(path))
    return message.replace(_behind_scheme(path.gdal), _behind_scheme(str(path)))


def _behind_scheme(text: str) -> str:
    """What curl has of a URL, whatever GDAL puts before it."""
    return text.partition("://")[2] or text
