"""Check the structure of a TIFF before GDAL reads it: what it declares must fit what it holds.

GDAL allocates what a header declares. So the directories of a file are read first: a few reads, no
pixels. All other errors are left to GDAL, which reports them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MAX_PAGES = 4096
"""Directories that are followed; overviews and masks are a dozen. GDAL reads them all."""

MAX_ENTRIES = 512
"""Tags of a directory; about 100 are known. Directories may overlap in the file, so that a small
file can have ``MAX_PAGES`` directories of this many tags each: two million tags."""

MAX_TAG_BYTES = 16 << 20
"""Size of a tag other than a table of blocks; 16 MiB of metadata is a hundred times the usual."""

MAX_BLOCKS = 1 << 23
"""Tiles or strips; a BigTIFF of 700,000 x 700,000 px in tiles of 256 has as many."""

MAX_BANDS = 1024
"""Hyperspectral sensors have a few hundred."""

MAX_BLOCK_BYTES = 64 << 20
"""Decoded size of a block that has to be decoded at once, such as a tile of 4,700 x 4,700 px RGB;
one of 512 x 512 px has 0.8 MB. Each reader holds one of each open image: with four readers on four
images in tiles of 255 MB (9,216 x 9,216 px, DEFLATE) memory rose to 3.4 GB without any network."""

MAX_STRIP_BYTES = 1 << 30
"""Decoded size of a compressed strip that is decoded line by line (all bands): to read its end,
GDAL decodes all of it, 1 GB in 2 to 4 s, for every block that is read. 18,900 x 18,900 px RGB."""

SPARSE_PX = 1 << 28
"""Pixels that any file may declare: an empty image of 12,500 x 12,500 px has fewer."""

PX_PER_BYTE = 100_000
"""Most pixels for each byte of stored blocks: a blank image has 7,700 in tiles of 1024 x 1024 px in
ZSTD, 10,800 in LERC (GDAL 3.10). Missing blocks hold nothing: 46,341 x 46,341 px of them make a
file of 0.5 MB, and would be two billion black pixels to process."""

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
         16: 8, 17: 8, 18: 8}  # fmt: skip
"""Bytes per value, by type of a tag."""

WIDTH, HEIGHT, BITS, COMPRESSION, BANDS_TAG, ROWS, PLANAR = 256, 257, 258, 259, 277, 278, 284
TILE_WIDTH, TILE_HEIGHT = 322, 323
OFFSETS = (324, 273)
"""Tables of offsets of tiles or strips, in bytes from the beginning of the file."""
LENGTHS = (325, 279)
"""Tables of sizes of tiles or strips in bytes; 0 where one is missing."""
TABLES = (*OFFSETS, *LENGTHS)
SUBFILE = 254
"""Kind of a page: its bit 4 is a mask."""
OF_INTEREST = {
    SUBFILE,    WIDTH, HEIGHT, BITS, COMPRESSION, BANDS_TAG, ROWS, PLANAR, TILE_WIDTH, TILE_HEIGHT,
}  # fmt: skip

NO_COMPRESSION = 1
JPEGS = {6, 7}
BY_LINE = {1, 5, 7, 8, 32773, 32946, 50000, 34925}
"""None, LZW, JPEG, DEFLATE, PackBits, ZSTD, LZMA: decoded line by line."""


class StructureError(ValueError):
    """A file declares what it cannot hold, or what cannot be read safely."""


@dataclass(frozen=True, slots=True)
class Page:
    """One directory of a TIFF."""

    tags: dict[int, int]
    """First value of each tag in ``OF_INTEREST``."""
    longest: int
    """Bytes of the longest tag other than a table of blocks."""
    stored: int
    """Bytes of all blocks; computed for the first page only, else the size of the file."""
    end: int
    """Bytes that a file with this whole page has, blocks and their tables included; 0 except for
    the first page."""


def check_structure(stream: BinaryIO, size: int) -> None:
    """Check that the pages of a TIFF of ``size`` bytes can be read in bounded memory and time.

    Raises:
        StructureError: they cannot.
    """
    for page in _pages(stream, size):
        _check_page(page, size)


def missing_end(stream: BinaryIO, size: int) -> str | None:
    """Describe the part missing at the end of a TIFF of ``size`` bytes; None if it is whole.

    Raises:
        StructureError: its first page cannot be read at all.
    """
    first = next(_pages(stream, size), None)
    return _missing(first, size) if first else None


def has_jpeg_mask(stream: BinaryIO, size: int, *, is_mask: bool) -> bool:
    """Return whether a mask in a TIFF, or a TIFF that is one, is compressed by JPEG.

    Raises:
        StructureError: its pages cannot be read.
    """
    masks = (page.tags for page in _pages(stream, size) if is_mask or page.tags.get(SUBFILE, 0) & 4)
    return any(tags.get(COMPRESSION) in JPEGS for tags in masks)


def _missing(page: Page, size: int) -> str | None:
    if page.end <= size:
        return None
    return f"the file is {size} bytes, its directory points to {page.end}: it was not copied whole"


def _pages(stream: BinaryIO, size: int) -> Iterator[Page]:
    """Yield the directories of a TIFF, which may be cut off anywhere."""
    head = stream.read(16)
    big = head[2:4] in (b"+\0", b"\0+")
    if len(head) < (16 if big else 8):
        raise StructureError(f"it ends after {len(head)} bytes; copy it again")
    order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
    reader = _DirectoryReader(stream, size, order, big)
    offset = reader.number(head[8:16] if big else head[4:8])
    if offset >= size:
        raise StructureError(
            f"the file is {size} bytes, its first directory is at {offset}: it was not copied "
            "whole; copy it again"
        )
    visited: set[int] = set()
    while 0 < offset < size and offset not in visited:  # ends also at a loop
        if len(visited) == MAX_PAGES:
            raise StructureError(f"it has more than {MAX_PAGES} pages; check the delivery")
        page, following = _page(reader, offset, measure=not visited)
        visited.add(offset)
        offset = following
        yield page


@dataclass(frozen=True, slots=True)
class _Entry:
    tag: int
    type: int
    count: int
    data: bytes
    """Values if they fit in 4 (BigTIFF: 8) bytes, else their offset."""

    @property
    def size(self) -> int:
        """Bytes of all values."""
        return self.count * SIZES.get(self.type, 1)


@dataclass(frozen=True, slots=True)
class _DirectoryReader:
    stream: BinaryIO
    size: int
    order: Literal["little", "big"]
    big: bool

    def number(self, data: bytes) -> int:
        """Return a number in the byte order of the file."""
        return int.from_bytes(data, self.order)

    def entries(self, offset: int) -> tuple[list[_Entry], int, int]:
        """Return the entries of a directory, the offset of the next, and the end of this one."""
        code = struct.Struct(
            (">" if self.order == "big" else "<") + ("HHQ8s" if self.big else "HHI4s")
        )
        count_bytes, pointer_bytes = (8, 8) if self.big else (2, 4)
        self.stream.seek(offset)
        count = self.number(self.stream.read(count_bytes))
        if count > MAX_ENTRIES:
            raise StructureError(f"a page of it has {count} tags; check the delivery")
        length = count * code.size
        raw = self.stream.read(length + pointer_bytes)
        whole = min(count, len(raw) // code.size)
        entries = [_Entry(*fields) for fields in code.iter_unpack(raw[: whole * code.size])]
        end = offset + count_bytes + length + pointer_bytes
        return entries, self.number(raw[length:]), end

    def values(self, entry: _Entry, limit: int) -> bytes:
        """Return the first ``limit`` values of a tag, as far as the file holds them."""
        width = SIZES.get(entry.type, 1)
        length = min(entry.count, limit) * width
        if entry.size <= len(entry.data):
            return entry.data[:length]
        offset = self.number(entry.data)
        if offset + width > self.size:
            return b""
        self.stream.seek(offset)
        return self.stream.read(length)

    def table(self, entry: _Entry) -> Floats:
        """Return (N,) whole numbers of 1 to 8 bytes; floats, since their sum may overflow int64."""
        width, values = SIZES.get(entry.type, 1), self.values(entry, MAX_BLOCKS)
        whole = values[: len(values) // width * width]
        dtype = np.dtype(f"u{width}").newbyteorder(self.order)
        return np.frombuffer(whole, dtype).astype(np.float64)


def _page(reader: _DirectoryReader, offset: int, *, measure: bool) -> tuple[Page, int]:
    """Return the page at an offset, and the offset of the next one."""
    entries, following, end = reader.entries(offset)
    tags: dict[int, int] = {}
    tables: dict[int, Floats] = {}
    for entry in entries:
        if entry.tag in OF_INTEREST:
            tags.setdefault(entry.tag, reader.number(reader.values(entry, 1)))
        elif entry.tag in TABLES and measure:
            tables[entry.tag] = reader.table(entry)
            if entry.size > len(entry.data):
                end = max(end, reader.number(entry.data) + entry.size)
    longest = max((entry.size for entry in entries if entry.tag not in TABLES), default=0)
    stored = reader.size
    offsets = next((tables[tag] for tag in OFFSETS if tag in tables), np.zeros(0))
    lengths = next((tables[tag] for tag in LENGTHS if tag in tables), None)
    if lengths is not None:
        stored = min(int(lengths.sum()), stored)
        count = min(len(offsets), len(lengths))
        ends = (offsets[:count] + lengths[:count])[lengths[:count] > 0]
        end = max(end, int(ends.max(initial=0.0)))
    return Page(tags, longest, stored, end if measure else 0), following


def _check_page(page: Page, size: int) -> None:
    tags = page.tags
    width, height = tags.get(WIDTH, 0), tags.get(HEIGHT, 0)
    bands, planar = tags.get(BANDS_TAG, 1), tags.get(PLANAR) == 2
    tiled = TILE_WIDTH in tags
    rows = tags.get(TILE_HEIGHT, 0) if tiled else min(tags.get(ROWS, height), height)
    cols = tags[TILE_WIDTH] if tiled else width
    blocks = -(-height // max(1, rows)) * -(-width // max(1, cols)) * (bands if planar else 1)
    block_bytes = rows * cols * (1 if planar else bands) * max(1, tags.get(BITS, 1) // 8)
    shape = f"{width} x {height} px"
    if bands > MAX_BANDS:
        raise StructureError(
            f"it declares {bands} bands; at most {MAX_BANDS} are read; leave some out with "
            "gdal_translate -b"
        )
    if page.longest > MAX_TAG_BYTES:
        raise StructureError(
            f"a tag of it declares {page.longest >> 20} MB of metadata; at most "
            f"{MAX_TAG_BYTES >> 20} MB are read; check the delivery"
        )
    if blocks * 4 > size + 4:
        declared = f"{shape} in {blocks} blocks, more than a file of {size} bytes can hold"
        problem = _missing(page, size) or f"it declares {declared}"
        raise StructureError(f"{problem}; check the delivery")
    if blocks > MAX_BLOCKS:
        raise StructureError(
            f"it declares {shape} in {blocks} blocks; at most {MAX_BLOCKS} are read; "
            "rewrite it with gdal_translate -co TILED=YES"
        )
    compression = tags.get(COMPRESSION, NO_COMPRESSION)
    one_strip = not tiled and rows >= height
    limit = MAX_STRIP_BYTES if one_strip and compression in BY_LINE else MAX_BLOCK_BYTES
    # GDAL reads any line of a strip that is not compressed
    if block_bytes > limit and not (one_strip and compression == NO_COMPRESSION):
        raise StructureError(
            f"its {shape} come in blocks of {cols} x {rows} px, which are "
            f"{block_bytes >> 20} MB each when decoded; at most {limit >> 20} MB are; "
            "rewrite it with gdal_translate -co TILED=YES"
        )
    if width * height > max(SPARSE_PX, PX_PER_BYTE * page.stored):
        raise StructureError(
            f"it declares {shape}, of which it holds {page.stored} bytes: no imagery is so blank; "
            "check the delivery"
        )
