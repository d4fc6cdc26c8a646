"""Reference for tracing: GDAL's polygons of a whole raster, dissolved and counted slowly."""

from __future__ import annotations

import numpy as np
import shapely
from rasterio.features import rasterize, shapes

from capecam.detections.regions import Pieces, merge


def gdal_trace(classes: np.ndarray, levels: np.ndarray, col: int = 0, row: int = 0) -> Pieces:
    """Return the 4-connected regions of (H, W) classes; (C, H, W) levels."""
    foreground = (classes > 0) & (classes < 255)
    found = [
        (int(k), shapely.geometry.shape(outline))
        for outline, k in shapes(classes, mask=foreground, connectivity=4)
    ]
    inside = [rasterize([polygon], out_shape=classes.shape) > 0 for _, polygon in found]
    polygons = np.array([polygon for _, polygon in found], object)
    unlinked = Pieces(
        np.array([k for k, _ in found], np.int64),
        shapely.transform(polygons, lambda xy: xy + np.array([col, row])),
        np.array([levels[k - 1][m].sum() for (k, _), m in zip(found, inside, strict=True)], int),
        (frozenset(["image"]),) * len(found),
    )
    return merge(unlinked, np.empty((2, 0), np.int64))
