"""Writing GeoTIFFs: products as COGs, and images like those that cities deliver."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow
from rio_cogeo.cogeo import cog_validate

from capecam.grid import Grid

BLOCK = 512
"""Edge of a block. Blocks are written whole and once; writing windows of 320 px to a compressed
file makes it 39 % larger."""

NODATA = 255
"""Nodata value of uint8 products; values are 0..254, with the scale 1/254."""

LEVELS = 254
"""Highest value of a uint8 product."""

RAW = {
    "driver": "GTiff", "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "ZSTD",
    "zstd_level": 1, "sparse_ok": True, "bigtiff": "IF_SAFER", "photometric": "MINISBLACK",
}  # fmt: skip
"""Profile of the file that ``to_cog`` converts; three bands of a heatmap are not RGB."""

SCRATCH = {"COG_TMP_COMPRESSION": "NONE", "SPARSE_OK_OVERVIEW": "TRUE"}
"""GDAL builds overviews in a temporary file. With its default, ZSTD at level 9, this takes 8.4 s
for three noisy bands of 12,500 x 12,500 px, and uncompressed 5.7 s for the same COG (GDAL 3.10, one
core)."""


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
    palette: dict[int, tuple[int, int, int]] | None = None
    tags: tuple[dict[str, str], ...] = ()
    """Metadata of each band."""
    coarse: bool = False
    """True if the raster is on the grid of blocks, False if it is on the grid of pixels."""


class CogWriter:
    """Writer of one COG, which takes rows from top to bottom in strips of any height.

    Rows are written as whole blocks to a tiled temporary file, which GDAL's COG driver then
    converts. Memory is constant, and each block of the temporary file is compressed once.
    """

    def __init__(self, path: Path, product: Product, grid: Grid) -> None:
        self._path, self._product, self._grid = path, product, grid
        self._raw = path.with_name(f".{path.name}.raw.tif")
        width = grid.window.width
        self._buffer = np.empty((len(product.bands), BLOCK, width), product.dtype)
        self._filled = 0
        self._row = 0
        self._dataset = rasterio.open(
            self._raw,
            "w",
            crs=rasterio.crs.CRS.from_wkt(grid.crs),
            transform=grid.transform,
            width=width,
            height=grid.window.height,
            count=len(product.bands),
            dtype=product.dtype,
            nodata=product.nodata,
            **RAW,
        )
        self._describe()

    def _describe(self) -> None:
        product, dataset = self._product, self._dataset
        dataset.descriptions = product.bands
        if product.scale != 1.0:
            dataset.scales = (product.scale,) * len(product.bands)
        if product.palette:
            dataset.write_colormap(1, product.palette)
        for band, tags in enumerate(product.tags, start=1):
            dataset.update_tags(band, **tags)

    def write(self, rows: NDArray[Any]) -> None:
        """Append (bands, n, width) rows."""
        while rows.shape[1]:
            n = min(rows.shape[1], BLOCK - self._filled)
            self._buffer[:, self._filled : self._filled + n] = rows[:, :n]
            self._filled += n
            rows = rows[:, n:]
            if self._filled == BLOCK:
                self._flush()

    def _flush(self) -> None:
        if self._filled:
            window = RasterWindow(0, self._row, self._buffer.shape[2], self._filled)
            self._dataset.write(self._buffer[:, : self._filled], window=window)
            self._row += self._filled
            self._filled = 0

    def finish(self) -> None:
        """Write the COG.

        Raises:
            ValueError: rows are missing or too many, which is a mistake in the caller.
        """
        self._flush()
        self._dataset.close()
        if self._row != self._grid.window.height:
            raise ValueError(f"{self._path}: got {self._row} of {self._grid.window.height} rows")
        to_cog(self._raw, self._path, nearest=self._product.palette is not None)

    def abandon(self) -> None:
        """Close without a COG.

        The temporary file is kept until its folder is removed, so that a full disk can be told from
        other failures (``Ledger.work_folder``).
        """
        self._dataset.close()

    def remove(self) -> None:
        """Close, and remove the temporary file."""
        self._dataset.close()
        self._raw.unlink(missing_ok=True)


def write_cog(path: Path, product: Product, grid: Grid, pixels: NDArray[Any]) -> None:
    """Write the pixels (bands, height, width) of a small raster at once."""
    writer = CogWriter(path, product, grid)
    try:
        writer.write(pixels)
        writer.finish()
    finally:
        writer.remove()


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

    def __init__(self, folder: Path, grid: Grid, coarse: Grid | None, products: Sequence[Product]):
        self.writers: dict[str, CogWriter] = {}
        for product in products:
            target = coarse if product.coarse else grid
            if target is not None:  # None for a cell that is narrower than a block
                writer = CogWriter(folder / f"{product.name}.tif", product, target)
                self.writers[product.name] = writer

    def finish(self) -> None:
        """Write the COGs in threads, since GDAL releases Python's lock."""
        with ThreadPoolExecutor(len(self.writers), thread_name_prefix="finish") as threads:
            for done in [threads.submit(writer.finish) for writer in self.writers.values()]:
                done.result()
        self.writers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self.writers.values():
            writer.abandon()


def to_cog(raw: Path, path: Path, *, nearest: bool) -> None:
    """Convert a tiled GeoTIFF to a COG with overviews, and remove the GeoTIFF.

    Args:
        raw: the GeoTIFF.
        path: the COG to write.
        nearest: make overviews by the nearest pixel; otherwise by averages.
    """
    with rasterio.Env(**SCRATCH):
        rasterio.shutil.copy(
            raw,
            path,
            driver="COG",
            compress="ZSTD",
            level=1,
            blocksize=BLOCK,
            overview_resampling="NEAREST" if nearest else "AVERAGE",
            bigtiff="IF_SAFER",
            sparse_ok=True,
        )
    raw.unlink()


def why_not_cog(path: Path) -> str | None:
    """Return the rules of Cloud Optimized GeoTIFF that a file breaks, or None."""
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
