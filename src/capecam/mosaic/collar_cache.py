"""Find the collar of each image of a mosaic once, in its file, before any warping."""

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
from capecam.imagery.validation.file_type import AGAIN, damage_remedy, describe_damage
from capecam.mosaic.collar_mask import STRIP, Collar, find_collar, strips
from capecam.mosaic.decoder import Decoder

MAX_COLLARS = 256
"""Collars in memory: those of the images that several rows of cells in a city touch."""

MAX_PIXELS = 1 << 32
"""65,536 x 65,536 px; at 50,000 x 50,000, finding the collar took 0.6 GB (and 71 s)."""


@dataclass(slots=True)
class CollarCache:
    """Collars of a mosaic's images, shared by all threads of a process."""

    _results: OrderedDict[str, Collar | ImageError | None] = field(default_factory=OrderedDict)
    _image_locks: dict[str, threading.Lock] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __reduce__(self) -> tuple[type[CollarCache], tuple[()]]:
        """Pickle as an empty cache: locks cannot go to another process."""
        return CollarCache, ()

    def get(self, image: str, find: Callable[[], Collar | None]) -> Collar | None:
        """Return the collar of a named image, found once; other threads that need it wait.

        Raises:
            ImageError: that of ``find``, also on later calls.
        """
        with self._lock:
            image_lock = self._image_locks.setdefault(image, threading.Lock())
        with image_lock:
            if image in self._results:
                result = self._results.pop(image)
            else:
                try:
                    result = find()
                except ImageError as error:
                    result = error
            self._results[image] = result
        with self._lock:
            while len(self._results) > MAX_COLLARS:
                self._results.popitem(last=False)
        if isinstance(result, ImageError):
            raise result
        return result


def collar_of(file: Any, header: Header) -> Collar | None:
    """Return the collar of an open file, or None if it has none.

    Raises:
        ImageError: it cannot be decoded, or is too large to be searched.
    """
    width, height = header.placement.width, header.placement.height
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{header.path}: has {width} x {height} px, and --collar auto reads at "
            f"most {MAX_PIXELS}; mark its collar with nearblack -setmask"
        )
    decoder = Decoder.of(file, header.pixels, file)

    def read(window: Window) -> Any:
        values, _ = decoder.read(RasterWindow(window.col, window.row, window.width, window.height))
        few_bits = header.pixels.scaled and values.dtype == np.uint8
        return values.astype(np.uint16) if few_bits else values  # 2 of 15 is not nearly black

    try:
        return find_collar(read, height, width)
    except RasterioError as error:
        raise ImageError(
            f"{header.path}: cannot be decoded, so that its collar cannot be found "
            f"({describe_damage(header.path, error)}); {damage_remedy(error) or AGAIN}"
        ) from error


def collar_file(collar: Collar, header: Header) -> MemoryFile:
    """Return a GeoTIFF in memory, georeferenced as the image: 255 in the collar, 0 elsewhere.

    It is compressed to some kB.
    """
    memory, placement = MemoryFile(), header.placement
    with memory.open(
        driver="GTiff", width=placement.width, height=placement.height, count=1, dtype="uint8",
        crs=placement.crs, transform=placement.transform, tiled=True, blockxsize=STRIP,
        blockysize=STRIP, compress="deflate", zlevel=1,
    ) as dataset:  # fmt: skip
        for strip in strips(placement.height, placement.width):
            values = collar.read(strip).astype(np.uint8) * 255
            dataset.write(values, 1, window=RasterWindow(0, strip.row, strip.width, strip.height))
    return memory
