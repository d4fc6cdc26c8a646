"""The own map of an object, as a panel shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capecam.detections.object_columns import OBJECT_COLUMNS, evidence_words
from capecam.grid import Window
from capecam.pipeline.object_explainer import ObjectExplanation
from capecam.views.panels.detection_lookup import Detection

Extent = tuple[float, float]
"""Lowest and highest value of a map."""


@dataclass(frozen=True, slots=True, eq=False)
class MapPart:
    """The map of an object, or of a part of one that is wider than a tile."""

    window: Window
    heat: NDArray[np.float32]
    """(h, w) raw map over the window, at the resolution of its layer; not negative."""


@dataclass(frozen=True, slots=True, eq=False)
class ObjectMap:
    """The own map of an object, with the numbers that prove it."""

    window: Window
    """Pixels of the grid that hold all parts: around the object, and not a tile of the run."""
    pixels: NDArray[np.uint8]
    """(height, width, 3); 0 where invalid."""
    valid: NDArray[np.bool_]
    """(height, width); True is imagery, False is nodata or beside all parts."""
    parts: tuple[MapPart, ...]
    """One, unless the object is wider than a tile."""
    method: str
    """One of ``OBJECT_METHODS``."""
    numbers: Mapping[str, float]
    """Measures by column of ``detections.parquet``; NaN if they were not computed."""
    word: str
    """Evidence, as in ``detections.parquet``."""

    @classmethod
    def of(cls, explanation: ObjectExplanation, detection: Detection, method: str) -> Self:
        """Return the map of a detection, with the numbers that the run has of it.

        If it has none, they are those of the explanation, which knows no other detections: ``leak``
        is NaN.
        """
        numbers = {name: float(detection.row.get(name, np.nan)) for name in OBJECT_COLUMNS}
        word = str(detection.row["evidence"])
        if np.isnan(numbers["alone"]):
            numbers = explanation.numbers() | {"leak": np.nan}
            word = str(evidence_words(pd.DataFrame([numbers]))[0])
        window = reduce(Window.hull, (part.window for part in explanation.parts))
        pixels, valid = np.zeros((*window.shape, 3), np.uint8), np.zeros(window.shape, bool)
        for part in explanation.parts:
            at = part.window.slices(window)
            pixels[at][part.valid] = part.pixels.transpose(1, 2, 0)[part.valid]
            valid[at] |= part.valid
        parts = tuple(
            MapPart(part.window, part.heat.astype(np.float32)) for part in explanation.parts
        )
        return cls(window, pixels, valid, parts, method, numbers, word)

    @property
    def is_pixelwise(self) -> bool:
        """Return whether it has a value for each pixel, as guided maps have."""
        return all(part.heat.shape == part.window.shape for part in self.parts)

    @property
    def extent(self) -> Extent:
        """Return 0, from which it is drawn, and its highest value where there is imagery."""
        tops = (extent(p.heat, self.valid[p.window.slices(self.window)])[1] for p in self.parts)
        return 0.0, max(tops)


def extent(samples: NDArray[np.float32], valid: NDArray[np.bool_]) -> Extent:
    """Return the extent of those of (h, w) samples that have a valid pixel of (H, W)."""
    rows, cols = np.nonzero(valid)
    (height, width), (h, w) = valid.shape, samples.shape
    seen = np.zeros((h, w), bool)
    seen[rows * h // height, cols * w // width] = True
    return float(samples[seen].min()), float(samples[seen].max())
