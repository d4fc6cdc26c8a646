"""The picture under the report's map: imagery, or classes where that is not at hand."""

from __future__ import annotations

import io
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from capecam.errors import CapecamError
from capecam.grid import Window
from capecam.io.block_sums import BlockSums
from capecam.io.gdal import gdal_settings, open_pixels
from capecam.io.overview import FACTOR
from capecam.mosaic.mosaic import Mosaic
from capecam.mosaic.picture import draw_picture
from capecam.store.records import WORKER_ENDED
from capecam.store.run_folder import RunFolder

LONGEST_PX = 1024
"""Maximum edge: the map is 1,040 px wide on a desktop."""

MAX_BYTES = 200_000
"""Maximum size as WebP; imagery has about half of it."""

QUALITIES = (72, 50, 25)
"""Qualities of WebP to try before the picture is made smaller."""

MAX_CLASSES_PX = 16_000_000
"""Maximum number of pixels of the overview of classes that are read."""

CLASSES = "classes"

Rgba = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class CityPicture:
    """Picture of the city."""

    image: bytes
    """WebP, transparent where there is nothing; at most ``MAX_BYTES``."""
    window: Window
    """Pixels of the imagery that it covers."""
    kind: Literal["imagery", "classes"]


def city_picture(run: RunFolder, imagery: Mosaic | None) -> CityPicture | None:
    """Return the picture of a run; None if there are neither images nor classes.

    Where a worker has ended at an image, it is of the classes.

    Args:
        run: the run.
        imagery: imagery of the run, if it is open already.
    """
    with gdal_settings():
        drawn = None
        if not _may_crash(run):
            with suppress(CapecamError):  # the thumbnails say why
                drawn = draw_picture(imagery or run.mosaic, run.grid.window, LONGEST_PX)
        if drawn is not None:
            return CityPicture(encoded(drawn[1]), drawn[0], "imagery")
        classes = _draw_classes(run)
    return None if classes is None else CityPicture(encoded(classes[1]), classes[0], "classes")


def _may_crash(run: RunFolder) -> bool:
    """Return True if an image has crashed a worker, and may crash this process, too."""
    return any(reason.startswith(WORKER_ENDED) for reason in run.record.failures.values())


def _draw_classes(run: RunFolder) -> tuple[Window, Rgba] | None:
    """Draw the classes from their overview: a block has the colour of its most frequent class, if
    it has any but the background."""
    path, file = run.out / f"{CLASSES}.overview.tif", f"{CLASSES}.tif"
    if not path.exists() or file not in run.products:
        return None
    colors = np.array([entry.rgb for entry in run.settings.model.classes])
    covered = run.layer(file).grid.window
    level, step = _level(covered)
    longest = min(LONGEST_PX, -(-max(covered.shape) // step))
    sums = BlockSums(covered, longest, len(colors))
    with closing(open_pixels(path, level)) as dataset:
        index = dataset.read(1)
    one_hot = (index == np.arange(len(colors)).reshape(-1, 1, 1)).astype(np.uint8)
    sums.add(one_hot, one_hot.any(axis=0), (covered.row, covered.col), (step, step))
    found = sums.sums[1:]
    alpha = np.where(found.any(axis=0), 255, 0)
    rgba = np.dstack([colors[1 + found.argmax(axis=0)], alpha])
    return sums.extent, rgba.astype(np.uint8)


def _level(covered: Window) -> tuple[int | None, int]:
    """Return the overview of the city's overview that is small enough to be read, None for that
    itself, and the edge of its pixels in pixels of the imagery."""
    level, step = -1, FACTOR
    while covered.height * covered.width > MAX_CLASSES_PX * step**2:
        level, step = level + 1, 2 * step
    return (None if level < 0 else level), step


def encoded(pixels: Rgba) -> bytes:
    """Return (height, width, 4) pixels as WebP of at most ``MAX_BYTES``, at a smaller size if
    need be."""
    image = Image.fromarray(pixels)
    while True:
        for quality in QUALITIES:
            stream = io.BytesIO()
            image.save(stream, "WEBP", quality=quality, method=4)
            if stream.tell() <= MAX_BYTES:
                return stream.getvalue()
        image = image.reduce(2)
