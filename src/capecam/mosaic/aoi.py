"""Area of interest: tiles outside it are not run, and come out as nodata."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from capecam.errors import UsageError
from capecam.grid import Grid, Tiling, Window
from capecam.io.reprojection import WGS84, reproject
from capecam.io.vector_reader import read_polygons
from capecam.mosaic.place import in_degrees
from capecam.settings import MosaicSettings

Bounds = tuple[float, float, float, float]
"""Left, bottom, right and top."""

TileIndices = frozenset[tuple[int, int]]
"""Rows and columns on the tile grid."""

TOUCH_PX = 1e-3
"""Depth by which a tile has to reach into a shape; a shared edge does not count."""


@dataclass(frozen=True, slots=True)
class AreaOfInterest:
    """Selection of the tiles that touch a shape of every layer."""

    layers: tuple[shapely.STRtree, ...] = ()
    """Shapes in pixels of the pixel grid; without layers, every tile is selected."""

    def count(self, tiling: Tiling, core: Window) -> int:
        """Return the number of selected tiles of a core, also of those without imagery."""
        return int(self._mask(tiling, core).sum())

    def selected_indices(
        self, tiling: Tiling, core: Window
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (N,) rows and (N,) columns on the tile grid of the selected tiles of a core."""
        rows, cols = tiling.indices(core)
        i, j = np.nonzero(self._mask(tiling, core))
        return i + rows.start, j + cols.start

    def selected_windows(self, tiling: Tiling, core: Window) -> TileIndices:
        """Return the selected tiles of a core as a set of (row, column)."""
        i, j = self.selected_indices(tiling, core)
        return frozenset(zip(i.tolist(), j.tolist(), strict=True))

    def key(self, tiling: Tiling, core: Window) -> str | None:
        """Return a hash of the selection of a core's tiles; None if all are selected."""
        mask = self._mask(tiling, core)
        return None if mask.all() else hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()

    def _mask(self, tiling: Tiling, core: Window) -> NDArray[np.bool_]:
        """Return (rows, cols) of ``tiling.indices(core)``; True is selected."""
        indices = tiling.indices(core)
        shape = len(indices[0]), len(indices[1])
        extent = tiling.window_read(core).box
        if not all(layer.query(extent, predicate="intersects").size for layer in self.layers):
            return np.zeros(shape, np.bool_)
        mask = np.ones(shape, np.bool_)
        if self.layers:
            rows, cols = (np.asarray(k) * tiling.step for k in indices)
            top, left = np.meshgrid(rows, cols, indexing="ij")
            end = tiling.size - TOUCH_PX
            boxes = shapely.box(left + TOUCH_PX, top + TOUCH_PX, left + end, top + end)
            for layer in self.layers:
                touched, _ = layer.query(boxes.ravel(), predicate="intersects")
                mask &= np.isin(np.arange(boxes.size), touched).reshape(shape)
        return mask


EVERYWHERE = AreaOfInterest()


def read_aoi(settings: MosaicSettings, grid: Grid) -> AreaOfInterest:
    """Read the area of interest that ``bbox``, ``aoi`` and ``footprints`` define on a grid.

    Raises:
        UsageError: a file cannot be used, or none of its shapes is on the grid.
    """
    extent = grid.window.box
    layers = []
    if settings.bbox:
        layers.append(("bbox", rectangle(settings.bbox, grid)))
    for name, path in (("aoi", settings.aoi), ("footprints", settings.footprints)):
        if path:
            layers.append((name, read_shapes(path, grid)))
    for name, shapes in layers:
        if not shapely.intersects(shapes, extent).any():
            raise UsageError(f"--{name}: nothing of it is on the images; check its CRS")
    return AreaOfInterest(tuple(shapely.STRtree(shapes) for _, shapes in layers))


def rectangle(bounds: Bounds, grid: Grid) -> NDArray[np.object_]:
    """Return a rectangle, as the only shape, in pixels of a grid.

    Args:
        bounds: left, bottom, right, top in map units; in degrees (WGS 84) if that is nowhere on the
            grid.
        grid: the grid.
    """
    box = np.array([shapely.box(*bounds)])
    extent = shapely.transform(grid.window.box, grid.to_map)
    if not shapely.intersects(box, extent).any() and in_degrees(bounds[:2], bounds[2:]):
        box, _ = reproject(box, WGS84, pyproj.CRS.from_wkt(grid.crs), extent)
    return np.asarray(shapely.transform(box, grid.to_pixels), object)


def read_shapes(path: Path, grid: Grid) -> NDArray[np.object_]:
    """Read the polygons of a vector file near a grid, in pixels of the grid.

    Raises:
        UsageError: the file cannot be used.
    """
    near = shapely.transform(grid.window.box, grid.to_map)
    table = read_polygons(path, pyproj.CRS.from_wkt(grid.crs), near=near, columns=[])
    return np.asarray(shapely.transform(table.geometry.to_numpy(), grid.to_pixels), object)
