"""Check the type of a file by its first bytes, before GDAL opens it."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from capecam.errors import ImageError
from capecam.imagery.validation.tiff import StructureError, check_structure, missing_end
from capecam.io.paths import Location, in_words

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of a TIFF or BigTIFF."""

HEAD = 1024

CODEC = re.compile(
    r"missing codec|not configured|not implemented|(?i:unsupported (?!marker)|not supported)|OJPEG"
    r"|arithmetic|data precision|SetupDecode|SetupState|Bits/sample must be|Wrong bitspersample"
)
"""Messages of GDAL, libtiff and libjpeg on a compression, or a variant of one, that they lack."""

AGAIN = "deliver it again"

KINDS: tuple[tuple[bytes, str], ...] = (
    (rb"version https://git-lfs", "a git LFS pointer, not the image; fetch it with git lfs pull"),
    (rb"\s*(<\?xml[^>]*>\s*)?<VRTDataset", "a VRT; use --allow-vrt and a name that ends in .vrt"),
    (rb"(?i)\s*(<!--.*?-->\s*)?<(!doctype html|html|head)",
     f"an HTML page: the download failed; {AGAIN}"),
    (rb"(?i)\s*<(\?xml|error|\w*exception)", f"an XML text: the download failed; {AGAIN}"),
    (rb"\s*\{", f"a JSON text: the download failed; {AGAIN}"),
    (rb"\xff\xd8\xff", "a JPEG with another name; convert it with gdal_translate, and check that "
     "it keeps its georeference (-a_srs, -a_ullr)"),
    (rb"\x89PNG", "a PNG with another name; convert it with gdal_translate, and check that it "
     "keeps its georeference (-a_srs, -a_ullr)"),
    (rb"GIF8|BM..\0\0\0\0|RIFF....WEBP", "an image without a georeference; convert it with "
     "gdal_translate -a_srs ... -a_ullr ..."),
    (rb"\0\0\0.jP  |\xff\x4f\xff\x51", "a JPEG 2000 with another name; convert it with "
     "gdal_translate"),
    (rb"PK\x03\x04|PK\x05\x06", "a ZIP archive; unpack it, or name /vsizip/ with its path"),
    (rb"\x1f\x8b", "a gzip archive; unpack it, or name /vsigzip/ with its path"),
    (rb"7z\xbc\xaf|Rar!|BZh|\x28\xb5\x2f\xfd|\xfd7zXZ", "an archive; unpack it"),
    (rb"\x89HDF|CDF[\x01\x02\x05]", "an HDF or netCDF file; convert it with gdal_translate"),
    (rb"EHFA_HEADER", "an Erdas Imagine file; convert it with gdal_translate"),
    (rb"%PDF", "a PDF; convert it with gdal_translate"),
    (rb"\0+\Z", f"nothing but zeros at its beginning: it was damaged in transfer; {AGAIN}"),
)  # fmt: skip


def check_kind(path: Path) -> os.stat_result:
    """Check that a path is an ordinary, readable file, without opening what could block.

    Raises:
        ImageError: it is not.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        printable = str(path).encode(errors="backslashreplace").decode()
        raise ImageError(f"{printable}: its name is not UTF-8; rename it") from None
    try:
        status = path.stat()
    except OSError as error:
        raise ImageError(f"{path}: {_describe_missing(path, error)}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{path}: is {_describe_mode(status.st_mode)}, not a file; name an image")
    if not os.access(path, os.R_OK):
        raise ImageError(f"{path}: may not be read (permission denied); grant it with chmod a+r")
    return status


def check_tiff(path: Path) -> None:
    """Check that GDAL may open a file as a GeoTIFF.

    Raises:
        ImageError: it is of another type, or declares more than it holds.
    """
    size = check_kind(path).st_size
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD)
            if not head:
                raise ImageError(f"{path}: the file is empty (0 bytes); {AGAIN}")
            if not head.startswith(MAGIC):
                raise ImageError(f"{path}: not a readable GeoTIFF but {_describe_content(head)}")
            stream.seek(0)
            check_structure(stream, size)
    except StructureError as error:
        raise ImageError(f"{path}: not a usable GeoTIFF: {error}") from error
    except OSError as error:
        raise ImageError(
            f"{path}: cannot be read ({error.strerror}); try again, or check its disk"
        ) from error


def cut_off(path: Location) -> str | None:
    """Describe the part missing at the end of a TIFF; None if it is whole or cannot be read."""
    if not isinstance(path, Path):
        return None
    try:
        with path.open("rb") as stream:
            if not stream.read(HEAD).startswith(MAGIC):
                return None
            stream.seek(0)
            return missing_end(stream, os.fstat(stream.fileno()).st_size)
    except (OSError, StructureError):
        return None


def describe_damage(path: Location, error: BaseException) -> str:
    """Describe why GDAL could not read an image: its end is missing, else GDAL's message."""
    missing = cut_off(path)
    if missing or not _lacks_codec(error):
        return missing or in_words(path, error.__cause__ or error)
    return in_words(path, _causes(error)[-1])


def damage_remedy(error: BaseException) -> str | None:
    """Return the remedy for a file that this GDAL cannot decode, although it may be whole; None
    for damage."""
    if not _lacks_codec(error):
        return None
    return (
        "rewrite it with another compression, by a GDAL that reads this one: gdal_translate -co "
        "COMPRESS=DEFLATE"
    )


def _lacks_codec(error: BaseException) -> bool:
    return any(CODEC.search(str(cause)) for cause in _causes(error))


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error and what it was raised from, down to the decoder's."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None and cause not in causes:
        causes.append(cause)
    return causes


def _describe_missing(path: Path, error: OSError) -> str:
    if path.is_symlink() and isinstance(error, FileNotFoundError):
        return f"a link to {os.readlink(path)}, which is not there; restore that"
    if isinstance(error, FileNotFoundError):
        return "there is no such file; restore it, or take it out of the sources"
    return f"cannot be read ({error.strerror}); try again, or check its disk"


def _describe_mode(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe (FIFO)", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _describe_content(head: bytes) -> str:
    for pattern, description in KINDS:
        if re.match(pattern, head, re.DOTALL):
            return description
    is_text = not re.search(rb"[\x00-\x08\x0e-\x1f]", head)
    return f"{'a text' if is_text else 'something else'} (it begins {head[:8]!r}); {AGAIN}"
