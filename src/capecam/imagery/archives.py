"""Images in zip and tar archives."""

from __future__ import annotations

import os
import tarfile
import zipfile
import zlib

from capecam.errors import UsageError
from capecam.io.paths import TIFFS, VsiPath
from capecam.settings import VSI

ZIP, TAR = "/vsizip/", "/vsitar/"

READ_ERRORS = (
    OSError, EOFError, ValueError, NotImplementedError, zlib.error, zipfile.BadZipFile,
    tarfile.TarError,
)  # fmt: skip
"""Raised by ``zipfile`` and ``tarfile`` for truncated or corrupt archives."""

MAX_MEMBERS = 100_000


def list_archive(path: VsiPath, suffixes: tuple[str, ...]) -> list[VsiPath]:
    """Return the images in a local archive or in a folder of it; any other path is returned as is.

    Raises:
        UsageError: the archive does not exist, cannot be read or holds no image.
    """
    prefix = next((p for p in (ZIP, TAR) if path.gdal.startswith(p)), None)
    if prefix is None or path.suffix.lower() in TIFFS or VSI in path.gdal[4:]:
        return [path]
    archive, folder = _split(path.gdal.removeprefix(prefix))
    if archive is None:
        raise UsageError(f"{path}: there is no such archive; name /vsizip/ and the path to one")
    names = _members(path, archive, prefix)
    images = [n for n in names if n.startswith(folder) and n.lower().endswith(suffixes)]
    images = [n for n in images if not any(p.startswith((".", "__MACOSX")) for p in n.split("/"))]
    if not images:
        raise UsageError(
            f"{path}: there is no GeoTIFF in it; name another archive, or a folder in it"
        )
    return [VsiPath(f"{prefix}{archive}/{name}") for name in images]


def _split(path: str) -> tuple[str | None, str]:
    """Split a path into the archive and the folder inside it."""
    parts = path.rstrip("/").split("/")
    for n in range(1, len(parts) + 1):
        archive = "/".join(parts[:n])
        if os.path.isfile(archive):
            return archive, "".join(f"{part}/" for part in parts[n:])
    return None, ""


def _members(path: VsiPath, archive: str, prefix: str) -> list[str]:
    try:
        if prefix == ZIP:
            with zipfile.ZipFile(archive) as file:
                names = file.namelist()
        else:
            with tarfile.open(archive) as tar:
                names = tar.getnames()
    except READ_ERRORS as error:
        raise UsageError(
            f"{path}: cannot be read as an archive ({error}); deliver it again"
        ) from error
    if len(names) > MAX_MEMBERS:
        raise UsageError(f"{path}: holds {len(names)} files; unpack it, and name the folder")
    return names
