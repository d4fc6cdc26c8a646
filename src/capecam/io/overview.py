"""A city's layer at 1/16: it opens at once, where the files of thousands of cells would not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from capecam.grid import Grid, Window
from capecam.io.cog import BLOCK, RAW, to_cog
from capecam.io.gdal import open_readonly
from capecam.io.vrt import Layer, VrtTile, is_valid

FACTOR = 16
"""1.28 m for pixels of 8 cm; a layer in blocks of 0.8 m comes at 12.8 m."""

KEYS = "CAPECAM_BLOCKS"
"""Tag: what each block was made from, row-major; ``-`` where there is nothing."""

EMPTY = "-"

COLUMNS = 16
"""Blocks go from top to bottom in columns of so many, so that few tiles are needed at a time."""

KEPT = 64
"""Tiles, of 2 to 7 MB: a column is 11 cells of 12,500 px wide, and a block reaches two or three
rows of them."""


def write_overview(path: Path, layer: Layer, before: Path) -> None:
    """The layer at 1/16 as a COG, from the overviews of its tiles.

    Blocks that were made from the same tiles in the overview before are taken over.

    Args:
        path: of the file to make.
        layer: the product.
        before: that of the last time, which may not exist.
    """
    raw = path.with_name(f".{path.name}.raw.tif")
    with ExitStack() as files:
        files.callback(raw.unlink, missing_ok=True)
        template = files.enter_context(open_readonly(layer.tiles[0].path))
        palette = template.colormap(1) if template.colorinterp[0].name == "palette" else None
        profile = _profile(template, layer.grid)
        blocks = list(_blocks(layer, profile["height"], profile["width"]))
        earlier = _Earlier.open(before, files, (profile["height"], profile["width"]))
        resampling = Resampling.nearest if palette else Resampling.average
        small = _Small(layer.grid.window, template, resampling)
        with rasterio.open(raw, "w", **profile) as dataset:
            dataset.descriptions, dataset.scales = template.descriptions, template.scales
            if palette:
                dataset.write_colormap(1, palette)
            for block in blocks:
                if block.tiles:
                    found = earlier.read(block)
                    dataset.write(small.read(block) if found is None else found, window=block.place)
            dataset.update_tags(**{KEYS: _keys(blocks)})
        to_cog(raw, path, nearest=palette is not None)


def _profile(template: Any, grid: Grid) -> dict[str, Any]:
    hull, t = grid.window, grid.transform
    return RAW | {
        "crs": template.crs,
        "transform": rasterio.Affine(t.a * FACTOR, 0.0, t.c, 0.0, t.e * FACTOR, t.f),
        "height": -(-hull.height // FACTOR), "width": -(-hull.width // FACTOR),
        "count": template.count, "dtype": template.dtypes[0], "nodata": template.nodata,
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Block:
    window: Window
    """In pixels of the overview."""
    tiles: tuple[VrtTile, ...]
    """Those that have pixels in it."""
    key: str
    """Changes with the tiles, and with their place."""

    @property
    def place(self) -> RasterWindow:
        """The window, as rasterio has it."""
        w = self.window
        return RasterWindow(w.col, w.row, w.width, w.height)


def _keys(blocks: Sequence[_Block]) -> str:
    """Of all blocks, row-major."""
    return " ".join(block.key for block in sorted(blocks, key=lambda block: block.window))


@dataclass(frozen=True, slots=True)
class _Earlier:
    """The overview of the last time."""

    dataset: Any | None
    keys: Mapping[tuple[int, int], str]
    """Of its blocks, by (row, col)."""

    @classmethod
    def open(cls, path: Path, files: ExitStack, shape: tuple[int, int]) -> Self:
        """Without blocks, where there is none of that shape (height, width)."""
        try:
            dataset = files.enter_context(open_readonly(path))
        except RasterioError:  # there is none, or it is damaged
            return cls(None, {})
        if dataset.shape != shape:
            return cls(None, {})
        keys = dataset.tags().get(KEYS, "").split()
        return cls(dataset, dict(zip(_corners(*shape), keys, strict=False)))

    def read(self, block: _Block) -> NDArray[Any] | None:
        """(bands, height, width), if it was made from the same."""
        if self.dataset is None or self.keys.get((block.window.row, block.window.col)) != block.key:
            return None
        found: NDArray[Any] = self.dataset.read(window=block.place)
        return found


def _corners(height: int, width: int) -> list[tuple[int, int]]:
    """(row, col) of every block, row-major."""
    return [(row, col) for row in range(0, height, BLOCK) for col in range(0, width, BLOCK)]


def _blocks(layer: Layer, height: int, width: int) -> Iterator[_Block]:
    """All blocks of the overview."""
    hull = layer.grid.window
    places = [_covered(tile.window, hull) for tile in layer.tiles]
    seen = [(place, tile) for place, tile in zip(places, layer.tiles, strict=True) if place]
    tree = shapely.STRtree([place.box for place, _ in seen])
    for row, col in sorted(_corners(height, width), key=lambda c: (c[1] // BLOCK // COLUMNS, c)):
        window = Window(row, col, min(BLOCK, height - row), min(BLOCK, width - col))
        near = [seen[i] for i in sorted(tree.query(window.box).tolist())]
        tiles = tuple(tile for place, tile in near if place.intersection(window))
        facts = [
            (tile.path.parent.name, tile.sha256, tile.window.row - hull.row - row * FACTOR,
             tile.window.col - hull.col - col * FACTOR)
            for tile in tiles
        ]  # fmt: skip
        digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
        yield _Block(window, tiles, digest if tiles else EMPTY)


def _covered(tile: Window, hull: Window) -> Window | None:
    """The pixels of the overview whose centres lie on a tile."""
    top, left, bottom, right = (
        -(-(edge - start - FACTOR // 2) // FACTOR)
        for edge, start in (
            (tile.row, hull.row), (tile.col, hull.col), (tile.bottom, hull.row),
            (tile.right, hull.col),
        )
    )  # fmt: skip
    return Window.between(top, left, bottom, right) if bottom > top and right > left else None


@dataclass(slots=True)
class _Small:
    """Tiles at about 1/16, from the coarsest of their own overviews that is fine enough.

    GDAL's own choice of an overview turns on fractions of a pixel, and where it misses, a raster of
    12,500 x 12,500 px takes it 1,800 ms instead of 5.
    """

    hull: Window
    template: Any
    """One of them, open."""
    resampling: Resampling
    """For tiles that have no overview of 1/16 themselves, being small."""
    _factors: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    """By height and width of a raster: those of its overviews, up to 1/16."""
    _read: dict[Path, NDArray[Any]] = field(default_factory=dict)

    def read(self, block: _Block) -> NDArray[Any]:
        """(bands, height, width) of a block."""
        shape = self.template.count, *block.window.shape
        pixels = np.full(shape, self.template.nodata, self.template.dtypes[0])
        for tile in block.tiles:
            self._paste(tile, block.window, pixels)
        return pixels

    def _paste(self, tile: VrtTile, block: Window, pixels: NDArray[Any]) -> None:
        """Put the valid pixels of a tile into those of a block."""
        covered = _covered(tile.window, self.hull)
        part = covered and covered.intersection(block)
        if not part:
            return
        small, w = self._pixels(tile), tile.window
        # At the centres of the overview's pixels.
        row = np.arange(part.row, part.bottom) * FACTOR + FACTOR // 2 + self.hull.row - w.row
        col = np.arange(part.col, part.right) * FACTOR + FACTOR // 2 + self.hull.col - w.col
        rows, cols = row * small.shape[1] // w.height, col * small.shape[2] // w.width
        found = small[:, rows[:, None], cols]
        valid = is_valid(found, self.template.nodata)
        top, left = part.slices(block)
        np.copyto(pixels[:, top, left], found, where=valid)

    def _pixels(self, tile: VrtTile) -> NDArray[Any]:
        """(bands, height, width) of a whole tile."""
        if tile.path not in self._read:
            while len(self._read) >= KEPT:
                del self._read[next(iter(self._read))]
            self._read[tile.path] = self._shrunk(tile)
        return self._read[tile.path]

    def _shrunk(self, tile: VrtTile) -> NDArray[Any]:
        shape = tile.window.shape
        if shape not in self._factors:
            with open_readonly(tile.path) as whole:
                self._factors[shape] = [f for f in whole.overviews(1) if f <= FACTOR]
        factors = self._factors[shape]
        with open_readonly(tile.path, level=len(factors) - 1 if factors else None) as dataset:
            left = FACTOR // (factors[-1] if factors else 1)
            size = (-(-dataset.height // left), -(-dataset.width // left))
            found: NDArray[Any] = dataset.read(
                out_shape=(dataset.count, *size), resampling=self.resampling
            )
        return found
