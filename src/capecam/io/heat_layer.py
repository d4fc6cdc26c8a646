"""The rasters of a heatmap over the city, and the meaning of their values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from capecam.io.cog import LEVELS
from capecam.io.vrt import Layer

SCALE: NDArray[np.float64] = np.append(np.arange(LEVELS + 1) / LEVELS, np.nan)
"""Value of each stored byte; NaN for nodata."""

OBJECT_SHARE_MAX = 0.1
"""Upper end of the scale of ``objects``: share of an object's explanation in one block. The
brightest block of an object has .12 in the median, .06 in the lower quartile, and .04 in the median
of those of more than 13.5 m² (396 objects of the sample city, blocks of 0.8 m)."""


@dataclass(frozen=True, slots=True)
class HeatLayer:
    """The rasters of one method, and the scale of their values."""

    method: str
    layer: Layer | None
    """None if the images are so small that no block starts in them."""
    stride: int
    """Edge of a block in pixels; 1 for a method at full resolution."""
    scale_max: tuple[float | None, ...] | None
    """Upper end of the scale by foreground class for raw values; None for stored levels."""
    by_root: bool
    """True if levels are square roots of shares of the scale, by which raw values are drawn, too.
    """

    def scaled(self, values: NDArray[Any], class_id: int) -> NDArray[np.float64]:
        """Convert stored values to raw shares of the city's scale, 0..1, NaN for nodata."""
        if self.scale_max is None:
            return np.asarray(SCALE[values] ** (2 if self.by_root else 1), np.float64)
        top = self.scale_max[class_id - 1]
        levels = np.zeros(values.shape) if top is None else np.minimum(values / top, 1)
        return np.asarray(np.where(np.isnan(values), np.nan, levels), np.float64)

    def brightness(self, values: NDArray[Any], class_id: int) -> NDArray[np.float64]:
        """Convert stored values to 0..1 as they are drawn, NaN for nodata."""
        shares = self.scaled(values, class_id)
        return np.sqrt(shares) if self.by_root else shares
