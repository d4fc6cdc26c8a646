"""Reading a layer of the city anywhere, across the files of its cells."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from capecam.grid import Window
from capecam.io.gdal import open_readonly
from capecam.io.vrt import Layer, VrtTile, is_valid

OPEN = 8
"""Files kept open: places come cell by cell, and a place touches four cells at most."""


class LayerReader:
    """Windows of one product, from its cells' files; for one thread.

    The city's VRT would say the same, but opening thousands of sources takes it seconds, and each
    read looks through all of them.
    """

    def __init__(self, layer: Layer) -> None:
        self._tiles = layer.tiles
        self._index = shapely.STRtree([tile.window.box for tile in layer.tiles])
        self._open: OrderedDict[VrtTile, Any] = OrderedDict()
        first = self._dataset(layer.tiles[0])
        self.nodata: float = first.nodata
        self._dtype = first.dtypes[0]

    def close(self) -> None:
        """Close all files."""
        for dataset in self._open.values():
            dataset.close()
        self._open.clear()

    def read(self, band: int, window: Window) -> NDArray[Any]:
        """(height, width) as stored; nodata where no cell is.

        Args:
            band: from 1.
            window: in the layer's own pixels: blocks, where it comes in blocks.
        """
        pixels = np.full(window.shape, self.nodata, self._dtype)
        for index in sorted(self._index.query(window.box).tolist()):
            tile = self._tiles[index]
            part = tile.window.intersection(window)
            if part:
                rows, cols = part.slices(tile.window)
                found = self._dataset(tile).read(
                    band, window=((rows.start, rows.stop), (cols.start, cols.stop))
                )
                here = is_valid(found, self.nodata)
                np.copyto(pixels[part.slices(window)], found, where=here)  # cells may overlap
        return pixels

    def _dataset(self, tile: VrtTile) -> Any:
        if tile not in self._open:
            while len(self._open) >= OPEN:
                self._open.popitem(last=False)[1].close()
            self._open[tile] = open_readonly(tile.path)
        self._open.move_to_end(tile)
        return self._open[tile]
