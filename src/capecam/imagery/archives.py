"""What is in an archive that is named as a whole."""

from __future__ import annotations

import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator

from capecam.errors import UsageError
from capecam.io.paths import TIFFS, VsiPath
from capecam.settings import VSI

ZIP, TAR = "/vsizip/", "/vsitar/"

BROKEN = (
    OSError, EOFError, ValueError, NotImplementedError, zlib.error, zipfile.BadZipFile,
    tarfile.TarError,
)  # fmt: skip
"""What Python's own readers raise of archives that are cut or flipped."""

MOST_MEMBERS = 100_000


def list_archive(path: VsiPath, suffixes: tuple[str, ...]) -> list[VsiPath]:
    """The images of an archive on a disk, or of a folder in it; anything else is itself.

    Raises:
        UsageError: there is none, or the archive cannot be read.
    """
    prefix = next((known for known in (ZIP, TAR) if path.gdal.startswith(known)), None)
    if prefix is None or path.suffix.lower() in TIFFS or VSI in path.gdal[4:]:
        return [path]
    archive, inside = _split(path.gdal.removeprefix(prefix))
    if archive is None:
        raise UsageError(f"{path}: there is no such archive; name /vsizip/ and the path to one")
    names = [name for name in _members(path, archive, prefix) if name.startswith(inside)]
    images = [n for n in names if n.lower().endswith(suffixes) and not _hidden(n)]
    if not images:
        raise UsageError(
            f"{path}: there is no GeoTIFF in it; name another archive, or a folder in it"
        )
    return [VsiPath(f"{prefix}{archive}/{name}") for name in images]


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def _split(rest: str) -> tuple[str | None, str]:
    """The archive, and the folder in it."""
    parts = rest.rstrip("/").split("/")
    for n in range(1, len(parts) + 1):
        archive = "/".join(parts[:n])
        if os.path.isfile(archive):
            folder = "/".join(parts[n:])
            return archive, folder + "/" if folder else ""
    return None, ""


def _members(path: VsiPath, archive: str, prefix: str) -> Iterator[str]:
    try:
        if prefix == ZIP:
            with zipfile.ZipFile(archive) as file:
                names = file.namelist()
        else:
            with tarfile.open(archive) as tar:
                names = tar.getnames()
    except BROKEN as error:
        raise UsageError(
            f"{path}: cannot be read as an archive ({error}); deliver it again"
        ) from error
    if len(names) > MOST_MEMBERS:
        raise UsageError(f"{path}: holds {len(names)} files; unpack it, and name the folder")
    yield from names
