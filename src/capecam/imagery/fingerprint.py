"""Detect changes of an image."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from rasterio.errors import RasterioError
from rasterio.windows import Window

from capecam.errors import ImageError
from capecam.imagery.opening import open_image
from capecam.imagery.validation.sidecars import sidecars
from capecam.imagery.validation.vrt import sources_of
from capecam.io.paths import VRT, VsiPath, in_words

MAX_BLOCKS = 4096
"""Blocks whose offset and size are compared: all of 12,500 x 12,500 px in tiles of 256."""


def files_of(path: Path) -> list[Path]:
    """Return all files that an image's pixels and georeference come from: itself and its sidecars,
    and those of a VRT's sources.

    Raises:
        ImageError: a VRT cannot be read.
        OSError: the image's folder cannot be read.
    """
    files = [path, *sources_of(path)] if path.suffix.lower() == VRT else [path]
    return [file for each in files for file in (each, *sidecars(each))]


def fingerprint(path: VsiPath) -> str:
    """Return the sha256 of a virtual file's size, georeference, bands and metadata, the offset and
    length of each block of band 1, and three decoded blocks.

    Nothing else is downloaded, so a change that leaves all blocks at the same offsets and of the
    same lengths is missed; among compressed images that does not happen by chance.

    Raises:
        ImageError: it cannot be read.
    """
    try:
        with open_image(path) as dataset:
            blocks = _blocks(dataset)
            digest = hashlib.sha256(repr(_metadata(dataset, blocks)).encode())
            height, width = dataset.block_shapes[0]
            whole = Window(0, 0, dataset.width, dataset.height)
            for row, col in dict.fromkeys((blocks[0], blocks[len(blocks) // 2], blocks[-1])):
                block = Window(col * width, row * height, width, height).intersection(whole)
                digest.update(dataset.read(1, window=block).tobytes())
    except RasterioError as error:
        raise ImageError(
            f"{path}: cannot be read ({in_words(path, error)}); try again, or restore it"
        ) from error
    return digest.hexdigest()


def _blocks(dataset: Any) -> list[tuple[int, int]]:
    """Return row and column of all blocks, or of evenly spaced ones if there are too many."""
    height, width = dataset.block_shapes[0]
    rows, cols = -(-dataset.height // height), -(-dataset.width // width)
    step = max(1, -(-rows * cols // MAX_BLOCKS))
    return [divmod(n, cols) for n in range(0, rows * cols, step)]


def _metadata(dataset: Any, blocks: list[tuple[int, int]]) -> list[object]:
    points, points_crs = dataset.gcps
    return [
        dataset.shape,
        dataset.dtypes,
        dataset.nodatavals,
        [kind.name for kind in dataset.colorinterp],
        tuple(dataset.transform),
        [(point.row, point.col, point.x, point.y) for point in points],
        [crs.wkt if crs else None for crs in (dataset.crs, points_crs)],
        sorted(dataset.tags().items()),
        [
            dataset.get_tag_item(f"{key}_{col}_{row}", "TIFF", bidx=1)
            for row, col in blocks
            for key in ("BLOCK_OFFSET", "BLOCK_SIZE")
        ],
    ]
