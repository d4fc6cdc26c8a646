"""Where in a checkpoint file things lie: a zip's members, read from its directory alone.

Python's own zipfile believes the directory before it can be doubted, and PyTorch does not compare
checksums: flipped bits would pass.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap

from capecam.errors import CheckpointError

END, END64, LOCATOR, ENTRY, LOCAL = (
    b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2", b"PK\3\4",
)  # fmt: skip
COMMENT_BYTES = 1 << 16
DIRECTORY_BYTES = 32 << 20
"""A member takes about 60 bytes of the directory: this is half a million tensors."""
UNKNOWN = 0xFFFFFFFF
"""In place of a size or an offset that takes 64 bits, which then stand in an extra field."""


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A stretch of the file."""

    start: int
    size: int
    crc32: int = 0
    """Of its bytes; 0: not known."""
    plain: bool = True
    """It is stored as it is, and not compressed or encrypted."""

    @property
    def end(self) -> int:
        """First byte behind it."""
        return self.start + self.size


def zip_members(data: mmap) -> dict[str, ZipMember]:
    """Members by name, none on top of another.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        records = dict(_members(data))
    except (struct.error, UnicodeDecodeError) as error:
        raise CheckpointError(f"damaged or not a zip archive ({error})") from error
    _check_apart(records, len(data))
    return records


def check_plain(records: dict[str, ZipMember]) -> None:
    """Is each member stored as it is?

    Raises:
        CheckpointError: one is not, so that its size could be anything.
    """
    for name, record in records.items():
        if not record.plain:
            raise CheckpointError(
                f"refused, because its member {name[:80]!r} is compressed or encrypted, as "
                "PyTorch never writes it; load it where it comes from, and save the state_dict "
                "again"
            )


def check_crc32(data: mmap, record: ZipMember, what: str) -> None:
    """Are its bytes those that were written?

    Raises:
        CheckpointError: they are not.
    """
    if not record.crc32:  # torch.serialization.set_crc32_options(False) leaves them out
        return
    with memoryview(data) as view, view[record.start : record.end] as part:
        if zlib.crc32(part) != record.crc32:
            raise CheckpointError(f"{what} differs from its checksum: damaged; copy the file again")


def _members(data: mmap) -> Iterator[tuple[str, ZipMember]]:
    start, _, count = _directory(data)
    seen = set()
    for _ in range(count):
        if data[start : start + 4] != ENTRY:
            raise CheckpointError("damaged: its zip directory is not whole")
        flags, method, crc, packed, bare, n, m, k, at = struct.unpack_from(
            "<4xxxxxHH4xIIIHHH8xI", data, start
        )
        name = data[start + 46 : start + 46 + n].decode()
        extra = data[start + 46 + n : start + 46 + n + m]
        bare, packed, at = _wide(extra, (bare, packed, at))
        plain = not method and packed == bare and not flags & 1
        if name in seen:
            raise CheckpointError(f"holds {name[:80]!r} twice; save the weights again")
        seen.add(name)
        yield name, ZipMember(_content(data, at), packed, crc, plain)
        start += 46 + n + m + k


def _directory(data: mmap) -> tuple[int, int, int]:
    """Where it starts, its bytes and its entries."""
    end = data.rfind(END, max(0, len(data) - COMMENT_BYTES - 22))
    if end < 0:
        raise CheckpointError("damaged or not a whole zip archive: its end is missing; copy again")
    count, size, start = struct.unpack_from("<10xHII", data, end)
    if data[max(0, end - 20) : end - 16] == LOCATOR:
        (at,) = struct.unpack_from("<8xQ", data, end - 20)
        if data[at : at + 4] != END64:
            raise CheckpointError("damaged: its zip directory is missing")
        count, size, start = struct.unpack_from("<32xQQQ", data, at)
    if size > DIRECTORY_BYTES or start + size > len(data) or count * 46 > size:
        raise CheckpointError(f"damaged: its zip directory says {count} members in {size} bytes")
    return start, size, count


def _wide(extra: bytes, values: tuple[int, int, int]) -> tuple[int, int, int]:
    """Sizes and offset, those of 64 bits from the extra field."""
    place, wide = 0, b""
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, place)
        if kind == 1:
            wide = extra[place + 4 : place + 4 + length]
        place += 4 + length
    found = iter(struct.unpack(f"<{len(wide) // 8}Q", wide[: len(wide) // 8 * 8]))
    bare, packed, at = (next(found, v) if v == UNKNOWN else v for v in values)
    return bare, packed, at


def _content(data: mmap, at: int) -> int:
    """Where a member's bytes start, behind its own header."""
    if data[at : at + 4] != LOCAL:
        raise CheckpointError("damaged: a member of the zip archive is not where it should be")
    name, extra = struct.unpack_from("<26xHH", data, at)
    return at + 30 + int(name) + int(extra)


def _check_apart(records: dict[str, ZipMember], size: int) -> None:
    place = 0
    for name, record in sorted(records.items(), key=lambda item: item[1].start):
        if record.start < place or record.end > size:
            raise CheckpointError(
                f"damaged: {name[:80]!r} lies on top of another member, or beyond the file's end"
            )
        place = record.end
