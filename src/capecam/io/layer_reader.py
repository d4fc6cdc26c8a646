"""Reading windows of a layer across the files of its cells."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from capecam.grid import Window
from capecam.io.gdal import open_readonly
from capecam.io.pyramid import is_valid
from capecam.io.vrt import Layer, VrtTile

MAX_OPEN = 8
"""Files kept open: windows come cell by cell, and a window touches at most four cells."""


class LayerReader:
    """Reader of windows of one product, for one thread.

    The VRT of the city has the same pixels, but GDAL needs seconds to open thousands of sources,
    and each read searches all of them.
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
        """Return stored values, (height, width), with nodata where there is no cell.

        Args:
            band: number of the band, from 1.
            window: in pixels of the layer, which are blocks for a coarse product.
        """
        pixels = np.full(window.shape, self.nodata, self._dtype)
        for index in sorted(self._index.query(window.box).tolist()):
            tile = self._tiles[index]
            part = tile.window.intersection(window)
            if part:
                rows, cols = part.slices(tile.window)
                values = self._dataset(tile).read(
                    band, window=((rows.start, rows.stop), (cols.start, cols.stop))
                )
                valid = is_valid(values, self.nodata)
                np.copyto(pixels[part.slices(window)], values, where=valid)  # cells may overlap
        return pixels

    def _dataset(self, tile: VrtTile) -> Any:
        if tile not in self._open:
            while len(self._open) >= MAX_OPEN:
                self._open.popitem(last=False)[1].close()
            self._open[tile] = open_readonly(tile.path)
        self._open.move_to_end(tile)
        return self._open[tile]
