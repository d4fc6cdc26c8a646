"""Measure the writing of COGs: CPU-seconds and size, beside GDAL's COG driver.

Usage: cog.py [--size N] [--rounds N] [--csv FILE]

Rasters of N x N px with values like those of a city: three bands of noise like a guided heatmap,
three of smooth hills of probability, and squares of classes. They come in strips of 250 rows, as
from the stitcher. GDAL gets a tiled GeoTIFF, which its COG driver converts. Each case has its own
process.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.windows import Window as RasterWindow
from scipy.ndimage import gaussian_filter

from capecam.grid import Grid, Window
from capecam.io.cog import CogSet, Product, why_not_cog
from capecam.io.pyramid import BLOCK

ROWS = 250
"""Height of the strips: the step of the tiles."""

PRODUCTS = {
    "guided_gradcam": Product("guided_gradcam", ("a", "b", "c"), "uint8", 255, scale=1 / 254),
    "probability": Product("probability", ("a", "b", "c"), "uint8", 255, scale=1 / 254),
    "classes": Product("classes", ("class",), "uint8", 255, palette={1: (0, 255, 0)}),
}
WAYS = ("GDAL's COG driver", "capecam")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=12_500, help="width and height in pixels")
    parser.add_argument("--rounds", type=int, default=3, help="medians are written")
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/cog.csv"))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure, arguments.size)))
        return
    from memory import append_rows, environment  # noqa: PLC0415 its torch would slow each child

    rows = []
    for name in PRODUCTS:
        rounds: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(arguments.rounds):  # in turns
            for way in WAYS:
                rounds[way].append(in_child(name, way, arguments.size))
        for way, found in rounds.items():
            numbers = {key: median(each[key] for each in found) for key in found[0]}
            rows.append({"product": name, "size": arguments.size, "way": way, **numbers})
            print(rows[-1], flush=True)
    append_rows(arguments.csv, [{**row, **environment("cpu")} for row in rows])


def in_child(name: str, way: str, size: int) -> dict[str, float]:
    """Measure a case in a process of its own."""
    command = [sys.executable, __file__, "--size", str(size), "--measure", name, way]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(name: str, way: str, size: int) -> dict[str, float]:
    """Write one raster, and return what it took."""
    crs = rasterio.crs.CRS.from_user_input("ESRI:102562").to_wkt()
    grid = Grid(crs, (-51_000.0, -3_763_000.0), (0.08, 0.08), Window(0, 0, size, size))
    product, pattern = PRODUCTS[name], draw(name, size)
    strips = [pattern[:, row % 4 * ROWS :][:, :ROWS] for row in range(-(-size // ROWS))]
    strips[-1] = strips[-1][:, : size - ROWS * (len(strips) - 1)]
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder) / f"{name}.tif"
        before = cpu_seconds()
        write, finish = (write_with_gdal if way == WAYS[0] else write_cog)(
            path, product, grid, strips
        )
        if problem := why_not_cog(path):
            raise ValueError(f"{path}: {problem}")
        return {
            "cpu_s": round(finish - before, 2),
            "rows_cpu_s": round(write - before, 2),
            "finish_cpu_s": round(finish - write, 2),
            "mb": round(path.stat().st_size / 1e6, 1),
        }


def draw(name: str, width: int) -> NDArray[np.uint8]:
    """Return (bands, 4 ROWS, width) pixels."""
    rng, shape = np.random.default_rng(0), (len(PRODUCTS[name].bands), 4 * ROWS, width)
    if name == "guided_gradcam":
        values = rng.exponential(20, shape)
    elif name == "probability":
        hills = gaussian_filter(rng.normal(size=shape), (0, 8, 8))
        values = 254 / (1 + np.exp(14 - 8 * hills / hills.std()))
    else:
        values = np.kron(rng.random((1, 40, -(-width // 25))) < 0.02, np.ones((1, 25, 25)))
    return values[..., :width].clip(0, 254).astype(np.uint8)


def write_cog(
    path: Path, product: Product, grid: Grid, strips: list[NDArray[np.uint8]]
) -> tuple[float, float]:
    """Write a COG, and return CPU-seconds when all rows have come, and at the end."""
    with CogSet(path.parent, grid, None, [product]) as cogs:
        for strip in strips:
            cogs.writers[product.name].write(strip)
        middle = cpu_seconds()
        cogs.finish()
    return middle, cpu_seconds()


def write_with_gdal(
    path: Path, product: Product, grid: Grid, strips: list[NDArray[np.uint8]]
) -> tuple[float, float]:
    """Do the same with GDAL: rows of whole blocks, overviews in an uncompressed file."""
    raw, bands = path.with_suffix(".raw.tif"), len(product.bands)
    profile: dict[str, Any] = {
        "driver": "GTiff", "crs": grid.crs, "transform": grid.transform, "dtype": product.dtype,
        "height": grid.window.height, "width": grid.window.width, "count": bands,
        "nodata": product.nodata, "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK,
        "compress": "ZSTD", "zstd_level": 1, "sparse_ok": True, "photometric": "MINISBLACK",
    }  # fmt: skip
    buffer = np.empty((bands, 0, grid.window.width), product.dtype)
    with rasterio.open(raw, "w", **profile) as dataset:
        row = 0
        for number, strip in enumerate(strips, start=1):
            buffer = np.concatenate([buffer, strip], axis=1)
            while buffer.shape[1] >= BLOCK or (number == len(strips) and buffer.shape[1]):
                rows, buffer = buffer[:, :BLOCK], buffer[:, BLOCK:]
                window = RasterWindow(0, row, rows.shape[2], rows.shape[1])
                dataset.write(rows, window=window)
                row += rows.shape[1]
    middle = cpu_seconds()
    with rasterio.Env(COG_TMP_COMPRESSION="NONE", SPARSE_OK_OVERVIEW="TRUE"):
        rasterio.shutil.copy(
            raw, path, driver="COG", compress="ZSTD", level=1, blocksize=BLOCK, sparse_ok=True,
            overview_resampling="NEAREST" if product.palette else "AVERAGE", bigtiff="IF_SAFER",
        )  # fmt: skip
    return middle, cpu_seconds()


def cpu_seconds() -> float:
    """Return the CPU time of all threads of this process, user and system."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
