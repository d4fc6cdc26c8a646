"""Read windows of the mosaic, pixels and validity, across the borders of files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from capecam.errors import ImageError
from capecam.grid import Grid, Window
from capecam.imagery.bands import COLORS
from capecam.imagery.header import Header
from capecam.imagery.opening import open_image
from capecam.imagery.validation.file_type import AGAIN, damage_remedy, describe_damage
from capecam.mosaic.collar_cache import collar_file, collar_of
from capecam.mosaic.collar_mask import Collar
from capecam.mosaic.decoder import Decoder, to_bytes
from capecam.mosaic.mosaic import Mosaic, Source
from capecam.mosaic.turning import Turn
from capecam.mosaic.warping import warp, warp_mask
from capecam.settings import ValueRange

OPEN_FILES = 8
"""Open files of a reader; a block of windows touches at most four images of a city."""

T = TypeVar("T")

Mask = Callable[[RasterWindow], NDArray[np.bool_]]
Decoded = tuple[Window, NDArray[np.uint8], NDArray[np.bool_]]
"""A window, pixels (3, height, width) and validity (height, width)."""


class _OpenImage(NamedTuple):
    files: ExitStack
    """Closes the image's datasets."""
    decoder: Decoder
    collar: Mask | None
    """Reads (height, width) of a window: True where pixels come from the collar."""
    turn: Turn
    """Order of the dataset's pixels in the mosaic."""


@dataclass(slots=True)
class Reader:
    """Reader of windows of a mosaic. One per thread: GDAL handles must not be shared."""

    mosaic: Mosaic
    needed: str | None = None
    """Image whose errors are raised; None: those of every image."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Errors of other images by name; their blocks that cannot be decoded are nodata."""
    with_pixels: set[str] = field(default_factory=set)
    """Images of which a valid pixel has been read."""
    _images: dict[str, _OpenImage] = field(default_factory=dict)

    def read(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return pixels (3, height, width), 0 where invalid, and validity (height, width).

        Raises:
            ImageError: a needed image cannot be decoded; names the file.
        """
        pixels = np.zeros((len(COLORS), *window.shape), np.uint8)
        valid = np.zeros(window.shape, np.bool_)
        for source in self.mosaic.touching(window):
            part = source.window.intersection(window)
            if part is None:
                continue
            for block, values, usable in self._decode(source, part):
                slices = block.slices(window)
                if source.name not in self.with_pixels and usable.any():
                    self.with_pixels.add(source.name)
                is_new = usable & ~valid[slices]
                where = True if is_new.all() else is_new  # four times as fast without a mask
                np.copyto(pixels[:, *slices], values, where=where)
                valid[slices] |= usable
        return pixels, valid

    def _decode(self, source: Source, part: Window) -> Iterator[Decoded]:
        """Yield a part of an image; of a damaged one, the blocks that can be decoded."""
        try:
            yield part, *self._to_bytes(source, part)
        except ImageError as error:
            if self.needed in (None, source.name):
                raise
            self.unreadable.setdefault(source.name, str(error))
            with suppress(RasterioError, ImageError):
                for block in _blocks(self._image(source), source.window, part):
                    with suppress(ImageError):
                        yield block, *self._to_bytes(source, block)

    def _to_bytes(
        self, source: Source, part: Window
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        values, valid = self.stored(source, part)
        return in_bytes(source, self.mosaic.value_range, values), valid

    def stored(self, source: Source, part: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return values (3, height, width) of a part of an image's window, not scaled, and validity
        (height, width).

        Raises:
            ImageError: they cannot be decoded.
        """
        rows, cols = part.slices(source.window)
        try:
            image = self._image(source)
            inside = image.turn.to_file(Window(rows.start, cols.start, *part.shape))
            rows, cols = inside.slices(Window(0, 0, *image.turn.shape))
            window = RasterWindow.from_slices(rows, cols)
            values, valid = image.decoder.read(window)
            valid = valid if image.collar is None else valid & ~image.collar(window)
            return image.turn.apply(values), image.turn.apply(valid)
        except RasterioError as error:
            path = source.header.path
            raise ImageError(
                f"{path}: cannot be decoded at rows {rows.start}-{rows.stop}, columns "
                f"{cols.start}-{cols.stop} ({describe_damage(path, error)}); "
                f"{damage_remedy(error) or AGAIN}"
            ) from error

    def _image(self, source: Source) -> _OpenImage:
        """Return an image on the mosaic's grid, opened if need be."""
        if source.name not in self._images:
            while len(self._images) >= OPEN_FILES:
                self._close(next(iter(self._images)))
            self._images[source.name] = self._open(source)
        return self._images[source.name]

    def _open(self, source: Source) -> _OpenImage:
        header, collar = source.header, None
        with ExitStack() as files:
            file = _close_with(files, open_image(header.path))
            if self.mosaic.collars is not None:
                collar = self.mosaic.collars.get(source.name, lambda: collar_of(file, header))
            if not source.warped or source.turn:
                decoder = Decoder.of(file, header.pixels, file)
                mask = _collar_reader(collar) if collar else None
                turn = source.turn or Turn(source.window.shape)
                return _OpenImage(files.pop_all(), decoder, mask, turn)
            grid = self.mosaic.grid.crop(source.window)
            decoder = _warped_decoder(file, header, grid, files)
            mask = _warped_collar_reader(collar, header, grid, files) if collar else None
            return _OpenImage(files.pop_all(), decoder, mask, Turn(source.window.shape))

    def close(self) -> None:
        """Close all files."""
        while self._images:
            self._close(next(iter(self._images)))

    def _close(self, name: str) -> None:
        self._images.pop(name).files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def in_bytes(
    source: Source, value_range: ValueRange | None, values: NDArray[Any]
) -> NDArray[np.uint8]:
    """Return the values of an image as 0..255.

    Raises:
        ImageError: they have to be scaled, and no scale is known.
    """
    pixels = source.header.pixels
    if not pixels.scaled:
        return values
    if value_range is None:
        raise ImageError(
            f"{source.header.path}: pixels are {pixels.dtype}, and no scale was found for them; "
            "give values, --scale LOW,HIGH"
        )
    return to_bytes(values, value_range)


def _close_with(files: ExitStack, dataset: T) -> T:
    """Close a dataset with the others. Not as a context manager: rasterio's has to end in the
    thread that began it."""
    files.callback(dataset.close)  # type: ignore[attr-defined]
    return dataset


def _collar_reader(collar: Collar) -> Mask:
    def read(window: RasterWindow) -> NDArray[np.bool_]:
        return collar.read(Window(window.row_off, window.col_off, window.height, window.width))

    return read


def _warped_decoder(file: Any, header: Header, grid: Grid, files: ExitStack) -> Decoder:
    """Return the decoder of an image that is resampled; values that are not finite are those of the
    nearest pixel, as in the file, and not spread to others."""
    pixels, nearest = header.pixels.warped(file.count), None
    warped = _close_with(files, warp(file, header, grid))
    if header.pixels.dtype.startswith("float"):
        exact = _close_with(files, warp(file, header, grid, Resampling.nearest))
        nearest = Decoder.of(exact, pixels, file)
    return replace(Decoder.of(warped, pixels, file), nearest=nearest)


def _warped_collar_reader(collar: Collar, header: Header, grid: Grid, files: ExitStack) -> Mask:
    mask = _close_with(files, _close_with(files, collar_file(collar, header)).open())
    warped = _close_with(files, warp_mask(mask, header, grid))

    def read(window: RasterWindow) -> NDArray[np.bool_]:
        return np.asarray(warped.read(1, window=window) > 0)

    return read


def _blocks(opened: _OpenImage, image: Window, part: Window) -> Iterator[Window]:
    """Yield the parts of a dataset's blocks in ``part`` of the window that the image covers."""
    height, width = opened.decoder.dataset.block_shapes[0]
    rows, cols = part.slices(image)
    inside = opened.turn.to_file(Window(rows.start, cols.start, *part.shape))
    for row in range(inside.row // height * height, inside.bottom, height):
        for col in range(inside.col // width * width, inside.right, width):
            block = Window(row, col, height, width).intersection(inside)
            if block is not None:
                w = opened.turn.to_image(block)
                yield Window(image.row + w.row, image.col + w.col, w.height, w.width)
