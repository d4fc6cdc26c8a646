"""The collars of a mosaic's images: each looked for once, in its file, before any warping."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile
from rasterio.windows import Window as RasterWindow

from capecam.errors import ImageError
from capecam.grid import Window
from capecam.imagery.header import Header
from capecam.imagery.validation.file_type import describe_damage
from capecam.mosaic.collar_mask import STRIP, Collar, find_collar
from capecam.mosaic.decoder import Decoder

KEPT = 256
"""Collars in memory: those of the images that several rows of cells in a city touch."""

LARGEST = 1 << 32
"""Pixels, 65,536 x 65,536: at 50,000 x 50,000, looking for the collar took 0.6 GB (and 71 s)."""


@dataclass(slots=True)
class CollarCache:
    """Those of a mosaic's images, each looked for once in a process; for all its threads."""

    _known: OrderedDict[str, _Found] = field(default_factory=OrderedDict)
    _locks: dict[str, threading.Lock] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __reduce__(self) -> tuple[Any, ...]:
        """Locks cannot go to another process, which looks for itself."""
        return CollarCache, ()

    def of(self, image: str, find: Callable[[], Collar | None]) -> Collar | None:
        """That of an image; while a thread looks for it, others that want it wait.

        Args:
            image: its name.
            find: looks for it.

        Raises:
            ImageError: that of ``find``, also when it is asked for again.
        """
        with self._lock:
            own = self._locks.setdefault(image, threading.Lock())
        with own:
            found = self._known.pop(image, None) or _Found.by(find)
            self._known[image] = found
        with self._lock:
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
        if found.error is not None:
            raise found.error
        return found.collar


@dataclass(frozen=True, slots=True)
class _Found:
    collar: Collar | None = None
    error: ImageError | None = None

    @classmethod
    def by(cls, find: Callable[[], Collar | None]) -> _Found:
        try:
            return cls(find())
        except ImageError as error:
            return cls(error=error)


def collar_of(file: Any, header: Header) -> Collar | None:
    """That of an open file; None: it has none.

    Raises:
        ImageError: it cannot be decoded, or is too large to be looked through.
    """
    if header.width * header.height > LARGEST:
        raise ImageError(
            f"{header.path}: has {header.width} x {header.height} px, and --collar auto looks "
            f"through {LARGEST} at most; mark its collar with nearblack -setmask"
        )
    decoder = Decoder.of(file, header.pixels, file)

    def read(window: Window) -> Any:
        inside = RasterWindow(window.col, window.row, window.width, window.height)
        values, _ = decoder.read(inside)
        few_bits = header.pixels.scaled and values.dtype == np.uint8
        return values.astype(np.uint16) if few_bits else values  # 2 of 15 is not nearly black

    try:
        return find_collar(read, header.height, header.width)
    except RasterioError as error:
        raise ImageError(
            f"{header.path}: cannot be decoded, so that its collar cannot be told "
            f"({describe_damage(header.path, error)}); deliver it again"
        ) from error


def collar_file(collar: Collar, header: Header) -> MemoryFile:
    """255 where the collar is, 0 elsewhere, as a GeoTIFF in memory that lies where its image does;
    some kB, since it is compressed."""
    memory = MemoryFile()
    with memory.open(
        driver="GTiff", width=header.width, height=header.height, count=1, dtype="uint8",
        crs=header.crs, transform=header.placement.transform, tiled=True, blockxsize=STRIP,
        blockysize=STRIP, compress="deflate", zlevel=1,
    ) as dataset:  # fmt: skip
        for row in range(0, header.height, STRIP):
            strip = Window(row, 0, min(STRIP, header.height - row), header.width)
            values = collar.read(strip).astype(np.uint8) * 255
            dataset.write(values, 1, window=RasterWindow(0, row, strip.width, strip.height))
    return memory
