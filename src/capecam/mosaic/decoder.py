"""From the values of a file to pixels of 0..255 and where they are valid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from capecam.imagery.bands import Pixels
from capecam.settings import ValueRange


@dataclass(frozen=True, slots=True)
class Decoder:
    """Reads windows of an open dataset."""

    dataset: Any
    pixels: Pixels
    """How."""
    masks: tuple[int, ...]
    """Bands whose masks count; one where they have it in common, or it would be read thrice."""
    table: NDArray[np.uint8] | None = None
    """(N, 4) red, green, blue and alpha by value, of a palette."""

    @classmethod
    def of(cls, dataset: Any, pixels: Pixels, table_of: Any) -> Self:
        """That of a dataset, with the colour table of the file that it was made of."""
        flags = dataset.mask_flag_enums[pixels.bands[0] - 1]
        distinct = tuple(dict.fromkeys(pixels.bands))
        masks = distinct[:1] if MaskFlags.per_dataset in flags else distinct
        return cls(dataset, pixels, masks, colour_table(table_of) if pixels.palette else None)

    def read(self, window: RasterWindow) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Values (3, height, width) as stored, or colours of a palette; validity (height, width).

        A value that is not finite in any of the bands is not valid.
        """
        bands = self.pixels.bands
        distinct = tuple(dict.fromkeys(bands))
        found = self.dataset.read(distinct, window=window)
        if distinct != bands:
            found = found[[distinct.index(band) for band in bands]]
        valid = self._valid(window, found)
        if np.issubdtype(found.dtype, np.floating):
            valid = valid & np.isfinite(found).all(axis=0)
        return self._coloured(found, valid) if self.table is not None else (found, valid)

    def _valid(self, window: RasterWindow, found: NDArray[Any]) -> NDArray[np.bool_]:
        match self.pixels.validity:
            case "mask":
                masks = self.dataset.read_masks(list(self.masks), window=window)
                return np.asarray(masks.all(axis=0))
            case "alpha":
                return np.asarray(self.dataset.read(self.pixels.alpha, window=window) > 0)
            case "nodata":
                return _differs(found, self.pixels.nodata)
        return np.ones(found.shape[1:], np.bool_)

    def _coloured(
        self, found: NDArray[Any], valid: NDArray[np.bool_]
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Colours of the table; what has none, or a transparent one, is no imagery."""
        table = np.zeros((1, 4), np.uint8) if self.table is None else self.table
        index = found[0]
        known = index < len(table)
        colours = table[np.where(known, index, 0)]
        return np.moveaxis(colours[..., :3], -1, 0), valid & known & (colours[..., 3] > 0)


def colour_table(dataset: Any) -> NDArray[np.uint8]:
    """(N, 4) red, green, blue and alpha by value of band 1; what it lacks has alpha 0.

    Raises:
        RasterioError: it has none, though it says that it is a palette.
    """
    try:
        colours: dict[int, tuple[int, ...]] = dataset.colormap(1)
    except ValueError as error:
        raise RasterioError("its colour table is missing") from error
    table = np.zeros((max(colours) + 1, 4), np.uint8)
    for value, colour in colours.items():
        table[value] = colour
    return table


def _differs(found: NDArray[Any], nodata: tuple[float | None, ...]) -> NDArray[np.bool_]:
    """(height, width), False where all bands equal their nodata."""
    same = [
        np.isnan(band) if value is not None and np.isnan(value) else band == value
        for band, value in zip(found, nodata, strict=True)
    ]
    return np.asarray(~np.logical_and.reduce(same))


def to_bytes(values: NDArray[Any], scale: ValueRange) -> NDArray[np.uint8]:
    """``round(255 * clip((value - low) / (high - low), 0, 1))`` in float64, halves to even.

    Args:
        values: of any shape; what is not a number becomes 0.
        scale: two values, no percentiles.

    Raises:
        ValueError: the percentiles have not been looked up yet (a bug, never the input).
    """
    if scale.percent:
        raise ValueError(f"percentiles {scale} are no values yet")
    kind = values.dtype
    if kind.kind in "iu" and kind.itemsize <= 2:  # a look-up is faster, and the same
        limits = np.iinfo(kind)
        every = np.arange(limits.min, limits.max + 1, dtype=np.float64)
        return _scaled(every, scale)[values.astype(np.int32) - limits.min]
    return np.stack([_scaled(band.astype(np.float64), scale) for band in values])


def _scaled(values: NDArray[np.float64], scale: ValueRange) -> NDArray[np.uint8]:
    share = np.clip((values - scale.low) / (scale.high - scale.low), 0.0, 1.0)
    return np.rint(255.0 * np.nan_to_num(share)).astype(np.uint8)
