"""The own maps of the objects that a report shows, from what the run has stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from capecam.detections.object_columns import OBJECT_COLUMNS
from capecam.grid import Window
from capecam.io.heat_layer import OBJECT_SHARE_MAX
from capecam.store.object_store import ObjectStore, StoredObject
from capecam.store.run_folder import RunFolder


class ObjectMaps:
    """Finds the stored explanations of detections, by their numbers."""

    def __init__(self, run: RunFolder) -> None:
        self._run, self._store = run, ObjectStore(run.out, len(OBJECT_COLUMNS))
        self._by_numbers: dict[str, dict[bytes, StoredObject]] = {}

    def find(self, row: Mapping[str, Any]) -> StoredObject | None:
        """Return the explanation of a row of the detections; None if it has none."""
        if not is_explained(row):
            return None
        numbers = np.array([row[name] for name in OBJECT_COLUMNS], np.float64).tobytes()
        images = row["images"].split(",")
        cells = [name for name, cell in self._run.cells.items() if cell.image in images]
        found = (self._read(cell).get(numbers) for cell in cells)
        return next((each for each in found if each is not None), None)

    def _read(self, cell: str) -> dict[bytes, StoredObject]:
        if cell not in self._by_numbers:
            stored = self._store.read(cell).values()
            self._by_numbers[cell] = {each.numbers.tobytes(): each for each in stored}
        return self._by_numbers[cell]


def is_explained(row: Mapping[str, Any]) -> bool:
    """Return whether a row of the detections has the numbers of its own explanation."""
    return bool(pd.notna(row.get("alone")))


def brightness(
    explained: StoredObject, size: int, stride: int, window: Window
) -> NDArray[np.float64]:
    """Return how bright an explanation is in a window, (height, width) of 0..1.

    It is the square root of the share of a block around each pixel, on the scale of ``objects``.

    Args:
        explained: maps over tiles.
        size: edge of a tile in pixels.
        stride: edge of a block in pixels.
        window: in lattice pixels.
    """
    energy, total = np.zeros(window.shape), 0.0
    for (row, col), heat in zip(explained.windows.tolist(), explained.maps, strict=True):
        tile = Window(row, col, size, size)
        fine = np.asarray(Image.fromarray(heat).resize((size, size), Image.Resampling.BILINEAR))
        total += float(fine.sum(dtype=np.float64))
        if common := tile.intersection(window):
            energy[common.slices(window)] += fine[common.slices(tile)]
    shares = energy * stride**2 / (total or 1.0)
    return np.asarray(np.sqrt(np.clip(shares / OBJECT_SHARE_MAX, 0, 1)))
