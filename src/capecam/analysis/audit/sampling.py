"""Which detections are audited, and the tiles in which they are looked at."""

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

from capecam.analysis.audit.shift import shift_px
from capecam.detections.regions import mask
from capecam.errors import UsageError
from capecam.grid import Grid, Tiling, Window
from capecam.mosaic.reader import Reader
from capecam.pipeline.tiles import Tile


@dataclass(frozen=True, slots=True)
class SampledDetection:
    """A detection of the sample."""

    id: str
    class_id: int
    region: Any
    """Shape in lattice pixels."""
    images: tuple[str, ...]
    """Names of those that it lies on."""


@dataclass(frozen=True, slots=True)
class DetectionTiles:
    """A detection with the tiles that show it."""

    specimen: SampledDetection
    tile: Tile
    """With the object in its middle."""
    shifted: tuple[Tile, ...]
    """Others that hold as much of it."""
    inside: NDArray[np.bool_]
    """(size, size) of ``tile``: the object's pixels."""


def sample_detections(path: Path, grid: Grid, count: int, seed: int) -> list[SampledDetection]:
    """A sample of detections, in the order of the file: from every class as many, as far as there
    are any.

    Args:
        path: ``detections.parquet``.
        grid: of the lattice.
        count: how many, at most.
        seed: of the choice.

    Raises:
        UsageError: there is no detection.
    """
    table = pd.read_parquet(path, columns=["id", "class_id"])
    if table.empty:
        raise UsageError(
            f"{path}: holds no detection, so there is no explanation to audit"
            "; run where something is found"
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
    """Ids: one of every class in turn, each in a random order."""
    turns: list[tuple[int, int, str]] = []
    for class_id, ids in table.groupby("class_id")["id"]:
        shuffled = np.random.default_rng([seed, class_id]).permutation(ids.to_numpy(object))
        turns += [(turn, class_id, each) for turn, each in enumerate(shuffled)]
    return [each for _, _, each in heapq.nsmallest(count, turns)]


def read_tiles_of(
    specimen: SampledDetection, reader: Reader, tiling: Tiling, device: torch.device
) -> DetectionTiles:
    """Read the tiles of a detection.

    Raises:
        ImageError: an image cannot be decoded there.
    """
    extent = reader.mosaic.grid.window
    window = centred(specimen.region, tiling.size, extent)

    def read(place: Window) -> Tile:
        pixels, valid = (torch.from_numpy(x).to(device) for x in reader.read(place))
        return Tile(place, pixels, valid)

    others = tuple(read(place) for place in shifted(specimen.region, window, shift_px(tiling)))
    return DetectionTiles(specimen, read(window), others, mask(specimen.region, window))


def centred(region: Any, size: int, extent: Window) -> Window:
    """The tile with an object in its middle, moved as far as it has to be to lie on the mosaic."""
    left, top, right, bottom = (int(edge) for edge in shapely.bounds(region))
    row = _within((top + bottom - size) // 2, extent.row, extent.bottom - size)
    col = _within((left + right - size) // 2, extent.col, extent.right - size)
    return Window(row, col, size, size)


def _within(place: int, least: int, most: int) -> int:
    """Clamped; ``least`` counts where the two contradict each other."""
    return max(least, min(place, most))


def shifted(region: Any, window: Window, by_px: int) -> Iterator[Window]:
    """Tiles so far off on both axes, to four sides, that hold all that the first one holds."""
    held = shapely.intersection(region, window.box)
    for down, right in product((-by_px, by_px), repeat=2):
        other = Window(window.row + down, window.col + right, window.height, window.width)
        if other.box.covers(held):
            yield other
