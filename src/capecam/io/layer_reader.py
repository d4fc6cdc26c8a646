"""Reading windows of a layer across the files of its cells."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from capecam.grid import Window
from capecam.io.gdal import open_pixels
from capecam.io.pyramid import is_valid
from capecam.io.vrt import Layer, VrtTile

MAX_OPEN = 8
"""Files kept open: windows come cell by cell, and a window touches at most four cells."""

CACHE_BYTES = 32 << 20
"""Size of the decoded blocks that are kept: 40 of three bands at full resolution, or seven cells at
1/10. GDAL decodes again for each window that crosses blocks, which most neighbourhoods do."""


@dataclass(frozen=True, slots=True)
class _OpenTile:
    """The open file of a cell."""

    tile: VrtTile
    dataset: Any

    def blocks(self, part: Window) -> Iterator[Window]:
        """Yield the blocks that touch a part of the tile, in pixels of the layer."""
        w, (height, width) = self.tile.window, self.dataset.block_shapes[0]
        for top in range((part.row - w.row) // height * height, part.bottom - w.row, height):
            for left in range((part.col - w.col) // width * width, part.right - w.col, width):
                size = min(height, w.height - top), min(width, w.width - left)
                yield Window(w.row + top, w.col + left, *size)

    def read(self, block: Window, band: int | None) -> NDArray[Any]:
        """Decode one or all bands of a block: (bands, height, width)."""
        rows, cols = block.slices(self.tile.window)
        window = (rows.start, rows.stop), (cols.start, cols.stop)
        values: NDArray[Any] = self.dataset.read([band] if band else None, window=window)
        return values

    @property
    def apart(self) -> bool:
        """Return whether bands are compressed one by one; otherwise a block has all of them."""
        return self.dataset.count > 1 and bool(self.dataset.interleaving.name == "band")


class LayerReader:
    """Reader of windows of one product, for one thread.

    The VRT of the city has the same pixels, but GDAL needs seconds to open thousands of sources,
    and each read searches all of them.
    """

    def __init__(self, layer: Layer) -> None:
        self._tiles = layer.tiles
        self._index = shapely.STRtree([tile.window.box for tile in layer.tiles])
        self._open: OrderedDict[VrtTile, _OpenTile] = OrderedDict()
        self._blocks: OrderedDict[tuple[VrtTile, Window, int | None], NDArray[Any]] = OrderedDict()
        self._bytes = 0
        first = self._opened(layer.tiles[0]).dataset
        self.nodata: float = first.nodata
        self._count: int = first.count
        self._dtype = first.dtypes[0]

    def close(self) -> None:
        """Close all files."""
        for each in self._open.values():
            each.dataset.close()
        self._open.clear()

    def read(self, band: int, window: Window) -> NDArray[Any]:
        """Return stored values, (height, width), with nodata where there is no cell.

        Args:
            band: number of the band, from 1.
            window: in pixels of the layer, which are blocks for a coarse product.
        """
        values: NDArray[Any] = self._read(range(band, band + 1), window)[0]
        return values

    def read_bands(self, window: Window) -> NDArray[Any]:
        """Return stored values of all bands, (bands, height, width), as :meth:`read` does."""
        return self._read(range(1, self._count + 1), window)

    def _read(self, bands: range, window: Window) -> NDArray[Any]:
        pixels = np.full((len(bands), *window.shape), self.nodata, self._dtype)
        for index in sorted(self._index.query(window.box).tolist()):
            if part := self._tiles[index].window.intersection(window):
                tile = self._opened(self._tiles[index])
                for block in tile.blocks(part):
                    inside = block.intersection(part) or block
                    values = self._block(tile, block, bands)[:, *inside.slices(block)]
                    valid = is_valid(values, self.nodata)
                    target = pixels[:, *inside.slices(window)]
                    np.copyto(target, values, where=valid)  # cells may overlap
        return pixels

    def _block(self, tile: _OpenTile, block: Window, bands: range) -> NDArray[Any]:
        """Return some bands of a block, (bands, height, width)."""
        if tile.apart:
            return np.concatenate([self._decoded(tile, block, band) for band in bands])
        return self._decoded(tile, block, None)[bands.start - 1 : bands.stop - 1]

    def _decoded(self, tile: _OpenTile, block: Window, band: int | None) -> NDArray[Any]:
        key = tile.tile, block, band
        if key not in self._blocks:
            values = tile.read(block, band)
            self._blocks[key] = values
            self._bytes += values.nbytes
            while self._bytes > CACHE_BYTES and len(self._blocks) > 1:
                self._bytes -= self._blocks.popitem(last=False)[1].nbytes
        self._blocks.move_to_end(key)
        return self._blocks[key]

    def _opened(self, tile: VrtTile) -> _OpenTile:
        if tile not in self._open:
            while len(self._open) >= MAX_OPEN:
                self._open.popitem(last=False)[1].dataset.close()
            self._open[tile] = _OpenTile(tile, open_pixels(tile.path))
        self._open.move_to_end(tile)
        return self._open[tile]
