"""Sample of detections, and the tiles that show them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import torch
from numpy.typing import NDArray

from capecam.detections.regions import mask
from capecam.errors import UsageError
from capecam.grid import Grid, Tiling, Window
from capecam.mosaic.reader import Reader
from capecam.pipeline.tiles import Tile


@dataclass(frozen=True, slots=True)
class SampledDetection:
    """Detection of the sample."""

    id: str
    class_id: int
    region: Any
    """Outline in pixels of the pixel grid."""
    images: tuple[str, ...]
    """Names of the images that it overlaps."""


@dataclass(frozen=True, slots=True)
class DetectionTiles:
    """Detection with the tiles that show it."""

    detection: SampledDetection
    tile: Tile
    """Tile with the object in its centre."""
    shifted: tuple[Tile, ...]
    """Shifted tiles that contain the same part of the object."""
    inside: NDArray[np.bool_]
    """(size, size) bool; True is a pixel of ``tile`` in the object."""


def sample_detections(path: Path, grid: Grid, count: int, seed: int) -> list[SampledDetection]:
    """Draw a sample of detections, equally many of every class if possible, in file order.

    Args:
        path: ``detections.parquet``.
        grid: pixel grid.
        count: maximum size of the sample.
        seed: seed of the choice.

    Raises:
        UsageError: the file holds no detection.
    """
    table = pd.read_parquet(path, columns=["id", "class_id"])
    if table.empty:
        raise UsageError(
            f"{path}: holds no detection, so no explanation can be audited"
            "; run on imagery with detections"
        )
    chosen = [("id", "in", _stratified(table, count, seed))]
    columns = ["id", "class_id", "images", "geometry"]
    rows = gpd.read_parquet(path, columns=columns, filters=chosen)
    regions = shapely.transform(rows.geometry.to_numpy(), grid.to_lattice)
    return [
        SampledDetection(row["id"], int(row["class_id"]), region, tuple(row["images"].split(",")))
        for row, region in zip(rows.to_dict("records"), regions, strict=True)
    ]


def _stratified(table: pd.DataFrame, count: int, seed: int) -> list[str]:
    """Return ids of all classes in turn, each class in a random order."""
    turns: list[tuple[int, int, str]] = []
    for class_id, ids in table.groupby("class_id")["id"]:
        shuffled = np.random.default_rng([seed, class_id]).permutation(ids.to_numpy(object))
        turns += [(turn, class_id, each) for turn, each in enumerate(shuffled)]
    return [each for _, _, each in heapq.nsmallest(count, turns)]


def read_tiles_of(
    detection: SampledDetection, reader: Reader, tiling: Tiling, device: torch.device
) -> DetectionTiles:
    """Read the tiles of a detection.

    Raises:
        ImageError: an image cannot be decoded.
    """
    extent = reader.mosaic.grid.window
    window = centred(detection.region, tiling.size, extent)

    def read(window: Window) -> Tile:
        pixels, valid = (torch.from_numpy(x).to(device) for x in reader.read(window))
        return Tile(window, pixels, valid)

    others = tuple(map(read, shifted(detection.region, window, shift_px(tiling))))
    return DetectionTiles(detection, read(window), others, mask(detection.region, window))


def centred(region: Any, size: int, extent: Window) -> Window:
    """Return the tile with an object in its centre, moved to lie on the mosaic where it can."""
    left, top, right, bottom = (int(edge) for edge in shapely.bounds(region))
    row = max(extent.row, min((top + bottom - size) // 2, extent.bottom - size))
    col = max(extent.col, min((left + right - size) // 2, extent.right - size))
    return Window(row, col, size, size)


def shift_px(tiling: Tiling) -> int:
    """Return a quarter of a tile in whole blocks, at least one: tiles are compared by block."""
    return max(tiling.size // 4 // tiling.stride, 1) * tiling.stride


def shifted(region: Any, window: Window, by_px: int) -> Iterator[Window]:
    """Yield the diagonally shifted tiles that contain the object's part in the first tile."""
    part = shapely.intersection(region, window.box)
    for down, right in product((-by_px, by_px), repeat=2):
        other = Window(window.row + down, window.col + right, window.height, window.width)
        if other.box.covers(part):
            yield other
