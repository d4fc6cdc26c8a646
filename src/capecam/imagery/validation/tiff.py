"""The structure of a TIFF, read before GDAL does: what it declares must fit what it holds.

GDAL allocates what a header declares. So a file is looked through first: a few reads, no pixel.
Whatever is wrong in another way is left to GDAL, which says so.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MOST_PAGES = 4096
"""Directories that are followed; overviews and masks are a dozen. GDAL reads them all."""

MOST_ENTRIES = 512
"""Tags of a directory; there are about 100 known ones. Directories may lie on top of each other, so
that a small file can have as many as ``MOST_PAGES`` allows, of so many each: two million tags."""

MOST_TAG_BYTES = 16 << 20
"""Of a tag that is no table of blocks: metadata of 16 MiB is already a hundred times the usual."""

MOST_BLOCKS = 1 << 23
"""Tiles or strips; a BigTIFF of 700,000 x 700,000 px in tiles of 256 has as many."""

MOST_BANDS = 1024
"""Hyperspectral sensors have a few hundred."""

BLOCK_BYTES = 64 << 20
"""Decoded, of a block that has to be decoded at once, such as a tile of 4,700 x 4,700 px RGB; one
of 512 x 512 px has 0.8 MB. Each reader holds one of each open image: with four readers on four
images in tiles of 255 MB (9,216 x 9,216 px, DEFLATE) memory rose to 3.4 GB without any network."""

STRIP_BYTES = 1 << 30
"""Decoded, of a compressed strip that is decoded line by line (all bands): to read its end, GDAL
decodes all of it, 1 GB in 2 to 4 s, for every block that is read. 18,900 x 18,900 px RGB."""

SPARSE_PX = 1 << 28
"""So small a raster may be declared by any file: an empty image of 12,500 x 12,500 px is one."""

PX_PER_BYTE = 100_000
"""Above that, blocks cannot hold what a file declares: a blank image is 7,700 px a byte in tiles of
1024 x 1024 px in ZSTD, 10,800 in LERC (GDAL 3.10). Missing blocks hold nothing: 46,341 x 46,341 px
of them make a file of 0.5 MB, and would be two billion pixels of black to look at."""

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
         16: 8, 17: 8, 18: 8}  # fmt: skip
"""Bytes of each type of a tag."""

WIDTH, HEIGHT, BITS, COMPRESSION, BANDS_TAG, ROWS, PLANAR = 256, 257, 258, 259, 277, 278, 284
TILE_WIDTH, TILE_HEIGHT = 322, 323
OFFSETS = (324, 273)
"""Of tiles or strips, in bytes from the beginning of the file."""
LENGTHS = (325, 279)
"""Likewise; 0 where one is missing."""
TABLES = (*OFFSETS, *LENGTHS)
OF_INTEREST = {
    WIDTH, HEIGHT, BITS, COMPRESSION, BANDS_TAG, ROWS, PLANAR, TILE_WIDTH, TILE_HEIGHT,
}  # fmt: skip

NO_COMPRESSION = 1
BY_LINE = {1, 5, 7, 8, 32773, 32946, 50000, 34925}
"""None, LZW, JPEG, DEFLATE, PackBits, ZSTD, LZMA: decoded as they come."""


class StructureError(ValueError):
    """In words: what a file declares, and why that cannot be."""


@dataclass(frozen=True, slots=True)
class Page:
    """One directory of a TIFF."""

    tags: dict[int, int]
    """The first value of those of interest."""
    longest: int
    """Bytes of the longest tag that is no table of blocks."""
    stored: int
    """Bytes of all blocks together; looked up for the first page only, else the file's."""
    reach: int
    """Bytes that the file must have for this page to be whole, blocks and tables of them included;
    likewise, else 0."""

    @property
    def width(self) -> int:
        """In pixels."""
        return self.tags.get(WIDTH, 0)

    @property
    def height(self) -> int:
        """In pixels."""
        return self.tags.get(HEIGHT, 0)

    @property
    def bands(self) -> int:
        """Samples of a pixel."""
        return self.tags.get(BANDS_TAG, 1)

    @property
    def block(self) -> tuple[int, int]:
        """Height and width of a tile or strip."""
        if TILE_WIDTH in self.tags:
            return self.tags.get(TILE_HEIGHT, 0), self.tags[TILE_WIDTH]
        return min(self.tags.get(ROWS, self.height), self.height), self.width

    @property
    def blocks(self) -> int:
        """How many there are."""
        height, width = (max(1, edge) for edge in self.block)
        planes = self.bands if self.tags.get(PLANAR) == 2 else 1
        return -(-self.height // height) * -(-self.width // width) * planes

    @property
    def block_bytes(self) -> int:
        """Of a decoded block."""
        bands = 1 if self.tags.get(PLANAR) == 2 else self.bands
        height, width = self.block
        return height * width * bands * max(1, self.tags.get(BITS, 1) // 8)


def pages(stream: BinaryIO, size: int) -> Iterator[Page]:
    """The directories of a file that begins as a TIFF does; it may end anywhere.

    Args:
        stream: of the file.
        size: of the file in bytes.

    Raises:
        StructureError: there are absurdly many, or none.
    """
    head = stream.read(16)
    if len(head) < 8:
        raise StructureError(f"it ends after {len(head)} bytes; copy it again")
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    at = struct.unpack(order + ("Q" if big else "I"), head[8:16] if big else head[4:8])[0]
    if at >= size:
        raise StructureError(
            f"the file is {size} bytes, its first directory is at {at}: it was not copied whole; "
            "copy it again"
        )
    seen: set[int] = set()
    while 0 < at < size and at not in seen:  # a loop, or the way out of the file, ends it
        if len(seen) == MOST_PAGES:
            raise StructureError(f"it has more than {MOST_PAGES} pages; check the delivery")
        page, following = _page(_Entries(stream, size, order, big), at, measured=not seen)
        seen.add(at)
        at = following
        yield page


def missing(stream: BinaryIO, size: int) -> str | None:
    """In words, what is missing at the end of a file that begins as a TIFF does; None: nothing.

    Args:
        stream: of the file.
        size: of the file in bytes.

    Raises:
        StructureError: its first page cannot be read at all.
    """
    first = next(pages(stream, size), None)
    return _missing(first, size) if first else None


def _missing(page: Page, size: int) -> str | None:
    if page.reach <= size:
        return None
    return (
        f"the file is {size} bytes, its directory points to {page.reach}: it was not copied whole"
    )


@dataclass(frozen=True, slots=True)
class _Entries:
    """Reads the entries of a directory."""

    stream: BinaryIO
    size: int
    order: str
    big: bool

    def __call__(self, at: int) -> Iterator[tuple[int, int, int, bytes]]:
        """Tag, type, count, and the values or their place. Last comes tag -1 with the place of the
        next directory, and that at which this one ends for a count."""
        length, entry = (8, "HHQ8s") if self.big else (2, "HHI4s")
        self.stream.seek(at)
        count = int.from_bytes(self.stream.read(length), _ENDIAN[self.order])
        if count > MOST_ENTRIES:
            raise StructureError(f"a page of it has {count} tags; check the delivery")
        step = struct.calcsize(self.order + entry)
        pointer = 8 if self.big else 4
        raw = self.stream.read(count * step + pointer)
        for n in range(min(count, len(raw) // step)):
            tag, kind, values, data = struct.unpack_from(self.order + entry, raw, n * step)
            yield tag, kind, values, data
        yield -1, 0, at + length + count * step + pointer, raw[count * step :]

    def number(self, data: bytes) -> int:
        """In the order of the file's bytes."""
        return int.from_bytes(data, _ENDIAN[self.order])

    def values(self, kind: int, count: int, data: bytes, most: int) -> bytes:
        """The first ``most`` values of a tag, as far as the file holds them."""
        width = SIZES.get(kind, 1)
        if count * width <= len(data):
            return data[: min(count, most) * width]
        place = self.number(data)
        if place + width > self.size:
            return b""
        self.stream.seek(place)
        return self.stream.read(min(count, most) * width)

    def end(self, kind: int, count: int, data: bytes) -> int:
        """Of the values of a tag, as a place in the file; 0 where they need none."""
        length = count * SIZES.get(kind, 1)
        return self.number(data) + length if length > len(data) else 0


_ENDIAN: dict[str, Literal["little", "big"]] = {"<": "little", ">": "big"}


def _page(entries: _Entries, at: int, *, measured: bool) -> tuple[Page, int]:
    tags: dict[int, int] = {}
    tables: dict[int, Floats] = {}
    longest = following = reach = 0
    for tag, kind, count, data in list(entries(at)):
        if tag == -1:
            following, reach = entries.number(data), max(reach, count if measured else 0)
        elif tag in OF_INTEREST:
            first = entries.values(kind, count, data, 1)
            tags.setdefault(tag, entries.number(first))
        elif tag in TABLES and measured:
            tables[tag] = _numbers(entries, kind, entries.values(kind, count, data, MOST_BLOCKS))
            reach = max(reach, entries.end(kind, count, data))
        if tag not in TABLES:
            longest = max(longest, count * SIZES.get(kind, 1))
    offsets = next((tables[tag] for tag in OFFSETS if tag in tables), np.zeros(0))
    lengths = next((tables[tag] for tag in LENGTHS if tag in tables), None)
    if lengths is None:
        return Page(tags, longest, entries.size, reach), following
    stored = min(int(lengths.sum()), entries.size)
    return Page(tags, longest, stored, max(reach, _end(offsets, lengths))), following


def _numbers(entries: _Entries, kind: int, values: bytes) -> Floats:
    """(N,) whole numbers of 1 to 8 bytes; as floats, since their sum may be beyond integers."""
    width = SIZES.get(kind, 1)
    whole = values[: len(values) // width * width]
    return np.frombuffer(whole, f"{entries.order}u{width}").astype(np.float64)


def _end(offsets: Floats, lengths: Floats) -> int:
    """Of the last block that there is."""
    count = min(len(offsets), len(lengths))
    ends = (offsets[:count] + lengths[:count])[lengths[:count] > 0]
    return int(ends.max(initial=0.0))


def check(found: Iterable[Page], size: int) -> None:
    """Can the pages be what they say, and can they be read in bounded memory and time?

    Raises:
        StructureError: no.
    """
    for page in found:
        _check_page(page, size)


def _check_page(page: Page, size: int) -> None:
    shape = f"{page.width} x {page.height} px"
    if page.bands > MOST_BANDS:
        raise StructureError(
            f"it declares {page.bands} bands; at most {MOST_BANDS} are read; leave some out with "
            "gdal_translate -b"
        )
    if page.longest > MOST_TAG_BYTES:
        raise StructureError(
            f"a tag of it declares {page.longest >> 20} MB of metadata; at most "
            f"{MOST_TAG_BYTES >> 20} MB are read; check the delivery"
        )
    if page.blocks * 4 > size + 4:
        held = f"{shape} in {page.blocks} blocks, more than a file of {size} bytes can hold"
        raise StructureError(f"{_missing(page, size) or f'it declares {held}'}; check the delivery")
    if page.blocks > MOST_BLOCKS:
        raise StructureError(
            f"it declares {shape} in {page.blocks} blocks; at most {MOST_BLOCKS} are read; "
            "rewrite it with gdal_translate -co TILED=YES"
        )
    _check_block(page, shape)
    pixels = page.width * page.height
    if pixels > max(SPARSE_PX, PX_PER_BYTE * page.stored):
        raise StructureError(
            f"it declares {shape}, of which it holds {page.stored} bytes: no imagery is so blank; "
            "check the delivery"
        )


def _check_block(page: Page, shape: str) -> None:
    compression, tiled = page.tags.get(COMPRESSION, NO_COMPRESSION), TILE_WIDTH in page.tags
    alone = not tiled and page.block[0] >= page.height
    if alone and compression == NO_COMPRESSION:
        return  # GDAL reads any line of it
    most = STRIP_BYTES if alone and compression in BY_LINE else BLOCK_BYTES
    if page.block_bytes > most:
        raise StructureError(
            f"its {shape} come in blocks of {page.block[1]} x {page.block[0]} px, which are "
            f"{page.block_bytes >> 20} MB each when decoded; at most {most >> 20} MB are; "
            "rewrite it with gdal_translate -co TILED=YES"
        )
