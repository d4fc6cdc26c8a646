"""Cache of the evidence of objects, for those around which nothing has changed.

A city's evidence takes core-minutes, and a nightly run changes a few images. A row of numbers is
used again only if it would come out the same: its key depends on the pixels of the object and on
the contents of all rasters nearby.
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

EVIDENCE_CACHE = ".evidence.npy"
"""In the folder of a run: numbers of the last time, and of cells that have been made since;
without it they are measured again."""

KEY_BYTES = 16


class EvidenceKeys:
    """Keys of objects, from their pixels and the contents of all rasters nearby.

    Args:
        version: everything else that the numbers depend on, as a text.
        tiles: rasters that numbers are read from, by product and cell; windows in lattice pixels.
        distance_px: distance from an object up to which rasters are read.
    """

    def __init__(self, version: str, tiles: Sequence[VrtTile], distance_px: float) -> None:
        self._version, self._distance_px = version.encode(), distance_px
        self._index = shapely.STRtree([tile.window.box for tile in tiles])
        self._tiles = [
            repr((t.path.parent.name, t.path.name, t.version or t.sha256, t.window)) for t in tiles
        ]

    def of(self, objects: Pieces) -> list[bytes]:
        """Return (N,) keys, equal for objects whose numbers must be equal."""
        margins = np.array([-1.0, -1.0, 1.0, 1.0]) * self._distance_px
        boxes = shapely.box(*(shapely.bounds(objects.geometry) + margins).T)
        owner, tile = self._index.query(boxes, predicate="intersects")
        order = np.lexsort((tile, owner))
        tiles = np.split(tile[order], np.searchsorted(owner[order], np.arange(1, len(objects))))
        keys = []
        for n, wkb in enumerate(shapely.to_wkb(objects.geometry)):
            digest = hashlib.blake2b(self._version, digest_size=KEY_BYTES)
            nearby = [self._tiles[t] for t in tiles[n]]
            digest.update(f"{objects.class_id[n]} {nearby}".encode())
            digest.update(wkb)
            keys.append(digest.digest())
        return keys


class EvidenceCache:
    """Rows of numbers by key, in a file that is read at the start and replaced at the end.

    Args:
        path: of the file; it may be missing.
        columns: length of a row.
    """

    def __init__(self, path: Path, columns: int) -> None:
        self._path = path
        self._dtype = np.dtype([("key", f"V{KEY_BYTES}"), ("values", np.float64, (columns,))])
        self._loaded = _load(path, self._dtype)
        self._rows = {key: row for row, key in enumerate(self._loaded["key"].tolist())}
        self._stored: list[NDArray[Any]] = [np.empty(0, self._dtype)]

    def lookup(self, keys: Sequence[bytes]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Return an (N,) mask of known keys, and (N, columns) their numbers, else NaN."""
        rows = np.array([self._rows.get(key, -1) for key in keys], np.int64)
        known = rows >= 0
        values = np.full((len(keys), *self._dtype["values"].shape), np.nan)
        values[known] = self._loaded["values"][rows[known]]
        return known, values

    def store(self, keys: Sequence[bytes], values: NDArray[np.float64]) -> None:
        """Add (N, columns) numbers to those that :meth:`save` writes."""
        rows = np.empty(len(keys), self._dtype)
        rows["key"], rows["values"] = np.array(keys, f"V{KEY_BYTES}"), values
        self._stored.append(rows)

    def save(self, *, keep_loaded: bool = False) -> None:
        """Replace the file by the stored rows, and those that were loaded if they are kept."""
        rows = [self._loaded, *self._stored] if keep_loaded else self._stored
        with atomic_write(self._path) as temporary:
            np.save(temporary, np.concatenate(rows))


def _load(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the rows of a file; none if it is missing, damaged or has other columns."""
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return np.empty(0, dtype)
    return np.asarray(rows) if rows.dtype == dtype and rows.ndim == 1 else np.empty(0, dtype)
