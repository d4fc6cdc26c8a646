"""Writing GeoTIFFs: products as COGs, and images like those that cities deliver."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from capecam.grid import Grid, Window
from capecam.io.cog_layout import Template, write_layout, write_with_tags
from capecam.io.gdal import open_readonly
from capecam.io.pyramid import BLOCK, Pyramid, level_shapes
from capecam.runtime.files import atomic_write
from capecam.runtime.machine import usable_cpus

NODATA = 255
"""Nodata value of uint8 products; values are 0..254, with the scale 1/254."""

LEVELS = 254
"""Highest value of a uint8 product."""

COG = {
    "driver": "COG", "compress": "ZSTD", "level": 1, "blocksize": BLOCK, "sparse_ok": True,
}  # fmt: skip
"""Profile of the small file whose tags a COG takes over."""

THREADS = min(4, usable_cpus())
"""Threads that compress blocks of a cell's rasters. numpy and zstd release Python's lock."""


@dataclass(frozen=True, slots=True)
class Product:
    """Description of one output raster, without its grid and pixels."""

    name: str
    """Stem of the file."""
    bands: tuple[str, ...]
    """Descriptions of the bands."""
    dtype: str
    nodata: float
    scale: float = 1.0
    """GDAL's scale: value = stored value x scale."""
    palette: Mapping[int, tuple[int, ...]] | None = None
    tags: tuple[dict[str, str], ...] = ()
    """Metadata of each band."""
    coarse: bool = False
    """True if the raster is on the grid of blocks, False if it is on the grid of pixels."""

    @classmethod
    def like(cls, dataset: Any, name: str) -> Self:
        """Return the description of another raster of the same kind, without its metadata."""
        is_palette = dataset.colorinterp[0].name == "palette"
        palette = dataset.colormap(1) if is_palette else {}
        return cls(
            name,
            dataset.descriptions,
            dataset.dtypes[0],
            dataset.nodata,
            dataset.scales[0],
            {index: rgba[:3] for index, rgba in palette.items()} or None,
        )


class CogBlockWriter:
    """Writer of one COG, which takes blocks in any order.

    Blocks of the raster and of its overviews are compressed once, when they are there, and wait in
    memory or an unnamed file beside the COG until it is finished. Its bytes do not depend on the
    order.
    """

    def __init__(
        self, path: Path, product: Product, grid: Grid, tags: Mapping[str, str] | None = None
    ) -> None:
        """Start a file, of which nothing is to be seen before it is finished.

        Args:
            path: the COG to write.
            product: description.
            grid: grid of the raster.
            tags: metadata of the whole file.
        """
        shape = grid.window.shape
        self._path, self._product = path, product
        self._template = _template(product, grid, tags or {}, len(level_shapes(*shape)) > 1)
        nearest = product.palette is not None
        self._pyramid = Pyramid(shape, product.nodata, path.parent, nearest=nearest)

    def write(self, row: int, col: int, pixels: NDArray[Any]) -> None:
        """Write a block; those that are never written are nodata. Threads may call it.

        Args:
            row: the block's first row of pixels.
            col: the block's first column of pixels.
            pixels: (bands, height, width), smaller than a block only at the raster's edges.

        Raises:
            OSError: the disk is full.
        """
        bands, height, width = pixels.shape
        block = pixels
        if (height, width) != (BLOCK, BLOCK):
            block = np.full((bands, BLOCK, BLOCK), self._product.nodata, pixels.dtype)
            block[:, :height, :width] = pixels
        self._pyramid.put(row // BLOCK, col // BLOCK, block)

    def finish(self) -> None:
        """Write the COG.

        Raises:
            OSError: the disk is full.
        """
        self._pyramid.finish()
        pixel_bytes = len(self._product.bands) * np.dtype(self._product.dtype).itemsize
        with atomic_write(self._path) as temporary, temporary.open("wb") as stream:
            write_layout(stream, self._template, self._pyramid, pixel_bytes)
        self.close()

    def close(self) -> None:
        """Give up memory and disk; without ``finish`` there is no file."""
        self._pyramid.close()


class CogWriter:
    """Writer of one COG, which takes rows from top to bottom in strips of any height.

    It holds two rows of blocks: one that is being filled, and those of the overviews. The bytes of
    the COG do not depend on the strips, nor on the threads.
    """

    def __init__(
        self,
        path: Path,
        product: Product,
        grid: Grid,
        tags: Mapping[str, str] | None = None,
        threads: ThreadPoolExecutor | None = None,
    ) -> None:
        """Start a file, of which nothing is to be seen before it is finished.

        Args:
            path: the COG to write.
            product: description.
            grid: grid of the raster.
            tags: metadata of the whole file.
            threads: threads that compress blocks; without them the caller's does.
        """
        self._path, self._window = path, grid.window
        self._blocks = CogBlockWriter(path, product, grid, tags)
        self._map = map if threads is None else threads.map
        self._buffer = np.empty((len(product.bands), BLOCK, grid.window.width), product.dtype)
        self._filled = 0
        self._row = 0

    def write(self, rows: NDArray[Any]) -> None:
        """Append (bands, n, width) rows.

        Raises:
            OSError: the disk is full.
        """
        while rows.shape[1]:
            n = min(rows.shape[1], BLOCK - self._filled)
            self._buffer[:, self._filled : self._filled + n] = rows[:, :n]
            self._filled += n
            rows = rows[:, n:]
            if self._filled == BLOCK:
                self._flush()

    def _flush(self) -> None:
        """Compress the rows in the buffer."""

        def write(col: int) -> None:
            block = self._buffer[:, : self._filled, col : col + BLOCK]
            self._blocks.write(self._row, col, block)

        deque(self._map(write, range(0, self._window.width, BLOCK)), maxlen=0)
        self._row += self._filled
        self._filled = 0

    def finish(self) -> None:
        """Write the COG.

        Raises:
            ValueError: rows are missing or too many, which is a mistake in the caller.
            OSError: the disk is full.
        """
        if self._row + self._filled != self._window.height:
            got = self._row + self._filled
            raise ValueError(f"{self._path}: got {got} of {self._window.height} rows")
        if self._filled:
            self._flush()
        self._blocks.finish()

    def close(self) -> None:
        """Give up memory and disk; without ``finish`` there is no file."""
        self._blocks.close()


def _template(product: Product, grid: Grid, tags: Mapping[str, str], overviews: bool) -> Template:
    """Return the tags that GDAL's COG driver writes for such a raster."""
    profile = {
        "driver": "GTiff", "crs": rasterio.crs.CRS.from_wkt(grid.crs), "transform": grid.transform,
        "width": BLOCK + 1 if overviews else 1, "height": 1, "count": len(product.bands),
        "dtype": product.dtype, "nodata": product.nodata, "sparse_ok": True,
        "photometric": "MINISBLACK",
    }  # fmt: skip
    with rasterio.MemoryFile() as raw, rasterio.MemoryFile() as cog:
        with raw.open(**profile) as dataset:
            dataset.descriptions = product.bands
            if product.scale != 1.0:
                dataset.scales = (product.scale,) * len(product.bands)
            if product.palette:
                dataset.write_colormap(1, product.palette)
            for band, band_tags in enumerate(product.tags, start=1):
                dataset.update_tags(band, **band_tags)
            dataset.update_tags(**tags)
        with raw.open() as dataset:
            rasterio.shutil.copy(dataset, cog.name, **COG)
        return Template.of(cog.read())


def write_cog(
    path: Path,
    product: Product,
    grid: Grid,
    pixels: NDArray[Any],
    tags: Mapping[str, str] | None = None,
) -> None:
    """Write the pixels (bands, height, width) of a small raster at once."""
    with closing(CogWriter(path, product, grid, tags)) as writer:
        writer.write(pixels)
        writer.finish()


def copy_with_tags(path: Path, copy: Path, tags: Mapping[str, str]) -> None:
    """Write a copy of a COG with other metadata of the whole file, without decoding a pixel.

    Args:
        path: a COG that was written here.
        copy: the file to write; it has the bytes that a new COG with these tags would have.
        tags: metadata.

    Raises:
        RasterioError: the file is damaged.
        ValueError: the same.
    """
    with open_readonly(path) as dataset:
        product = replace(
            Product.like(dataset, path.stem),
            tags=tuple(dataset.tags(band) for band in dataset.indexes),
        )
        if dataset.crs is None:
            raise ValueError(f"{path}: has no CRS")
        transform, window = dataset.transform, Window(0, 0, *dataset.shape)
        corner, pixel = (transform.c, transform.f), (transform.a, -transform.e)
        grid = Grid(dataset.crs.to_wkt(), corner, pixel, window)
    template = _template(product, grid, tags, overviews=False)
    with path.open("rb") as source, copy.open("wb") as stream:
        write_with_tags(source, stream, template.full)


def write_rgb_cog(
    path: Path, grid: Grid, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]
) -> None:
    """Write a small orthophoto as a COG that every program reads: lossless, as red, green, blue.

    Args:
        path: the COG to write.
        grid: grid of the image.
        pixels: (3, H, W).
        valid: (H, W) bool; True is imagery. Where all is, the file has no mask.
    """
    profile = {
        "driver": "GTiff", "crs": rasterio.crs.CRS.from_wkt(grid.crs), "transform": grid.transform,
        "width": grid.window.width, "height": grid.window.height, "count": 3, "dtype": "uint8",
        "photometric": "RGB",
    }  # fmt: skip
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.MemoryFile() as memory:
        with memory.open(**profile) as dataset:
            dataset.write(pixels)
            if not valid.all():
                dataset.write_mask(valid)
        with memory.open() as dataset:
            rasterio.shutil.copy(dataset, path, driver="COG", compress="DEFLATE", blocksize=BLOCK)


class CogSet:
    """One writer per product; without ``finish`` or after an error there is no COG."""

    def __init__(
        self,
        folder: Path,
        grid: Grid,
        coarse: Grid | None,
        products: Sequence[Product],
        tags: Mapping[str, str] | None = None,
    ):
        self.writers: dict[str, CogWriter] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="compress")
        for product in products:
            target = coarse if product.coarse else grid
            if target is not None:  # None for a cell that is narrower than a block
                path = folder / f"{product.name}.tif"
                self.writers[product.name] = CogWriter(path, product, target, tags, self._threads)

    def finish(self) -> None:
        """Write the COGs."""
        for writer in self.writers.values():
            writer.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        for writer in self.writers.values():
            writer.close()


def why_not_cog(path: Path) -> str | None:
    """Return the rules of Cloud Optimized GeoTIFF that a file breaks, or None."""
    from rio_cogeo.cogeo import cog_validate  # noqa: PLC0415 a sixth of the time to import capecam

    try:
        valid, errors, warnings = cog_validate(path, strict=True, quiet=True)
    except RasterioError as error:
        return " ".join(str(error).split())
    return None if valid else "; ".join([*errors, *warnings])


def write_image(
    path: Path, grid: Grid, pixels: NDArray[np.uint8], mask: NDArray[np.bool_] | None
) -> None:
    """Write an orthophoto as cities deliver it: tiled JPEG (YCbCr), optionally with a mask.

    Args:
        path: the GeoTIFF to write.
        grid: grid of the image.
        pixels: (3, H, W).
        mask: (H, W) bool; True is imagery.
    """
    profile = {
        "driver": "GTiff", "crs": rasterio.crs.CRS.from_wkt(grid.crs), "transform": grid.transform,
        "width": grid.window.width, "height": grid.window.height, "count": 3, "dtype": "uint8",
        "tiled": True, "compress": "JPEG", "photometric": "YCBCR", "jpeg_quality": 90,
    }  # fmt: skip
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", **profile) as dataset,
    ):
        dataset.write(pixels)
        if mask is not None:
            dataset.write_mask(mask)
