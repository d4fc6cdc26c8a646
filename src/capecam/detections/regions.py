"""From class pixels to objects: traced, and joined.

All of it happens in whole lattice pixels, where unions and distances are exact; joining in map
coordinates missed 16 of 379 objects (DESIGN section 8).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize

from capecam.grid import Window

Integers = NDArray[np.int64]
Polygons = NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class Pieces:
    """Regions of one class each, in lattice pixels."""

    class_id: Integers
    """(N,)"""
    geometry: Polygons
    """(N,) shapely polygons or multipolygons; corners are whole (col, row)."""
    level_sum: Integers
    """(N,) sum over the region's pixels of the stored probability level of its class, 0..254."""
    images: tuple[frozenset[str], ...]
    """(N,) names of the images that the region lies on."""

    def __post_init__(self) -> None:
        lengths = {len(self.class_id), len(self.geometry), len(self.level_sum), len(self.images)}
        if len(lengths) > 1:
            raise ValueError(f"columns of pieces must have one length, got {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.class_id)

    @classmethod
    def concatenate(cls, parts: Sequence[Pieces]) -> Pieces:
        """All pieces of several tables."""
        return cls(
            np.concatenate([np.empty(0, np.int64), *(p.class_id for p in parts)]),
            np.concatenate([np.empty(0, object), *(p.geometry for p in parts)]),
            np.concatenate([np.empty(0, np.int64), *(p.level_sum for p in parts)]),
            tuple(images for p in parts for images in p.images),
        )

    def take(self, keep: NDArray[Any]) -> Pieces:
        """The pieces of an index or mask."""
        chosen = np.arange(len(self))[keep]
        images = tuple(self.images[i] for i in chosen)
        return Pieces(self.class_id[chosen], self.geometry[chosen], self.level_sum[chosen], images)


def join(pieces: Pieces, distance_px: float) -> Pieces:
    """Same-class pieces with a Euclidean gap of at most ``distance_px`` as one, unbridged."""
    tree = shapely.STRtree(pieces.geometry)
    a, b = tree.query(pieces.geometry, predicate="dwithin", distance=distance_px)
    linked = (a < b) & (pieces.class_id[a] == pieces.class_id[b])
    return merge(pieces, zip(a[linked].tolist(), b[linked].tolist(), strict=True))


def merge(pieces: Pieces, links: Iterable[tuple[int, int]]) -> Pieces:
    """Unite what is linked, directly or not; in canonical form and order."""
    groups = components(len(pieces), links)
    geometry = np.empty(len(groups), object)
    geometry[:] = [_united(pieces.geometry[group]) for group in groups]
    first = [group[0] for group in groups]
    united = Pieces(
        pieces.class_id[first],
        geometry,
        np.array([pieces.level_sum[group].sum() for group in groups], np.int64),
        tuple(frozenset().union(*(pieces.images[i] for i in group)) for group in groups),
    )
    col, row = first_pixels(united.geometry)
    return united.take(np.lexsort((united.class_id, col, row)))


def components(count: int, links: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Connected components of 0..count-1 (union-find with path halving)."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in links:
        parent[root(b)] = root(a)
    groups: dict[int, list[int]] = {}
    for i in range(count):
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())


def _united(parts: Polygons) -> Any:
    """One geometry without collinear vertices, rings and parts in canonical order.

    So that an object looks the same however its rows and cells were cut.
    """
    whole = shapely.union_all(parts) if len(parts) > 1 else parts[0]
    polygons = [
        shapely.Polygon(_corners(p.exterior), [_corners(ring) for ring in p.interiors])
        for p in shapely.get_parts(whole)
    ]
    return shapely.normalize(polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons))


def _corners(ring: Any) -> NDArray[np.float64]:
    """The vertices of a ring at which it turns."""
    xy = shapely.get_coordinates(ring)[:-1]
    into, out = xy - np.roll(xy, 1, axis=0), np.roll(xy, -1, axis=0) - xy
    turns = into[:, 0] * out[:, 1] != into[:, 1] * out[:, 0]
    return np.asarray(xy[turns])


def first_pixels(geometry: Polygons) -> tuple[Integers, Integers]:
    """(col, row) of the first pixel in row-major order of each region: its top, then leftmost."""
    xy, owner = shapely.get_coordinates(geometry, return_index=True)
    order = np.lexsort((xy[:, 0], xy[:, 1], owner))
    _, first = np.unique(owner[order], return_index=True)
    corner = xy[order][first].astype(np.int64)
    return corner[:, 0], corner[:, 1]


def mask(geometry: Any, window: Window) -> NDArray[np.bool_]:
    """(height, width) of a window: True where the pixel belongs to a region in lattice pixels."""
    place = Affine.translation(window.col, window.row)
    burnt = rasterize([geometry], out_shape=window.shape, transform=place, dtype="uint8")
    return np.asarray(burnt, np.bool_)
