"""Locate the members of a checkpoint's zip archive, and check their checksums.

PyTorch does not compare checksums: flipped bits would pass unnoticed.
"""

from __future__ import annotations

import mmap
import struct
import zipfile
import zlib
from dataclasses import dataclass

from capecam.errors import CheckpointError

DIRECTORY_BYTES = 32 << 20
"""Maximum size of the directory. A member takes about 60 bytes of it: this is half a million
tensors."""

LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Header of a member: its magic number, and the lengths of its name and of its extra field."""

ENCRYPTED = 1


class MappedFile(mmap.mmap):
    """A file in memory, of which ``zipfile`` reads no more than a directory may have."""

    def read(self, n: int | None = None) -> bytes:
        """Return the next ``n`` bytes.

        Raises:
            CheckpointError: too many are asked for.
        """
        size = len(self) - self.tell() if n is None else n
        if size > DIRECTORY_BYTES:
            raise CheckpointError(f"damaged: its zip directory says that it has {size} bytes")
        return super().read(size)


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A byte range of the file."""

    start: int
    size: int
    crc32: int = 0
    """Checksum of its bytes; 0 if unknown."""
    plain: bool = True
    """True if it is neither compressed nor encrypted."""

    @property
    def end(self) -> int:
        """First byte after it."""
        return self.start + self.size


def zip_members(data: MappedFile) -> dict[str, ZipMember]:
    """Return the members by name; they do not overlap.

    Raises:
        CheckpointError: the archive is damaged.
    """
    try:
        with zipfile.ZipFile(data) as archive:  # type: ignore[call-overload]
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error) as error:
        raise CheckpointError(
            f"damaged or not a whole zip archive ({str(error)[:80]}); copy the file again"
        ) from error
    members: dict[str, ZipMember] = {}
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        name = entry.filename
        if name in members:
            raise CheckpointError(f"holds {name[:80]!r} twice; save the weights again")
        start = _content_start(data, entry.header_offset)
        stored = entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & ENCRYPTED
        plain = stored and entry.compress_size == entry.file_size
        members[name] = member = ZipMember(start, entry.compress_size, entry.CRC, plain)
        if entry.header_offset < end or member.end > len(data):
            raise CheckpointError(
                f"damaged: {name[:80]!r} overlaps another member, or extends beyond the file's end"
            )
        end = member.end
    return members


def check_crc32(data: mmap.mmap, member: ZipMember, name: str) -> None:
    """Compare a member with its checksum.

    Raises:
        CheckpointError: they differ.
    """
    if not member.crc32:  # torch.serialization.set_crc32_options(False) leaves them out
        return
    with memoryview(data) as view, view[member.start : member.end] as part:
        if zlib.crc32(part) != member.crc32:
            raise CheckpointError(f"{name} differs from its checksum; copy the file again")


def _content_start(data: mmap.mmap, offset: int) -> int:
    """Offset of a member's bytes, which follow its own header."""
    try:
        magic, name, extra = LOCAL_HEADER.unpack_from(data, offset)
    except struct.error:
        magic, name, extra = b"", 0, 0
    if magic != b"PK\3\4":
        raise CheckpointError("damaged: a member of the zip archive is not where it should be")
    return offset + LOCAL_HEADER.size + int(name) + int(extra)
