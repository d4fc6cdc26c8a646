"""Numbers of the last time, for objects around which nothing has changed.

A city's evidence takes core-minutes, and a nightly run changes a few images. A number is taken over
only if it would come out the same: the pixels of the object and all rasters within reach are known
by their contents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from capecam.detections.regions import Pieces
from capecam.io.vrt import VrtTile
from capecam.runtime.files import atomic_write

KEY_BYTES = 16


class EvidenceCache:
    """Rows of numbers by object, in a file that is read at the start and replaced at the end."""

    def __init__(
        self, path: Path, recipe: str, tiles: Sequence[VrtTile], reach_px: float, columns: int
    ) -> None:
        """What is known from the last time.

        Args:
            path: of the file.
            recipe: all else that numbers depend on: how they are made, and of what.
            tiles: all rasters that they are read from; windows in lattice pixels.
            reach_px: how far from an object they are read.
            columns: numbers a row.
        """
        self._path, self._recipe, self._reach_px = path, recipe.encode(), reach_px
        self._index = shapely.STRtree([tile.window.box for tile in tiles])
        self._facts = [repr((t.path.parent.name, t.path.name, t.sha256, t.window)) for t in tiles]
        self._row = np.dtype([("key", f"V{KEY_BYTES}"), ("values", np.float64, (columns,))])
        self._before = _load(path, self._row)
        self._order = np.argsort(_sortable(self._before["key"]), kind="stable")
        self._now: list[NDArray[Any]] = []

    def keys(self, objects: Pieces) -> NDArray[np.void]:
        """(N,) equal for objects whose numbers must be equal."""
        near = shapely.box(*(shapely.bounds(objects.geometry) + self._margins()).T)
        owner, tile = self._index.query(near, predicate="intersects")
        order = np.lexsort((tile, owner))
        seen = np.split(tile[order], np.searchsorted(owner[order], np.arange(1, len(objects))))
        keys = np.empty(len(objects), f"V{KEY_BYTES}")
        shapes = shapely.to_wkb(objects.geometry)
        for n, class_id in enumerate(objects.class_id.tolist()):
            digest = hashlib.blake2b(self._recipe, digest_size=KEY_BYTES)
            digest.update(f"{class_id} {[self._facts[t] for t in seen[n]]}".encode())
            digest.update(shapes[n])
            keys[n] = np.void(digest.digest())
        return keys

    def _margins(self) -> NDArray[np.float64]:
        return np.array([-1.0, -1.0, 1.0, 1.0]) * self._reach_px

    def lookup(self, keys: NDArray[np.void]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """(N,) which are known, and (N, columns) their numbers, NaN for the others."""
        wanted, ours = _sortable(keys), _sortable(self._before["key"])[self._order]
        place = np.minimum(np.searchsorted(ours, wanted), max(len(ours) - 1, 0))
        found = ours[place] == wanted if len(ours) else np.zeros(len(keys), np.bool_)
        values = np.full((len(keys), *self._row["values"].shape), np.nan)
        values[found] = self._before["values"][self._order[place[found]]]
        return found, values

    def store(self, keys: NDArray[np.void], values: NDArray[np.float64]) -> None:
        """For the next time."""
        rows = np.empty(len(keys), self._row)
        rows["key"], rows["values"] = keys, values
        self._now.append(rows)

    def save(self) -> None:
        """Replace the file by what was kept."""
        with atomic_write(self._path) as temporary:
            np.save(temporary, np.concatenate([np.empty(0, self._row), *self._now]))


def _load(path: Path, row: np.dtype[Any]) -> NDArray[Any]:
    """Nothing, if there is no file, or it is damaged or of another kind: then all is made anew."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return np.empty(0, row)
    return np.asarray(found) if found.dtype == row and found.ndim == 1 else np.empty(0, row)


def _sortable(keys: NDArray[Any]) -> NDArray[Any]:
    """Keys as pairs of numbers would sort; ``void`` has no order of its own."""
    return np.ascontiguousarray(keys).view(f"S{KEY_BYTES}")
