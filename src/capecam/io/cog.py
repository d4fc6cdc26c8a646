"""Writing GeoTIFFs: products as COGs, and images as cities deliver them."""

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
"""Edge of a block. Whole blocks are written once; windows of 320 written straight to a compressed
file bloat it by 39 % (DESIGN section 8)."""

NODATA = 255
"""Nodata value of all uint8 products; 0..254 are values, so that the scale is 1/254."""

LEVELS = 254
"""Highest value of a uint8 product."""

RAW = {
    "driver": "GTiff", "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "compress": "ZSTD",
    "zstd_level": 1, "sparse_ok": True, "bigtiff": "IF_SAFER", "photometric": "MINISBLACK",
}  # fmt: skip
"""The file that ``to_cog`` makes a COG of; three bands of heat are not red, green and blue."""

SCRATCH = {"COG_TMP_COMPRESSION": "NONE", "SPARSE_OK_OVERVIEW": "TRUE"}
"""GDAL builds overviews in a file beside the COG, by default with ZSTD at level 9: 8.4 s for three
noisy bands of 12,500 x 12,500 px, 5.7 without, the same COG (GDAL 3.10, one core)."""


@dataclass(frozen=True, slots=True)
class Product:
    """What one output raster is: everything but its place and its pixels."""

    name: str
    """Stem of the file."""
    bands: tuple[str, ...]
    """Descriptions."""
    dtype: str
    nodata: float
    scale: float = 1.0
    """GDAL scale: stored value x scale = value."""
    palette: dict[int, tuple[int, int, int]] | None = None
    tags: tuple[dict[str, str], ...] = ()
    """Metadata, a dictionary a band."""
    coarse: bool = False
    """On the grid of blocks instead of pixels."""


class CogWriter:
    """Takes rows from top to bottom in strips of any height; makes one COG.

    Strips go as whole blocks to a tiled temporary file, which GDAL's COG driver then orders and
    gives overviews: constant memory, and every block is compressed and written once.
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
        """Make the COG.

        Raises:
            ValueError: where rows are missing or too many (a bug, never the input).
        """
        self._flush()
        self._dataset.close()
        if self._row != self._grid.window.height:
            raise ValueError(f"{self._path}: {self._row} of {self._grid.window.height} rows came")
        to_cog(self._raw, self._path, nearest=self._product.palette is not None)

    def abandon(self) -> None:
        """Make no COG. What was written stays until its folder goes, so that a disk that is full
        can be told from other failures (``Ledger.work_folder``).
        """
        self._dataset.close()


class CogSet:
    """One writer per product, finished together; without that, or on an error, there is no COG."""

    def __init__(self, folder: Path, grid: Grid, coarse: Grid | None, products: Sequence[Product]):
        self.writers: dict[str, CogWriter] = {}
        for product in products:
            target = coarse if product.coarse else grid
            if target is not None:  # a cell narrower than a block may have no block of its own
                writer = CogWriter(folder / f"{product.name}.tif", product, target)
                self.writers[product.name] = writer

    def finish(self) -> None:
        """Make the COGs, at the same time: GDAL works outside of Python's lock."""
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
    """Turn a tiled GeoTIFF into a COG with overviews, and remove it.

    Args:
        raw: what there is.
        path: what is to be.
        nearest: overviews pick pixels; otherwise they average them.
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
    """Which rule of Cloud Optimized GeoTIFFs a file breaks, or None."""
    try:
        valid, errors, warnings = cog_validate(path, strict=True, quiet=True)
    except RasterioError as error:
        return " ".join(str(error).split())
    return None if valid else "; ".join([*errors, *warnings])


def write_image(
    path: Path, grid: Grid, pixels: NDArray[np.uint8], mask: NDArray[np.bool_] | None
) -> None:
    """An orthophoto as cities deliver them: tiled JPEG (YCbCr) with an optional internal mask.

    Args:
        path: the GeoTIFF to make.
        grid: of the image.
        pixels: (3, H, W).
        mask: (H, W) bool, True where there is imagery.
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
