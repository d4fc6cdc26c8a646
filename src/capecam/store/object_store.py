"""Explanations of objects that have been computed, in one file a cell, outside of the cells.

A nightly run changes a few images: an explanation is used again if its key is the same, which
depends on everything that it was computed from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from capecam.runtime.files import atomic_write

FOLDER = ".objects"
"""In the folder of a run; without it everything is explained again."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredObject:
    """Explanation of an object."""

    numbers: NDArray[np.float64]
    """(columns,)"""
    windows: NDArray[np.int64]
    """(parts, 2) row and column of the tile of each part, in lattice pixels."""
    maps: NDArray[np.float32]
    """(parts, h, w) raw maps over these tiles."""


class ObjectStore:
    """Explanations of the objects of each cell, by key.

    Args:
        out: folder of a run.
        columns: number of numbers of an object; files with others are not used.
    """

    def __init__(self, out: Path, columns: int) -> None:
        self._folder, self._columns = out / FOLDER, columns

    def read(self, cell: str) -> dict[bytes, StoredObject]:
        """Return what is known of a cell; nothing if its file is missing, damaged or another's."""
        try:
            with np.load(self._folder / f"{cell}.npz", allow_pickle=False) as file:
                keys, numbers, counts, windows, maps = (
                    file[name] for name in ("keys", "numbers", "counts", "windows", "maps")
                )
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return {}
        if numbers.shape[1:] != (self._columns,):
            return {}
        stops = np.cumsum(counts).tolist()
        parts = [slice(a, b) for a, b in zip([0, *stops], stops, strict=False)]
        return {
            key: StoredObject(row, windows[part], maps[part])
            for key, row, part in zip(keys.tolist(), numbers, parts, strict=True)
        }

    def write(self, cell: str, objects: Mapping[bytes, StoredObject]) -> None:
        """Replace the explanations of a cell."""
        self._folder.mkdir(exist_ok=True)
        stored = list(objects.values())
        with atomic_write(self._folder / f"{cell}.npz") as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                keys=np.array(list(objects), "V16"),
                numbers=np.array([each.numbers for each in stored], np.float64),
                counts=np.array([len(each.windows) for each in stored], np.int64),
                windows=np.concatenate([each.windows for each in stored]),
                maps=np.concatenate([each.maps for each in stored]),
            )

    def prune(self, cells: Collection[str]) -> None:
        """Remove the files of other cells."""
        for path in self._folder.glob("*.npz"):
            if path.stem not in cells:
                path.unlink()
