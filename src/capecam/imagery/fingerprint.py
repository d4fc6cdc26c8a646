"""By what a change of an image is noticed."""

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

BLOCKS = 4096
"""Of which places are asked: all of an image of 12,500 x 12,500 px in tiles of 256."""


def files_of(path: Path) -> list[Path]:
    """Everything that an image's pixels and place come from: itself, what lies beside it, and the
    sources of a VRT, with what lies beside them.

    Raises:
        ImageError: a VRT cannot be read.
        OSError: its folder cannot.
    """
    files = [path, *sources_of(path)] if path.suffix.lower() == VRT else [path]
    return [file for each in files for file in (each, *sidecars(each))]


def fingerprint(path: VsiPath) -> str:
    """sha256 of what a virtual file says of itself: size, place, colours, metadata, where each
    block of band 1 lies and how long it is, and three decoded blocks.

    Nothing else is downloaded, so that a change is missed that leaves all blocks where they are and
    as long as they are; among compressed images that does not happen by chance.

    Raises:
        ImageError: it cannot be read.
    """
    try:
        with open_image(path) as dataset:
            digest = hashlib.sha256(repr(_facts(dataset)).encode())
            for window in _some_blocks(dataset):
                digest.update(dataset.read(1, window=window).tobytes())
    except RasterioError as error:
        raise ImageError(
            f"{path}: cannot be read ({in_words(path, error)}); try again, or bring it back"
        ) from error
    return digest.hexdigest()


def _grid(dataset: Any) -> list[tuple[int, int]]:
    """Row and column of blocks; evenly chosen where there are too many."""
    height, width = dataset.block_shapes[0]
    rows, cols = -(-dataset.height // height), -(-dataset.width // width)
    step = max(1, -(-rows * cols // BLOCKS))
    return [divmod(n, cols) for n in range(0, rows * cols, step)]


def _facts(dataset: Any) -> list[object]:
    places = [
        dataset.get_tag_item(f"{what}_{col}_{row}", "TIFF", bidx=1)
        for row, col in _grid(dataset)
        for what in ("BLOCK_OFFSET", "BLOCK_SIZE")
    ]
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
        places,
    ]


def _some_blocks(dataset: Any) -> list[Window]:
    height, width = dataset.block_shapes[0]
    grid = _grid(dataset)
    chosen = dict.fromkeys((grid[0], grid[len(grid) // 2], grid[-1]))
    whole = Window(0, 0, dataset.width, dataset.height)
    return [Window(c * width, r * height, width, height).intersection(whole) for r, c in chosen]
