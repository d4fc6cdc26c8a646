"""Decode the values of a file to pixels and their validity."""

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
    """Reader of windows of an open dataset."""

    dataset: Any
    pixels: Pixels
    """Bands to read, and their validity."""
    masks: tuple[int, ...]
    """Bands whose masks are read; only one if all bands share a mask."""
    color_table: NDArray[np.uint8] | None = None
    """(N, 4) red, green, blue and alpha by value; None without a palette."""
    nearest: Decoder | None = None
    """Decoder of the same pixels without interpolation, which decides where they are finite."""

    @classmethod
    def of(cls, dataset: Any, pixels: Pixels, file: Any) -> Self:
        """Return the decoder of a dataset; ``file``, from which it was made, has the palette."""
        flags = dataset.mask_flag_enums[pixels.bands[0] - 1]
        distinct = tuple(dict.fromkeys(pixels.bands))
        masks = distinct[:1] if MaskFlags.per_dataset in flags else distinct
        return cls(dataset, pixels, masks, read_color_table(file) if pixels.palette else None)

    def read(self, window: RasterWindow) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return values (3, height, width) as stored, or colours of a palette, and validity
        (height, width); a pixel with a value that is not finite is not valid.
        """
        bands = self.pixels.bands
        distinct = tuple(dict.fromkeys(bands))
        values = self.dataset.read(distinct, window=window)
        if distinct != bands:
            values = values[[distinct.index(band) for band in bands]]
        valid = self._valid(window, values)
        if np.issubdtype(values.dtype, np.floating):
            if self.nearest is not None:
                exact, valid = self.nearest.read(window)
                return np.where(np.isfinite(values), values, exact), valid
            valid = valid & np.isfinite(values).all(axis=0)
        if self.color_table is None:
            return values, valid
        index, table = values[0], self.color_table
        in_table = index < len(table)
        colors = table[np.where(in_table, index, 0)]
        return np.moveaxis(colors[..., :3], -1, 0), valid & in_table & (colors[..., 3] > 0)

    def _valid(self, window: RasterWindow, values: NDArray[Any]) -> NDArray[np.bool_]:
        match self.pixels.validity:
            case "mask":
                masks = self.dataset.read_masks(list(self.masks), window=window)
                return np.asarray(masks.all(axis=0))
            case "alpha":
                return np.asarray(self.dataset.read(self.pixels.alpha, window=window) > 0)
            case "nodata":
                is_nodata = [
                    np.isnan(band) if nodata is not None and np.isnan(nodata) else band == nodata
                    for band, nodata in zip(values, self.pixels.nodata, strict=True)
                ]
                return np.asarray(~np.logical_and.reduce(is_nodata))
        return np.ones(values.shape[1:], np.bool_)


def read_color_table(dataset: Any) -> NDArray[np.uint8]:
    """Return (N, 4) red, green, blue and alpha by value of band 1; missing values have alpha 0.

    Raises:
        RasterioError: it has none, though its colour interpretation is palette.
    """
    try:
        colors: dict[int, tuple[int, ...]] = dataset.colormap(1)
    except ValueError as error:
        raise RasterioError("its colour table is missing") from error
    table = np.zeros((max(colors) + 1, 4), np.uint8)
    for value, color in colors.items():
        table[value] = color
    return table


def to_bytes(values: NDArray[Any], value_range: ValueRange) -> NDArray[np.uint8]:
    """Return ``round(255 * clip((value - low) / (high - low), 0, 1))``, computed in float64, with
    halves rounded to even.

    Args:
        values: of any shape; NaN becomes 0.
        value_range: two values, not percentiles.

    Raises:
        ValueError: the percentiles have not been replaced by values yet (a bug).
    """
    if value_range.percent:
        raise ValueError(f"percentiles {value_range} are no values yet")
    dtype = values.dtype
    if dtype.kind in "iu" and dtype.itemsize <= 2:  # a lookup table is faster, and the same
        limits = np.iinfo(dtype)
        table = _scale(np.arange(limits.min, limits.max + 1, dtype=np.float64), value_range)
        return table[values.astype(np.int32) - limits.min]
    return np.stack([_scale(band.astype(np.float64), value_range) for band in values])


def _scale(values: NDArray[np.float64], value_range: ValueRange) -> NDArray[np.uint8]:
    low, high = value_range.low, value_range.high
    share = np.clip((values - low) / (high - low), 0.0, 1.0)
    return np.rint(255.0 * np.nan_to_num(share)).astype(np.uint8)
