"""Reading the mosaic: windows of pixels and where they are valid, across the borders of files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterWindow

from capecam.errors import ImageError
from capecam.grid import Window
from capecam.raster.header import BANDS
from capecam.raster.locations import in_words
from capecam.raster.mosaic import Mosaic, Source
from capecam.raster.opening import open_image

WARP_TOLERANCE = 1e-6
"""Pixels by which a place may be off: a rougher approximation depends on what is read at once."""

OPEN_FILES = 8
"""Handles that a reader keeps; a block of windows touches at most four images of a city."""


@dataclass(slots=True)
class Reader:
    """Reads windows of a mosaic. One per thread: GDAL handles must not be shared."""

    mosaic: Mosaic
    needed: str | None = None
    """The image without which there is no point in going on; None: every image is."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Other images of which some blocks cannot be decoded, by name, and why; those are nodata."""
    _open: dict[str, list[Any]] = field(default_factory=dict)

    def read(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Pixels (3, height, width), 0 where invalid, and validity (height, width).

        Raises:
            ImageError: naming the file that is needed and cannot be decoded.
        """
        pixels = np.zeros((len(BANDS), *window.shape), np.uint8)
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
            for block in _blocks(self._dataset(source), source.window, part):
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
        rows, cols = part.slices(source.window)
        inside = RasterWindow.from_slices(rows, cols)
        try:
            dataset = self._dataset(source)
            found = dataset.read(BANDS, window=inside)
            usable = _valid(dataset, inside, found)
        except RasterioError as error:
            message = in_words(source.header.path, error.__cause__ or error)
            raise ImageError(
                f"{source.header.path}: cannot be decoded at rows {rows.start}-{rows.stop}, "
                f"columns {cols.start}-{cols.stop} ({message}); deliver it again"
            ) from error
        fresh = usable & ~valid[place]
        pixels[:, *place] = np.where(fresh, found, pixels[:, *place])
        valid[place] |= usable

    def _dataset(self, source: Source) -> Any:
        """The file, as a dataset on the mosaic's grid."""
        if source.name not in self._open:
            while len(self._open) >= OPEN_FILES:
                self._close(next(iter(self._open)))
            self._open[source.name] = self._opened(source)
        return self._open[source.name][-1]

    def _opened(self, source: Source) -> list[Any]:
        """What has to be closed, the dataset to read from last."""
        file = open_image(source.header.path)
        return [file, self._reprojected(file, source)] if source.warped else [file]

    def _reprojected(self, dataset: Any, source: Source) -> WarpedVRT:
        place = self.mosaic.grid.crop(source.window)
        has_alpha = MaskFlags.alpha in dataset.mask_flag_enums[0]
        return WarpedVRT(
            dataset,
            crs=CRS.from_wkt(place.crs),
            transform=place.transform,
            height=source.window.height,
            width=source.window.width,
            resampling=Resampling.bilinear,
            tolerance=WARP_TOLERANCE,
            add_alpha=not has_alpha,
        )

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._close(next(iter(self._open)))

    def _close(self, name: str) -> None:
        for dataset in reversed(self._open.pop(name)):
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


def _valid(dataset: Any, window: RasterWindow, found: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """False where mask or alpha is 0, or all of the bands that are read equal nodata."""
    flags = dataset.mask_flag_enums[0]
    if MaskFlags.all_valid in flags:
        return np.ones(found.shape[1:], np.bool_)
    if MaskFlags.nodata in flags:
        nodata = np.array([dataset.nodatavals[band - 1] for band in BANDS])[:, None, None]
        return np.asarray((found != nodata).any(axis=0))
    return np.asarray(dataset.read_masks(1, window=window) > 0)
