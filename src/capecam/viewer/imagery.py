"""Pictures of the imagery, as the network sees it: tiles for the map, and thumbnails.

Files of any kind are read as a run reads them (``mosaic.reader``): placed and turned, without
collars, scaled to 0..255. Threads read at the same time, each with a reader of its own.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from math import ceil, log2
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image

from capecam.detections.measurement import middle_pixel_m
from capecam.errors import CapecamError
from capecam.grid import Grid, Window
from capecam.imagery.discovery import find_images
from capecam.io.gdal import gdal_settings
from capecam.mosaic.mosaic import Mosaic
from capecam.mosaic.reader import Reader
from capecam.store.run_folder import RunFolder
from capecam.views.report.thumbnails import MARGIN_M, outlined, square_around

TILE_PX = 256

MAX_Z = 4
"""Coarsest level of the tiles: their pixels are 2^4 = 16 pixels of the grid wide, as those of the
run's overviews are. Images often have no overviews of their own, so that all of the 17 million
pixels of such a tile are decoded."""

STRIP_PX = 4 << 20
"""Pixels that are decoded at a time."""

THREADS = 2

NONE_NEEDED = ""
"""No image has this name: of damaged ones, what can be decoded is shown."""

CACHE_BYTES = 512 << 20
"""Size of the tiles that are kept in the temporary folder."""

QUALITY = 82
"""Quality of tiles and thumbnails."""


class FileCache:
    """Files in a folder, the least recently used of which are removed.

    Args:
        folder: an empty folder.
        max_bytes: size of all files.
    """

    def __init__(self, folder: Path, max_bytes: int = CACHE_BYTES) -> None:
        folder.mkdir()
        self._folder, self._max_bytes, self._bytes = folder, max_bytes, 0
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> bytes | None:
        """Return the content of a file, or None if it is not there."""
        with self._lock:
            if name not in self._sizes:
                return None
            self._sizes.move_to_end(name)
            return (self._folder / name).read_bytes()

    def put(self, name: str, content: bytes) -> None:
        """Keep a file."""
        with self._lock:
            if name in self._sizes:
                return
            (self._folder / name).write_bytes(content)
            self._sizes[name] = len(content)
            self._bytes += len(content)
            while self._bytes > self._max_bytes and len(self._sizes) > 1:
                oldest, size = self._sizes.popitem(last=False)
                (self._folder / oldest).unlink()
                self._bytes -= size


class Imagery:
    """Pictures of a run's imagery.

    Args:
        run: the run.
        folder: an empty folder for tiles that were drawn.
    """

    def __init__(self, run: RunFolder, folder: Path) -> None:
        self._run, self._cache = run, FileCache(folder)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="imagery")
        self._own = threading.local()
        self._opening = threading.Lock()
        self._mosaic: Mosaic | None = None

    def close(self) -> None:
        """Stop drawing."""
        self._pool.shutdown(cancel_futures=True)

    def problem(self) -> str:
        """Return why no image can be shown, as far as names of files tell; "" if they are there."""
        settings = self._run.settings
        try:
            find_images(settings.sources, vrt=settings.imagery.allow_vrt)
        except (CapecamError, OSError) as error:
            return f"the imagery is missing: {error}"
        return ""

    def tile(self, z: int, row: int, col: int) -> bytes | None:
        """Return a tile as WebP, transparent where there is no imagery; None beside the grid.

        Args:
            z: a pixel of the tile is 2^z pixels of the grid wide; 0 to :func:`max_z`.
            row: of the tile, from the top of the grid.
            col: of the tile, from the left of the grid.

        Raises:
            UsageError: no image can be used.
        """
        name = f"{z}_{row}_{col}.webp"
        found = self._cache.get(name)
        window = tile_window(self._run.grid, z, row, col)
        if found is not None or window is None:
            return found
        picture = self._pool.submit(self._draw_tile, z, window).result()
        self._cache.put(name, picture)
        return picture

    def thumbnail(self, outline: shapely.Geometry, class_id: int) -> bytes:
        """Return the imagery around a detection as JPEG, with its outline.

        Args:
            outline: in the CRS of the run.
            class_id: its class.

        Raises:
            UsageError: no image can be used.
        """
        return self._pool.submit(self._draw_thumbnail, outline, class_id).result()

    def _draw_tile(self, z: int, window: Window) -> bytes:
        with gdal_settings():
            strips = [_reduced(*self._reader().read(part), z) for part in _strips(window, z)]
        picture = Image.fromarray(np.concatenate(strips))
        stream = io.BytesIO()
        picture.save(stream, "WEBP", quality=QUALITY, method=2)
        return stream.getvalue()

    def _draw_thumbnail(self, outline: shapely.Geometry, class_id: int) -> bytes:
        grid = self._run.grid
        local = shapely.transform(outline, grid.to_pixels)
        window = square_around(local, MARGIN_M / float(middle_pixel_m(grid)[0]))
        with gdal_settings():
            pixels, _ = self._reader().read(window)
        color = self._run.settings.model.classes[class_id].color
        stream = io.BytesIO()
        outlined(pixels.transpose(1, 2, 0), local, window, color).save(
            stream, "JPEG", quality=QUALITY
        )
        return stream.getvalue()

    def _reader(self) -> Reader:
        """Return the reader of this thread."""
        with self._opening:
            if self._mosaic is None:
                self._mosaic = self._run.mosaic
        if not hasattr(self._own, "reader"):
            self._own.reader = Reader(self._mosaic, NONE_NEEDED)
        reader: Reader = self._own.reader
        return reader


def max_z(grid: Grid) -> int:
    """Return the coarsest level of the tiles of a grid: that of one tile, or ``MAX_Z``."""
    return min(MAX_Z, max(0, ceil(log2(max(grid.window.shape) / TILE_PX))))


def tile_window(grid: Grid, z: int, row: int, col: int) -> Window | None:
    """Return the pixels of a tile; None if there is no such tile."""
    if not 0 <= z <= max_z(grid) or min(row, col) < 0:
        return None
    size, hull = TILE_PX << z, grid.window
    window = Window(hull.row + row * size, hull.col + col * size, size, size)
    return window if window.intersection(hull) else None


def _strips(window: Window, z: int) -> Iterator[Window]:
    """Yield parts of a tile that are decoded one after the other, from top to bottom."""
    height = max(1 << z, STRIP_PX // window.width >> z << z)
    for top in range(window.row, window.bottom, height):
        bottom = min(top + height, window.bottom)
        yield Window.between(top, window.col, bottom, window.right)


def _reduced(pixels: NDArray[np.uint8], valid: NDArray[np.bool_], z: int) -> NDArray[np.uint8]:
    """Return means of the valid pixels of squares of 2^z: (H, W, 4), with the share of valid ones.

    Args:
        pixels: (3, 2^z H, 2^z W), 0 where invalid.
        valid: (2^z H, 2^z W).
        z: level.
    """
    factor = 1 << z
    colors = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    share = np.asarray(Image.fromarray(valid.astype(np.uint8) * 255).reduce(factor), np.uint16)
    means = np.asarray(colors.reduce(factor), np.uint16)
    means = np.minimum(means * 255 // np.maximum(share, 1)[..., None], 255)
    return np.dstack([means, share]).astype(np.uint8)
