"""Thumbnails of detections: the imagery with the object's outline, and what the heatmap says."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from capecam.errors import CapecamError, ImageError
from capecam.evidence import Heat
from capecam.grid import Window
from capecam.outputs import RunOutput
from capecam.raster import LayerReader, Reader, gdal_settings

SIZE_PX = 288
"""Edge of a picture: sharp in the table of a good screen, and large enough for a closer look."""

FINER = 2
"""Drawn so many times as large: its lines are smooth when it is made smaller."""

AROUND_M = 8.0
"""Shown on all sides of an object."""

MOST_PX = 2048
"""Edge of what is read: of an object that covers half an image, its middle."""

QUALITY = 74
"""Of WebP: 8 kB a picture of a roof."""

GREY = 0.6
"""Brightness of the imagery under a heatmap."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Picture:
    """How an object looks; WebP."""

    imagery: bytes | None
    heat: bytes | None
    """Over the imagery in grey; None if nothing was explained."""
    width_m: float
    problem: str | None
    """Why something is missing."""


class Album:
    """Takes pictures of a run's detections; for one thread.

    What cannot be read is said in the picture, and stops nothing.

    Args:
        run: whose imagery and heatmaps are read.
        heat: the heatmap that is shown; None if there is none.
        pixel_m: edge of a pixel.
    """

    def __init__(self, run: RunOutput, heat: Heat | None, pixel_m: float) -> None:
        self._run, self._heat, self._pixel_m = run, heat, pixel_m
        self._reader: Reader | None = None
        self._problem: str | None = None
        self._layer: LayerReader | None = None
        try:
            self._reader = Reader(run.imagery())
        except CapecamError as error:
            self._problem = str(error)
        try:
            self._layer = LayerReader(heat.layer) if heat else None
        except OSError as error:
            self._problem = self._problem or str(error)

    def close(self) -> None:
        """Close all files."""
        for reader in (self._reader, self._layer):
            if reader is not None:
                reader.close()

    def picture(self, shape: shapely.Geometry, class_id: int, color: str, images: str) -> Picture:
        """Of an object.

        Args:
            shape: in the CRS of the imagery.
            class_id: its class, from 1.
            color: #RRGGBB of its outline.
            images: names of those it lies on, with commas.
        """
        outline = shapely.transform(shape, self._run.grid.to_lattice)
        window = self._window(outline)
        width_m = window.width * self._pixel_m
        try:
            pixels = self._imagery(window, images)
            imagery = _drawn(pixels, outline, window, color)
            values = self._heat_in(window, class_id)
            heat = None if values is None else _drawn(_glow(pixels, values), outline, window, None)
        except (ImageError, OSError) as error:
            return Picture(None, None, width_m, str(error))
        return Picture(imagery, heat, width_m, None)

    def _window(self, outline: shapely.Geometry) -> Window:
        """A square around an object."""
        left, top, right, bottom = outline.bounds
        side = max(right - left, bottom - top) + 2 * AROUND_M / self._pixel_m
        side = int(min(side, MOST_PX))
        col, row = (left + right - side) // 2, (top + bottom - side) // 2
        return Window(int(row), int(col), side, side)

    def _imagery(self, window: Window, images: str) -> Pixels:
        """(height, width, 3)."""
        if self._reader is None:
            raise ImageError(self._problem or "there is no imagery")
        there = {source.name for source in self._reader.mosaic.touching(window)}
        if gone := [name for name in images.split(",") if name not in there]:
            raise ImageError(f"image {', '.join(gone)} is not where the run found it")
        return self._reader.read(window)[0].transpose(1, 2, 0)

    def _heat_in(self, window: Window, class_id: int) -> NDArray[np.float64] | None:
        """(height, width) of 0..1, NaN where nothing was explained."""
        if self._heat is None or self._layer is None:
            return None
        stride = self._heat.stride
        blocks = Window.between(
            window.row // stride,
            window.col // stride,
            -(-window.bottom // stride),
            -(-window.right // stride),
        )
        values = self._heat.scaled(self._layer.read(class_id, blocks), class_id)
        pixels = values.repeat(stride, axis=0).repeat(stride, axis=1)
        found: NDArray[np.float64] = pixels[window.slices(blocks.scaled(stride))]
        return None if np.isnan(found).all() else found


@contextmanager
def album(run: RunOutput, heat: Heat | None, pixel_m: float) -> Iterator[Album]:
    """An album that is closed in the end."""
    with gdal_settings():
        made = Album(run, heat, pixel_m)
        try:
            yield made
        finally:
            made.close()


def _glow(pixels: Pixels, values: NDArray[np.float64]) -> Pixels:
    """A heatmap over the imagery in grey; the less it says, the less there is of it."""
    strength = np.nan_to_num(values)
    grey = pixels.mean(axis=2, keepdims=True) * GREY
    colours = _ramp()[np.rint(strength * 255).astype(np.uint8)]
    share = strength[..., None]
    return np.asarray((1 - share) * grey + share * colours, np.uint8)


@cache
def _ramp() -> NDArray[np.float64]:
    """(256, 3): lightness rises evenly."""
    from matplotlib import colormaps  # noqa: PLC0415 slow to import

    found: NDArray[np.float64] = colormaps["inferno"](np.arange(256))[:, :3] * 255
    return found


def _drawn(pixels: Pixels, outline: shapely.Geometry, window: Window, color: str | None) -> bytes:
    """Pixels with an outline: in a colour with a dark edge, or as a thin white line."""
    edge = SIZE_PX * FINER
    image = Image.fromarray(pixels).resize((edge, edge), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    scale = edge / window.width
    for part in shapely.get_parts(outline):
        for ring in (part.exterior, *part.interiors):
            points = (np.asarray(ring.coords) - (window.col, window.row)) * scale
            line: list[Any] = [tuple(point) for point in points]
            if color:
                draw.line(line, "#00000099", width=5 * FINER, joint="curve")
            draw.line(line, color or "#ffffff", width=(2 if color else 1) * FINER, joint="curve")
    kept = io.BytesIO()
    small = image.resize((SIZE_PX, SIZE_PX), Image.Resampling.LANCZOS)
    small.save(kept, "WEBP", quality=QUALITY, method=4)
    return kept.getvalue()
