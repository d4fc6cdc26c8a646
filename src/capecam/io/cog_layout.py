"""Layout of a Cloud Optimized GeoTIFF: header, directories, then blocks, smallest overview first.

The tags are those that GDAL's COG driver writes for a raster of some pixels on the same grid; sizes
and places of blocks are filled in. Sources: TIFF 6.0; libtiff's BigTIFF
(https://libtiff.gitlab.io/libtiff/specification/bigtiff.html); GDAL's COG driver
(https://gdal.org/en/stable/drivers/raster/cog.html), whose "ghost" area tells readers about the
order and the leaders of blocks.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from shutil import copyfileobj
from typing import BinaryIO, Self

import numpy as np

from capecam.io.pyramid import BLOCK, Level, Pyramid

BIG = 2_000_000_000
"""Bytes before compression above which GDAL's ``BIGTIFF=IF_SAFER`` makes a BigTIFF: whole blocks of
the raster, and the pixels of its overviews. GDAL 3.10 made one of 38,500 x 38,500 px and of
1,750,000 x 513 px, but not of 38,000 x 38,000 px, nor of 1,500,000 x 513 px."""

LEADER = 4
"""Bytes before each block, with its size, and after it, where its last bytes are repeated."""

TEXT_TAGS = SOFTWARE, COPYRIGHT, GDAL_METADATA = 305, 33432, 42112
"""Tags with the metadata of the whole file."""

COPY_BYTES = 1 << 20

WIDTH, HEIGHT, OFFSETS, BYTE_COUNTS = 256, 257, 324, 325
SHORT, LONG, LONG8 = 3, 4, 16
INTEGERS = {SHORT: "<u2", LONG: "<u4", LONG8: "<u8"}
"""Types of numpy."""
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8}
"""Bytes of a value of each type of TIFF."""


@dataclass(frozen=True, slots=True)
class Tag:
    """Type, number and bytes of the values of a tag."""

    type: int
    count: int
    data: bytes

    @classmethod
    def of(cls, values: Sequence[int], type_: int) -> Self:
        """Return a tag with integers."""
        return cls(type_, len(values), np.asarray(values, INTEGERS[type_]).tobytes())

    def values(self) -> list[int]:
        """Return integers."""
        found: list[int] = np.frombuffer(self.data, INTEGERS[self.type]).tolist()
        return found

    @classmethod
    def of_size(cls, pixels: int) -> Self:
        """Return a tag with one edge of a raster, as short as libtiff has it."""
        return cls.of([pixels], SHORT if pixels < 1 << 16 else LONG)


Directory = Mapping[int, Tag]
"""Tags by their number."""


@dataclass(frozen=True, slots=True)
class Template:
    """Parts of a small COG from which those of a large one are made."""

    ghost: bytes
    """Between the header and the first directory."""
    full: Directory
    overview: Directory
    """Tags of the first overview; those of the raster if there is none."""

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Parse a little-endian TIFF."""
        ghost, directories, _ = _parse(data)
        return cls(ghost, directories[0], directories[min(1, len(directories) - 1)])


@dataclass(frozen=True, slots=True)
class _Form:
    """Sizes of numbers in a TIFF, or in a BigTIFF."""

    header: int
    """Bytes before the ghost area."""
    count: str
    """Format of the number of a directory's tags."""
    entry: str
    """Format of a tag without its value."""
    offset: str
    """Format of an offset; as long as a value that stands in its tag."""


CLASSIC = _Form(8, "<H", "<HHI", "<I")
BIGTIFF = _Form(16, "<Q", "<HHQ", "<Q")


def _parse(data: bytes | mmap) -> tuple[bytes, list[Directory], bool]:
    """Return the ghost area, all directories, and whether the file is a BigTIFF.

    Raises:
        ValueError: it is no little-endian TIFF.
    """
    big = data[:4] == b"II+\0"
    if not big and data[:4] != b"II*\0":
        raise ValueError(f"not a little-endian TIFF: {data[:4]!r}")
    form = BIGTIFF if big else CLASSIC
    inline, head = struct.calcsize(form.offset), struct.calcsize(form.entry)
    (at,) = struct.unpack_from(form.offset, data, form.header - inline)
    ghost, directories = data[form.header : at], list[Directory]()
    while at:
        (count,) = struct.unpack_from(form.count, data, at)
        at += struct.calcsize(form.count)
        tags = {}
        for _ in range(count):
            number, type_, n = struct.unpack_from(form.entry, data, at)
            size, start = n * TYPE_BYTES[type_], at + head
            if size > inline:
                (start,) = struct.unpack_from(form.offset, data, start)
            tags[number] = Tag(type_, n, data[start : start + size])
            at += head + inline
        directories.append(tags)
        (at,) = struct.unpack_from(form.offset, data, at)
    return ghost, directories, big


def is_big(shapes: Sequence[tuple[int, int]], pixel_bytes: int) -> bool:
    """Return whether a file is a BigTIFF.

    Args:
        shapes: (height, width) of the raster and its overviews.
        pixel_bytes: bytes of a pixel in all bands.
    """
    (height, width), *overviews = shapes
    pixels = -(-height // BLOCK) * -(-width // BLOCK) * BLOCK**2 + sum(h * w for h, w in overviews)
    return pixels * pixel_bytes > BIG


def write_layout(stream: BinaryIO, template: Template, pyramid: Pyramid, pixel_bytes: int) -> None:
    """Write a whole COG.

    Args:
        stream: an empty file.
        template: tags.
        pyramid: finished blocks.
        pixel_bytes: bytes of a pixel in all bands.
    """
    levels = pyramid.levels
    big = is_big([(level.height, level.width) for level in levels], pixel_bytes)

    def head(offsets: Sequence[Mapping[tuple[int, int], int]]) -> bytes:
        return _head(template.ghost, _directories(template, levels, offsets, big), big)

    header = len(head([{}] * len(levels)))
    offsets, at = list[dict[tuple[int, int], int]](), header
    for level in reversed(levels):
        offsets.insert(0, {})
        for corner in level.corners():
            if corner in level.places:
                offsets[0][corner] = at + LEADER
                at += level.places[corner][1] + 2 * LEADER
    stream.write(head(offsets))
    for level in reversed(levels):
        for data in pyramid.stored(level):
            stream.write(struct.pack("<I", len(data)))
            stream.write(data)
            stream.write(data[-LEADER:])


def write_with_tags(source: BinaryIO, stream: BinaryIO, tags: Directory) -> None:
    """Copy a COG with other tags of the raster itself; blocks are copied as they are.

    The copy has the bytes that the file would have if it had been written with these tags.

    Args:
        source: a COG whose blocks have leaders.
        stream: an empty file.
        tags: replace those with the numbers ``TEXT_TAGS``; a number that is missing is removed.

    Raises:
        ValueError: it is no little-endian TIFF.
    """
    with mmap(source.fileno(), 0, access=ACCESS_READ) as data:
        ghost, (full, *overviews), big = _parse(data)
        rest = {number: tag for number, tag in full.items() if number not in TEXT_TAGS}
        directories = [rest | {n: tags[n] for n in TEXT_TAGS if n in tags}, *overviews]
        offsets = [tags[OFFSETS].values() for tags in directories]
        stored = [offset for level in offsets for offset in level if offset]
        start = min(stored) - LEADER if stored else len(data)
        shift = len(_head(ghost, directories, big)) - start
        moved = [
            {**tags, OFFSETS: Tag.of([at and at + shift for at in level], LONG8 if big else LONG)}
            for tags, level in zip(directories, offsets, strict=True)
        ]
    stream.write(_head(ghost, moved, big))
    source.seek(start)
    copyfileobj(source, stream, COPY_BYTES)


def _directories(
    template: Template,
    levels: Sequence[Level],
    offsets: Sequence[Mapping[tuple[int, int], int]],
    big: bool,
) -> list[Directory]:
    """Return the directories of a raster and its overviews, with the offsets of their blocks."""
    directories = list[Directory]()
    for number, (level, places) in enumerate(zip(levels, offsets, strict=True)):
        corners = list(level.corners())
        tags = dict(template.overview if number else template.full)
        tags[WIDTH], tags[HEIGHT] = Tag.of_size(level.width), Tag.of_size(level.height)
        values = [places.get(corner, 0) for corner in corners]
        tags[OFFSETS] = Tag.of(values, LONG8 if big else LONG)
        sizes = [level.places.get(corner, (0, 0))[1] for corner in corners]
        tags[BYTE_COUNTS] = Tag.of(sizes, LONG)
        directories.append(tags)
    return directories


def _head(ghost: bytes, directories: Sequence[Directory], big: bool) -> bytes:
    """Return everything before the blocks; its size does not depend on the offsets."""
    start = (BIGTIFF if big else CLASSIC).header + len(ghost)
    head = struct.pack("<4sHHQ", b"II+\0", 8, 0, start) if big else b"II*\0" + _long(start)
    head += ghost
    for number, tags in enumerate(directories, start=1):
        head += _directory(tags, len(head), big, last=number == len(directories))
    return head


def _directory(tags: Directory, at: int, big: bool, *, last: bool) -> bytes:
    """Return a directory, at this offset, and the values that do not fit into it."""
    inline, entry = (8, 20) if big else (4, 12)
    start = at + (8 if big else 2) + entry * len(tags) + inline
    entries, values = [], b""
    for number, tag in sorted(tags.items()):
        if len(tag.data) <= inline:
            value = tag.data.ljust(inline, b"\0")
        else:
            where = start + len(values)
            value = struct.pack("<Q", where) if big else _long(where)
            values += tag.data + b"\0" * (len(tag.data) % 2)  # words begin at even offsets
        entries.append(struct.pack("<HHQ" if big else "<HHI", number, tag.type, tag.count) + value)
    count = struct.pack("<Q" if big else "<H", len(tags))
    following = 0 if last else start + len(values)
    end = struct.pack("<Q" if big else "<I", following)
    return b"".join([count, *entries, end, values])


def _long(value: int) -> bytes:
    return struct.pack("<I", value)
