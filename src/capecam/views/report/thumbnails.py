"""Thumbnails of detections: the imagery with the object's outline, and what the heatmap says."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from capecam.detections.neighbourhood import NEIGHBOURHOOD_M
from capecam.errors import CapecamError, ImageError
from capecam.grid import Window
from capecam.io.gdal import gdal_settings
from capecam.io.layer_reader import LayerReader
from capecam.mosaic.mosaic import Mosaic
from capecam.mosaic.reader import Reader
from capecam.views.report.data import ReportData

SIZE_PX = 288
"""Edge of a picture: sharp in the table of a good screen, and large enough for a closer look."""

FINER = 2
"""Lines are drawn so many times as large, and then made smaller: they come out smooth."""

AROUND_M = 6.0
"""Of the imagery, on all sides of an object; of the heatmap, all that its evidence is about."""

MOST_PX = 2048
"""Edge of what is read: of an object that covers half an image, its middle."""

QUALITY = 74
"""Of WebP: 8 kB a picture of a roof."""

FIGURE_QUALITY = 85
"""Of curves and letters, which show every flaw."""

GREY = 0.6
"""Brightness of the imagery under a heatmap."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Picture:
    """How an object looks; WebP."""

    imagery: bytes | None
    heat: bytes | None
    """Over the imagery in grey; None if nothing was explained."""
    imagery_m: float
    """Its width."""
    heat_m: float
    problem: str | None
    """Why something is missing."""


class Album:
    """Takes pictures of a run's detections; for one thread.

    What cannot be read is said in the picture, and stops nothing.

    Args:
        facts: of the run whose imagery and heatmaps are read.
        imagery: its own, where it is open already.
    """

    def __init__(self, facts: ReportData, imagery: Mosaic | None) -> None:
        self._run, self._pixel_m = facts.run, float(facts.pixel_m[0])
        self._heat = heat = facts.run.heat(facts.method)
        self._reader: Reader | None = None
        self._problem: str | None = None
        self._layer: LayerReader | None = None
        try:
            self._reader = Reader(imagery or facts.run.mosaic)
        except CapecamError as error:
            self._problem = str(error)
        try:
            self._layer = LayerReader(heat.layer) if heat.layer else None
        except OSError as error:
            self._problem = self._problem or str(error)

    def close(self) -> None:
        """Close all files."""
        for reader in (self._reader, self._layer):
            if reader is not None:
                reader.close()

    def picture(self, row: Mapping[str, Any], shape: shapely.Geometry) -> Picture:
        """Of an object.

        Args:
            row: of the detections.
            shape: its own, in the CRS of the imagery.
        """
        class_id = int(row["class_id"])
        color = self._run.settings.model.classes[class_id].color
        outline = shapely.transform(shape, self._run.grid.to_lattice)
        near, far = self._window(outline, AROUND_M), self._window(outline, NEIGHBOURHOOD_M)
        widths_m = near.width * self._pixel_m, far.width * self._pixel_m
        try:
            pixels = self._imagery(far, row["images"])
            imagery = _drawn(pixels[near.slices(far)], outline, near, color)
            values = self._heat_in(far, class_id)
            heat = None if values is None else _drawn(_glow(pixels, values), outline, far, None)
        except (ImageError, OSError) as error:
            return Picture(None, None, *widths_m, str(error))
        return Picture(imagery, heat, *widths_m, None)

    def _window(self, outline: shapely.Geometry, around_m: float) -> Window:
        """A square around an object."""
        left, top, right, bottom = outline.bounds
        side = max(right - left, bottom - top) + 2 * around_m / self._pixel_m
        side = int(min(side, MOST_PX))
        col, row = (left + right - side) // 2, (top + bottom - side) // 2
        return Window(int(row), int(col), side, side)

    def _imagery(self, window: Window, images: str) -> Pixels:
        """(height, width, 3)."""
        if self._reader is None:
            raise ImageError(self._problem or "there is no imagery")
        names = images.split(",")
        there = {source.name for source in self._reader.mosaic.touching(window)}
        if gone := [name for name in names if name not in there]:
            raise ImageError(
                f"image {', '.join(gone)} is not where the run found it; bring it back"
            )
        self._reader.needed = names[0]  # of damaged neighbours, what can be decoded
        return self._reader.read(window)[0].transpose(1, 2, 0)

    def _heat_in(self, window: Window, class_id: int) -> NDArray[np.float64] | None:
        """(height, width) of 0..1, NaN where nothing was explained."""
        if self._layer is None:
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
def album(facts: ReportData, imagery: Mosaic | None) -> Iterator[Album]:
    """An album that is closed in the end."""
    with gdal_settings():
        made = Album(facts, imagery)
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
    """Pixels with an outline: in a colour between white lines, or as a thin white line."""
    image = Image.fromarray(pixels).resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC)
    image.paste("#ffffff", mask=_line(outline, window, 4 if color else 1.5))
    if color:
        image.paste(color, mask=_line(outline, window, 2))
    kept = io.BytesIO()
    image.save(kept, "WEBP", quality=QUALITY, method=2)
    return kept.getvalue()


def _line(outline: shapely.Geometry, window: Window, width: float) -> Image.Image:
    """Where an outline is, from 0 to 255."""
    edge = SIZE_PX * FINER
    mask, scale = Image.new("L", (edge, edge)), edge / window.width
    draw = ImageDraw.Draw(mask)
    for part in shapely.get_parts(outline):
        for ring in (part.exterior, *part.interiors):
            points = (shapely.get_coordinates(ring) - (window.col, window.row)) * scale
            line: list[Any] = [tuple(point) for point in points]
            draw.line(line, 255, width=round(width * FINER), joint="curve")
    return mask.reduce(FINER)


def smaller(path: Path) -> bytes:
    """A figure as WebP: a quarter of the bytes."""
    kept = io.BytesIO()
    with Image.open(path) as figure:
        figure.convert("RGB").save(kept, "WEBP", quality=FIGURE_QUALITY)
    return kept.getvalue()
