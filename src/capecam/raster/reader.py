"""Reading the mosaic: windows of pixels and where they are valid, across the borders of files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from capecam.errors import ImageError
from capecam.grid import Window
from capecam.raster.bands import COLORS
from capecam.raster.decoder import Decoder, to_bytes
from capecam.raster.mosaic import Mosaic, Source
from capecam.raster.opening import open_readonly
from capecam.raster.warping import straightened
from capecam.settings import Scale

OPEN_FILES = 8
"""Handles that a reader keeps; a block of windows touches at most four images of a city."""


class _Opened(NamedTuple):
    files: tuple[Any, ...]
    """What has to be closed, the last first."""
    decoder: Decoder


@dataclass(slots=True)
class Reader:
    """Reads windows of a mosaic. One per thread: GDAL handles must not be shared."""

    mosaic: Mosaic
    needed: str | None = None
    """The image without which there is no point in going on; None: every image is."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Other images of which some blocks cannot be decoded, by name, and why; those are nodata."""
    _open: dict[str, _Opened] = field(default_factory=dict)

    def read(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Pixels (3, height, width), 0 where invalid, and validity (height, width).

        Raises:
            ImageError: naming the file that is needed and cannot be decoded.
        """
        pixels = np.zeros((len(COLORS), *window.shape), np.uint8)
        valid = np.zeros(window.shape, np.bool_)
        for source in self.mosaic.touching(window):
            part = source.window.intersection(window)
            if part is None:
                continue
            try:
                self._paste(source, part, pixels, valid, part.slices(window))
            except ImageError as error:
                if self.needed in (None, source.name):
                    raise
                self.unreadable.setdefault(source.name, str(error))
                self._paste_blocks(source, part, pixels, valid, window)
        return pixels, valid

    def stored(self, source: Source, part: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Values (3, height, width) of one image before they are scaled, and their validity.

        Args:
            source: of the mosaic.
            part: of its window.

        Raises:
            ImageError: they cannot be decoded.
        """
        rows, cols = part.slices(source.window)
        try:
            return self._decoder(source).read(RasterWindow.from_slices(rows, cols))
        except RasterioError as error:
            message = " ".join(str(error.__cause__ or error).split())
            raise ImageError(
                f"{source.header.path}: cannot be decoded at rows {rows.start}-{rows.stop}, "
                f"columns {cols.start}-{cols.stop} ({message}); deliver it again"
            ) from error

    def _paste_blocks(
        self,
        source: Source,
        part: Window,
        pixels: NDArray[np.uint8],
        valid: NDArray[np.bool_],
        window: Window,
    ) -> None:
        """What can be decoded of a damaged image, a block of its file at a time."""
        with suppress(RasterioError):
            for block in _blocks(self._decoder(source).dataset, source.window, part):
                with suppress(ImageError):
                    self._paste(source, block, pixels, valid, block.slices(window))

    def _paste(
        self,
        source: Source,
        part: Window,
        pixels: NDArray[np.uint8],
        valid: NDArray[np.bool_],
        place: tuple[slice, slice],
    ) -> None:
        values, usable = self.stored(source, part)
        found = to_bytes(values, self._scale(source)) if source.header.pixels.scaled else values
        fresh = usable & ~valid[place]
        pixels[:, *place] = np.where(fresh, found, pixels[:, *place])
        valid[place] |= usable

    def _scale(self, source: Source) -> Scale:
        if self.mosaic.scale is None:
            raise ValueError(f"{source.name} needs a scale, and the mosaic has none")
        return self.mosaic.scale

    def _decoder(self, source: Source) -> Decoder:
        """The file, on the mosaic's grid."""
        if source.name not in self._open:
            while len(self._open) >= OPEN_FILES:
                self._close(next(iter(self._open)))
            self._open[source.name] = self._opened(source)
        return self._open[source.name].decoder

    def _opened(self, source: Source) -> _Opened:
        file, pixels = open_readonly(source.header.path), source.header.pixels
        if not source.warped:
            return _Opened((file,), Decoder.of(file, pixels, file))
        straight = straightened(file, source.header, self.mosaic.grid.crop(source.window))
        return _Opened((file, straight), Decoder.of(straight, pixels.warped(file.count), file))

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._close(next(iter(self._open)))

    def _close(self, name: str) -> None:
        for dataset in reversed(self._open.pop(name).files):
            dataset.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _blocks(dataset: Any, place: Window, part: Window) -> Iterator[Window]:
    """The blocks of a file that lies at ``place``, as far as they are in ``part``."""
    height, width = dataset.block_shapes[0]
    first_row, first_col = (part.row - place.row) // height, (part.col - place.col) // width
    for row in range(place.row + first_row * height, part.bottom, height):
        for col in range(place.col + first_col * width, part.right, width):
            block = Window(row, col, height, width).intersection(part)
            if block is not None:
                yield block
