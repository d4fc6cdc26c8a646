"""Objects' explanations on the grid of blocks of a city's rasters, as shares of each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
import shapely
import torch
from numpy.typing import NDArray

from capecam.attribution.methods import resample
from capecam.detections.neighbourhood import NEIGHBOURHOOD_M, buffered, within
from capecam.detections.regions import mask
from capecam.grid import Tiling, Window
from capecam.pipeline.blocks import block_any, block_mean
from capecam.store.object_store import StoredObject


@dataclass(frozen=True, slots=True, eq=False)
class ObjectShares:
    """Shares of an object's explanation by block."""

    window: Window
    """In blocks."""
    values: NDArray[np.float64]
    """(height, width) share of the energy of the whole map that is in the block; NaN in blocks
    that are outside of the object's tiles, or farther than ``NEIGHBOURHOOD_M`` from the object."""


def object_shares(
    shape: shapely.Geometry, explained: StoredObject, tiling: Tiling, pixel_m: tuple[float, float]
) -> ObjectShares:
    """Return the shares of an object's explanation near the object.

    The energy of a block is the sum of the map at its pixels. The parts of an object that is wider
    than a tile have maps of their own, which are added. A map without energy has shares of 0.

    Args:
        shape: of the object, in lattice pixels.
        explained: its maps.
        tiling: of the run; tiles are whole blocks.
        pixel_m: width and height of a pixel there.
    """
    size, stride = tiling.size, tiling.stride
    tiles = [Window(row, col, size, size) for row, col in explained.windows.tolist()]
    blocks = [window for tile in tiles if (window := tile.blocks(stride)) is not None]
    hull = reduce(Window.hull, blocks)
    energy, near = np.zeros(hull.shape), np.zeros(hull.shape, np.bool_)
    for tile, window, heat in zip(tiles, blocks, explained.maps, strict=True):
        at_pixels = resample(torch.from_numpy(heat).double(), size).numpy()
        energy[window.slices(hull)] += block_mean(at_pixels, stride)
        near[window.slices(hull)] |= block_any(_near(shape, tile, pixel_m), stride)
    shares = energy / (energy.sum() or 1.0)
    return ObjectShares(hull, np.where(near, shares, np.nan))


def _near(shape: shapely.Geometry, tile: Window, pixel_m: tuple[float, float]) -> NDArray[np.bool_]:
    """Return the pixels (S, S) of a tile in the object or its neighbourhood."""
    left, top, right, bottom = map(int, shapely.bounds(shape))
    reach = buffered(tile, NEIGHBOURHOOD_M, pixel_m)
    region = Window.between(top, left, bottom, right).intersection(reach)
    if region is None:
        raise ValueError(f"the object is not near its tile {tile}")
    return within(mask(shape, region), region, NEIGHBOURHOOD_M, pixel_m, tile)
