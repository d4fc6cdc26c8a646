"""Sample of detections, and the tiles that show them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import torch
from numpy.typing import NDArray
from torch import Tensor

from capecam.detections.measurement import pixel_m
from capecam.errors import ImageError, UsageError
from capecam.grid import Grid, Tiling, Window
from capecam.mosaic.reader import Reader
from capecam.pipeline.object_tiles import ExplainedObject, ObjectTile, object_tiles

SHIFTS = ((-1, -1), (1, 1), (-1, 1), (1, -1))
"""Directions down and to the right in which a tile is shifted."""

SHIFTED = 2
"""Maximum number of shifted tiles: each costs all maps again."""


@dataclass(frozen=True, slots=True)
class SampledDetection:
    """Detection of the sample."""

    target: ExplainedObject
    images: tuple[str, ...]
    """Names of the images that it overlaps."""


@dataclass(frozen=True, slots=True, eq=False)
class AuditTile:
    """Pixels of a window, and those of an object in it."""

    window: Window
    pixels: Tensor
    """(3, S, S) uint8; 0 where invalid."""
    valid: Tensor
    """(S, S) bool; True is imagery, False is nodata."""
    part: Tensor
    """(S, S) bool; True is a valid pixel of the object."""


@dataclass(frozen=True, slots=True, eq=False)
class DetectionTiles:
    """Detection with the tiles that show it."""

    id: str
    class_id: int
    own: ObjectTile
    """Tile in which the run explains the object; of a wide one, the tile with most of it."""
    tile: AuditTile
    """Pixels of this tile."""
    shifted: tuple[AuditTile, ...]
    """Shifted tiles that contain the same part of the object."""


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
    shapes = shapely.transform(rows.geometry.to_numpy(), grid.to_lattice)
    return [
        SampledDetection(
            ExplainedObject(row["id"], int(row["class_id"]), shape), tuple(row["images"].split(","))
        )
        for row, shape in zip(
            rows.to_dict("records"), shapely.transform(shapes, np.round), strict=True
        )
    ]


def _stratified(table: pd.DataFrame, count: int, seed: int) -> list[str]:
    """Return ids of all classes in turn, each class in a random order."""
    turns: list[tuple[int, int, str]] = []
    for class_id, ids in table.groupby("class_id")["id"]:
        shuffled = np.random.default_rng([seed, class_id]).permutation(ids.to_numpy(object))
        turns += [(turn, class_id, each) for turn, each in enumerate(shuffled)]
    return [each for _, _, each in heapq.nsmallest(count, turns)]


def read_tiles_of(
    target: ExplainedObject, reader: Reader, tiling: Tiling, device: torch.device
) -> DetectionTiles:
    """Read the tiles of a detection.

    Raises:
        ImageError: an image cannot be decoded, or has no pixel of the object.
    """
    grid = reader.mosaic.grid
    width, height = pixel_m(grid, shapely.get_coordinates(target.shape.centroid))[0].tolist()
    tiles = object_tiles(target, tiling.size, tiling.stride, grid.window, (width, height))
    own = max(tiles, key=lambda tile: int(tile.part.sum()))

    def read(window: Window, part: NDArray[np.bool_]) -> AuditTile:
        pixels, valid = reader.read(window)
        arrays = (torch.from_numpy(x).to(device) for x in (pixels, valid, part & valid))
        return AuditTile(window, *arrays)

    tile = read(own.window, own.part)
    if not tile.part.any():
        raise ImageError(f"there is no imagery at the object in {own.window}")
    others = tuple(
        read(window, moved(own.part, own.window, window))
        for window in islice(shifted(own.part, own.window, shift_px(tiling)), SHIFTED)
    )
    return DetectionTiles(target.id, target.class_id, own, tile, others)


def shift_px(tiling: Tiling) -> int:
    """Return a quarter of a tile in whole blocks, at least one: tiles are compared by block."""
    return max(tiling.size // 4 // tiling.stride, 1) * tiling.stride


def shifted(part: NDArray[np.bool_], window: Window, by_px: int) -> Iterator[Window]:
    """Yield the diagonally shifted tiles that contain a part (S, S) of an object in a tile."""
    rows, cols = (np.flatnonzero(part.any(axis=axis)) + first for axis, first in _axes(window))
    bounds = Window.between(int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1)
    for down, right in SHIFTS:
        row, col = window.row + down * by_px, window.col + right * by_px
        other = Window(row, col, window.height, window.width)
        if other.contains(bounds):
            yield other


def _axes(window: Window) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the axis to reduce, and the first row or column of a window."""
    return (1, window.row), (0, window.col)


def moved(part: NDArray[np.bool_], window: Window, other: Window) -> NDArray[np.bool_]:
    """Return a mask (S, S) of a window in another one that contains all of it that is True."""
    result = np.zeros_like(part)
    if (common := window.intersection(other)) is not None:
        result[common.slices(other)] = part[common.slices(window)]
    return result
