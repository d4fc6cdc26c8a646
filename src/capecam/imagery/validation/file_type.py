"""Is a file one that GDAL may be shown at all? By its kind and its first bytes alone."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from capecam.errors import ImageError
from capecam.imagery.validation.tiff import StructureError, check, missing, pages
from capecam.io.paths import Location, in_words

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""A TIFF, or a BigTIFF."""

HEAD = 1024

AGAIN = "deliver it again"

KINDS: tuple[tuple[bytes, str], ...] = (
    (rb"version https://git-lfs", "a git LFS pointer, not the image; fetch it with git lfs pull"),
    (rb"\s*(<\?xml[^>]*>\s*)?<VRTDataset", "a VRT; use --allow-vrt and a name that ends in .vrt"),
    (rb"(?i)\s*(<!--.*?-->\s*)?<(!doctype html|html|head)",
     f"an HTML page: the download failed; {AGAIN}"),
    (rb"(?i)\s*<(\?xml|error|\w*exception)", f"an XML text: the download failed; {AGAIN}"),
    (rb"\s*\{", f"a JSON text: the download failed; {AGAIN}"),
    (rb"\xff\xd8\xff", "a JPEG with another name; convert it with gdal_translate, and see that it "
     "keeps its place (-a_srs, -a_ullr)"),
    (rb"\x89PNG", "a PNG with another name; convert it with gdal_translate, and see that it keeps "
     "its place (-a_srs, -a_ullr)"),
    (rb"GIF8|BM..\0\0\0\0|RIFF....WEBP", "a picture without a place; convert it with "
     "gdal_translate -a_srs ... -a_ullr ..."),
    (rb"\0\0\0.jP  |\xff\x4f\xff\x51", "a JPEG 2000 with another name; convert it with "
     "gdal_translate"),
    (rb"PK\x03\x04|PK\x05\x06", "a ZIP archive; unpack it, or name /vsizip/ with its path"),
    (rb"\x1f\x8b", "a gzip archive; unpack it, or name /vsigzip/ with its path"),
    (rb"7z\xbc\xaf|Rar!|BZh|\x28\xb5\x2f\xfd|\xfd7zXZ", "an archive; unpack it"),
    (rb"\x89HDF|CDF[\x01\x02\x05]", "an HDF or netCDF file; convert it with gdal_translate"),
    (rb"EHFA_HEADER", "an Erdas Imagine file; convert it with gdal_translate"),
    (rb"%PDF", "a PDF; convert it with gdal_translate"),
    (rb"\0+\Z", f"nothing but zeros at its beginning: it broke on its way; {AGAIN}"),
)  # fmt: skip


def check_kind(path: Path) -> os.stat_result:
    """Is it there, and an ordinary file that may be read? Nothing that could wait is opened.

    Raises:
        ImageError: no.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ImageError(f"{shown(path)}: its name is not UTF-8; rename it") from None
    try:
        status = path.stat()
    except OSError as error:
        raise ImageError(f"{path}: {_why_not_there(path, error)}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{path}: is {_kind(status.st_mode)}, not a file; name an image")
    if not os.access(path, os.R_OK):
        raise ImageError(f"{path}: may not be read (permission denied); grant it with chmod a+r")
    return status


def check_tiff(path: Path) -> None:
    """May GDAL open it as a GeoTIFF?

    Raises:
        ImageError: what it is instead, or what it declares that cannot be.
    """
    size = check_kind(path).st_size
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD)
            if not head:
                raise ImageError(f"{path}: the file is empty (0 bytes); {AGAIN}")
            if not head.startswith(MAGIC):
                raise ImageError(f"{path}: not a readable GeoTIFF but {_what(head)}")
            stream.seek(0)
            check(pages(stream, size), size)
    except StructureError as error:
        raise ImageError(f"{path}: not a usable GeoTIFF: {error}") from error
    except OSError as error:
        raise ImageError(
            f"{path}: cannot be read ({error.strerror}); try again, or check its disk"
        ) from error


def cut_off(path: Location) -> str | None:
    """In words, what is missing at the end of a TIFF; None: nothing, or that cannot be told."""
    if not isinstance(path, Path):
        return None
    try:
        with path.open("rb") as stream:
            if not stream.read(HEAD).startswith(MAGIC):
                return None
            stream.seek(0)
            return missing(stream, os.fstat(stream.fileno()).st_size)
    except (OSError, StructureError):
        return None


def describe_damage(path: Location, error: BaseException) -> str:
    """Why GDAL could not read an image: its end is missing, or else what GDAL says."""
    return cut_off(path) or in_words(path, error.__cause__ or error)


def shown(path: object) -> str:
    """A name in a line of text, whatever is in it."""
    return str(path).encode(errors="backslashreplace").decode()


def _why_not_there(path: Path, error: OSError) -> str:
    if path.is_symlink() and isinstance(error, FileNotFoundError):
        return f"a link to {os.readlink(path)}, which is not there; bring that back"
    if isinstance(error, FileNotFoundError):
        return "there is no such file; bring it back, or name it no more"
    return f"cannot be read ({error.strerror}); try again, or check its disk"


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe (FIFO)"), (stat.S_ISSOCK, "a socket"),
    )  # fmt: skip
    return next((name for test, name in kinds if test(mode)), "a device")


def _what(head: bytes) -> str:
    for pattern, words in KINDS:
        if re.match(pattern, head, re.DOTALL):
            return words
    with_text = not re.search(rb"[\x00-\x08\x0e-\x1f]", head)
    return f"{'a text' if with_text else 'something else'} (it begins {head[:8]!r}); {AGAIN}"
