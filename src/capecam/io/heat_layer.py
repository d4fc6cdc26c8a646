"""A heatmap's rasters over the city, and the meaning of their values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capecam.io.cog import LEVELS
from capecam.io.vrt import Layer

SCALE: NDArray[np.float64] = np.append(np.arange(LEVELS + 1) / LEVELS, np.nan)
"""What a stored byte means."""


@dataclass(frozen=True, slots=True)
class HeatLayer:
    """The rasters of one method, and how their values are read."""

    method: str
    layer: Layer | None
    """None where images of a few pixels have missed every block."""
    stride: int
    """Pixels along the edge of a block; 1 for a method at full resolution."""
    scale_max: tuple[float | None, ...] | None
    """For raw values, the top of the scale by foreground class; None for stored levels."""

    def scaled(self, values: NDArray[Any], class_id: int) -> NDArray[np.float64]:
        """Stored values as 0..1 of the city's scale, NaN where there is nothing."""
        if self.scale_max is None:
            return np.asarray(SCALE[values], np.float64)
        top = self.scale_max[class_id - 1]
        levels = np.zeros(values.shape) if top is None else np.minimum(values / top, 1)
        return np.asarray(np.where(np.isnan(values), np.nan, levels), np.float64)
