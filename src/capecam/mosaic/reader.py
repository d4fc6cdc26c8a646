"""Reading the mosaic: windows of pixels and where they are valid, across the borders of files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from capecam.errors import ImageError
from capecam.grid import Grid, Window
from capecam.imagery.bands import COLORS
from capecam.imagery.header import Header
from capecam.imagery.opening import open_image
from capecam.imagery.validation.file_type import describe_damage
from capecam.mosaic.collar_cache import collar_file, collar_of
from capecam.mosaic.collar_mask import Collar
from capecam.mosaic.decoder import Decoder, to_bytes
from capecam.mosaic.mosaic import Mosaic, Source
from capecam.mosaic.warping import straightened, straightened_mask
from capecam.settings import ValueRange

OPEN_FILES = 8
"""Handles that a reader keeps; a block of windows touches at most four images of a city."""


T = TypeVar("T")

Mask = Callable[[RasterWindow], NDArray[np.bool_]]


class _Opened(NamedTuple):
    files: ExitStack
    """What has to be closed."""
    decoder: Decoder
    collar: Mask | None
    """Where pixels of its collar are, or went in."""


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
            inside = RasterWindow.from_slices(rows, cols)
            image = self._image(source)
            values, valid = image.decoder.read(inside)
            return values, valid if image.collar is None else valid & ~image.collar(inside)
        except RasterioError as error:
            path = source.header.path
            raise ImageError(
                f"{path}: cannot be decoded at rows {rows.start}-{rows.stop}, columns "
                f"{cols.start}-{cols.stop} ({describe_damage(path, error)}); deliver it again"
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
        with suppress(RasterioError, ImageError):
            for block in _blocks(self._image(source).decoder.dataset, source.window, part):
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

    def _scale(self, source: Source) -> ValueRange:
        if self.mosaic.scale is None:
            raise ImageError(
                f"{source.header.path}: pixels are {source.header.pixels.dtype}, and no scale was "
                "found for them; give values, --scale LOW,HIGH"
            )
        return self.mosaic.scale

    def _image(self, source: Source) -> _Opened:
        """The file, on the mosaic's grid."""
        if source.name not in self._open:
            while len(self._open) >= OPEN_FILES:
                self._close(next(iter(self._open)))
            self._open[source.name] = self._opened(source)
        return self._open[source.name]

    def _opened(self, source: Source) -> _Opened:
        header = source.header
        with ExitStack() as files:
            file = _kept(open_image(header.path), files)
            collar = self._collar(file, source)
            if not source.warped:
                decoder = Decoder.of(file, header.pixels, file)
                return _Opened(files.pop_all(), decoder, _reading(collar) if collar else None)
            place = self.mosaic.grid.crop(source.window)
            straight = _kept(straightened(file, header, place), files)
            decoder = Decoder.of(straight, header.pixels.warped(file.count), file)
            mask = _straightened_collar(collar, header, place, files) if collar else None
            return _Opened(files.pop_all(), decoder, mask)

    def _collar(self, file: Any, source: Source) -> Collar | None:
        if self.mosaic.collars is None:
            return None
        return self.mosaic.collars.of(source.name, lambda: collar_of(file, source.header))

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._close(next(iter(self._open)))

    def _close(self, name: str) -> None:
        self._open.pop(name).files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _kept(dataset: T, files: ExitStack) -> T:
    """Closed with the others; not as a context manager, which would have to end in its thread."""
    files.callback(dataset.close)  # type: ignore[attr-defined]
    return dataset


def _reading(collar: Collar) -> Mask:
    def read(window: RasterWindow) -> NDArray[np.bool_]:
        return collar.read(Window(window.row_off, window.col_off, window.height, window.width))

    return read


def _straightened_collar(collar: Collar, header: Header, place: Grid, files: ExitStack) -> Mask:
    mask = _kept(_kept(collar_file(collar, header), files).open(), files)
    straight = _kept(straightened_mask(mask, header, place), files)

    def read(window: RasterWindow) -> NDArray[np.bool_]:
        return np.asarray(straight.read(1, window=window) > 0)

    return read


def _blocks(dataset: Any, place: Window, part: Window) -> Iterator[Window]:
    """The blocks of a file that lies at ``place``, as far as they are in ``part``."""
    height, width = dataset.block_shapes[0]
    first_row, first_col = (part.row - place.row) // height, (part.col - place.col) // width
    for row in range(place.row + first_row * height, part.bottom, height):
        for col in range(place.col + first_col * width, part.right, width):
            block = Window(row, col, height, width).intersection(part)
            if block is not None:
                yield block
