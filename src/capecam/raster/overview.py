"""A city's layer at 1/16: it opens at once, where the files of thousands of cells would not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from capecam.grid import Window
from capecam.raster.cog import BLOCK, to_cog
from capecam.raster.header import open_readonly
from capecam.raster.vrt import Layer

FACTOR = 16
"""1.28 m for pixels of 8 cm; a layer in blocks of 0.8 m comes at 12.8 m."""

KEYS = "CAPECAM_BLOCKS"
"""Tag: what each block was made from, row-major; ``-`` where there is nothing."""

EMPTY = "-"


def write_overview(path: Path, layer: Layer, vrt: Path, before: Path) -> None:
    """The layer at 1/16 as a COG.

    Blocks that were made from the same files in the overview before are taken over.

    Args:
        path: of the file to make.
        layer: the product.
        vrt: the same as a virtual raster, without an overview.
        before: that of the last time, which may not exist.
    """
    hull = layer.grid.window
    height, width = -(-hull.height // FACTOR), -(-hull.width // FACTOR)
    raw = path.with_name(f".{path.name}.raw.tif")
    with ExitStack() as files:
        files.callback(raw.unlink, missing_ok=True)
        # The only VRT that is ever opened: it is ours.
        city = files.enter_context(rasterio.open(vrt, driver="VRT"))
        old, known = _before(before, files, (height, width))
        nearest = city.colorinterp[0].name == "palette"
        with rasterio.open(raw, "w", **_profile(city, height, width)) as dataset:
            _describe(dataset, city, palette=nearest)
            keys: list[str] = []
            for window, key in _blocks(layer, height, width):
                place = RasterWindow(window.col, window.row, window.width, window.height)
                if key != EMPTY and old is not None and known.get(len(keys)) == key:
                    dataset.write(old.read(window=place), window=place)
                elif key != EMPTY:
                    dataset.write(_shrunk(city, window, nearest=nearest), window=place)
                keys.append(key)
            dataset.update_tags(**{KEYS: " ".join(keys)})
        to_cog(raw, path, nearest=nearest)


def _before(
    path: Path, files: ExitStack, shape: tuple[int, int]
) -> tuple[Any | None, dict[int, str]]:
    """The overview of the last time and the keys of its blocks, if it has the same shape."""
    try:
        old = files.enter_context(open_readonly(path))
    except RasterioError:  # there is none, or it is damaged
        return None, {}
    if old.shape != shape:
        return None, {}
    return old, dict(enumerate(old.tags().get(KEYS, "").split()))


def _profile(city: Any, height: int, width: int) -> dict[str, Any]:
    t = city.transform
    return {
        "driver": "GTiff", "crs": city.crs,
        "transform": Affine(t.a * FACTOR, 0.0, t.c, 0.0, t.e * FACTOR, t.f),
        "height": height, "width": width, "count": city.count, "dtype": city.dtypes[0],
        "nodata": city.nodata, "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK,
        "compress": "ZSTD", "zstd_level": 1, "sparse_ok": True, "bigtiff": "IF_SAFER",
        "photometric": "MINISBLACK",
    }  # fmt: skip


def _describe(dataset: Any, city: Any, *, palette: bool) -> None:
    dataset.descriptions = city.descriptions
    dataset.scales = city.scales
    if palette:
        dataset.write_colormap(1, city.colormap(1))


def _blocks(layer: Layer, height: int, width: int) -> Iterator[tuple[Window, str]]:
    """The blocks of the overview, row-major, with what they are made from."""
    hull = layer.grid.window
    tree = shapely.STRtree([tile.window.box for tile in layer.tiles])
    for row in range(0, height, BLOCK):
        for col in range(0, width, BLOCK):
            window = Window(row, col, min(BLOCK, height - row), min(BLOCK, width - col))
            under = Window(
                hull.row + row * FACTOR,
                hull.col + col * FACTOR,
                window.height * FACTOR,
                window.width * FACTOR,
            )
            tiles = [layer.tiles[i] for i in sorted(tree.query(under.box))]
            facts = [
                (tile.path.parent.name, tile.sha256, part.row - under.row, part.col - under.col)
                for tile in tiles
                if (part := tile.window.intersection(under)) is not None
            ]
            digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
            yield window, digest if facts else EMPTY


def _shrunk(city: Any, window: Window, *, nearest: bool) -> NDArray[Any]:
    """(bands, height, width) of a window of the overview, from the overviews of the cells."""
    row, col = window.row * FACTOR, window.col * FACTOR
    n_rows = min(window.height * FACTOR, city.height - row)
    n_cols = min(window.width * FACTOR, city.width - col)
    found: NDArray[Any] = city.read(
        window=RasterWindow(col, row, n_cols, n_rows),
        out_shape=(city.count, *window.shape),
        resampling=Resampling.nearest if nearest else Resampling.average,
    )
    return np.asarray(found)
