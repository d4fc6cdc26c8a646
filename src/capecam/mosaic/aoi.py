"""Where people want to know: what lies elsewhere is not run, and comes out as nodata."""

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
from capecam.io.vector_reader import read_polygons
from capecam.settings import MosaicSettings

Chosen = frozenset[tuple[int, int]]

INSIDE = 1e-3
"""By how many pixels a window has to reach into a shape: to share an edge is not to touch."""


@dataclass(frozen=True, slots=True)
class AreaOfInterest:
    """The windows of a lattice that are to be run: those that touch a shape of every layer."""

    layers: tuple[shapely.STRtree, ...] = ()
    """In lattice pixels; without any, every window is of interest."""

    def count(self, tiling: Tiling, core: Window) -> int:
        """How many windows of a core are to be run, at most: some may hold no imagery."""
        return int(self._wanted(tiling, core).sum())

    def selected_indices(
        self, tiling: Tiling, core: Window
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(N,) rows and (N,) columns on the lattice of the windows of a core that are to be run."""
        rows, cols = tiling.indices(core)
        i, j = np.nonzero(self._wanted(tiling, core))
        return i + rows.start, j + cols.start

    def selected_windows(self, tiling: Tiling, core: Window) -> Chosen:
        """The same as a set of pairs."""
        i, j = self.selected_indices(tiling, core)
        return frozenset(zip(i.tolist(), j.tolist(), strict=True))

    def key(self, tiling: Tiling, core: Window) -> str | None:
        """Tells selections of a core's windows apart; None where all are run."""
        wanted = self._wanted(tiling, core)
        return None if wanted.all() else hashlib.sha256(np.packbits(wanted).tobytes()).hexdigest()

    def _wanted(self, tiling: Tiling, core: Window) -> NDArray[np.bool_]:
        """(rows, cols) of ``tiling.indices(core)``; True is to be run."""
        indices = tiling.indices(core)
        reach = tiling.reach(core).box
        if not all(layer.query(reach, predicate="intersects").size for layer in self.layers):
            return np.zeros([len(k) for k in indices], np.bool_)
        if not self.layers:
            return np.ones([len(k) for k in indices], np.bool_)
        rows, cols = (np.asarray(k) * tiling.step for k in indices)
        top, left = np.meshgrid(rows, cols, indexing="ij")
        end = tiling.size - INSIDE
        boxes = shapely.box(left + INSIDE, top + INSIDE, left + end, top + end)
        wanted = np.ones(boxes.shape, np.bool_)
        for layer in self.layers:
            touched, _ = layer.query(boxes.ravel(), predicate="intersects")
            wanted &= np.isin(np.arange(boxes.size), touched).reshape(boxes.shape)
        return wanted


EVERYWHERE = AreaOfInterest()


def read_aoi(settings: MosaicSettings, grid: Grid) -> AreaOfInterest:
    """What ``bbox``, ``aoi`` and ``footprints`` leave of a grid.

    Raises:
        UsageError: a file cannot be used, or nothing is left.
    """
    extent = grid.window.box
    layers = []
    if settings.bbox:
        box = np.array([shapely.box(*settings.bbox)])
        layers.append(("bbox", shapely.transform(box, grid.to_pixels)))
    for name, path in (("aoi", settings.aoi), ("footprints", settings.footprints)):
        if path:
            layers.append((name, read_shapes(path, grid)))
    for name, shapes in layers:
        if not shapely.intersects(shapes, extent).any():
            raise UsageError(f"--{name}: nothing of it lies on the images; check its CRS")
    return AreaOfInterest(tuple(shapely.STRtree(shapes) for _, shapes in layers))


def read_shapes(path: Path, grid: Grid) -> NDArray[np.object_]:
    """The polygons of a vector file near a grid, in its pixels; nothing else is read.

    Raises:
        UsageError: the file cannot be used.
    """
    near = shapely.transform(grid.window.box, grid.to_map)
    table = read_polygons(path, pyproj.CRS.from_wkt(grid.crs), near=near, columns=[])
    return np.asarray(shapely.transform(table.geometry.to_numpy(), grid.to_pixels), object)
