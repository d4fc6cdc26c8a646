"""Thumbnails of detections: the imagery with the outline, and the heatmap over it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
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
from capecam.settings import TITLES
from capecam.store.object_store import StoredObject
from capecam.views.palette import WHITE
from capecam.views.report.data import ReportData
from capecam.views.report.object_maps import ObjectMaps, brightness

SIZE_PX = 288
"""Edge of a thumbnail: sharp in the table on a high-density screen, large enough to be enlarged."""

SUPERSAMPLING = 2
"""Factor by which outlines are drawn larger and then reduced, to smooth them."""

MARGIN_M = 6.0
"""Margin of the imagery around an object; that of the heatmap is ``NEIGHBOURHOOD_M``."""

MAX_PX = 2048
"""Largest edge that is read: of an object that covers half an image, its middle."""

QUALITY = 74
"""Quality of WebP: 8 kB per roof."""

FIGURE_QUALITY = 85
"""Quality of figures with curves and letters, which show artefacts."""

OWN = "its own explanation"
"""Title of an object's own map."""

GREY = 0.6
"""Brightness of the imagery under a heatmap."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """Pictures of an object, as WebP."""

    imagery: bytes | None
    heat: bytes | None
    """Heatmap over the imagery in grey; None if nothing is explained there."""
    heat_title: str
    imagery_m: float
    """Width of the imagery in metres."""
    heat_m: float
    """Width of the heatmap in metres."""
    problem: str | None
    """Reason why pictures are missing."""


class ThumbnailReader:
    """Draws thumbnails of a run's detections, in one thread.

    Pictures that cannot be read are replaced by the reason.

    Args:
        data: data of the run.
        imagery: imagery of the run, if it is open already.
    """

    def __init__(self, data: ReportData, imagery: Mosaic | None) -> None:
        self._run, self._pixel_m = data.run, float(data.pixel_m[0])
        self._heat = heat = data.run.heat(data.method)
        self._maps = ObjectMaps(data.run)
        self._reader: Reader | None = None
        self._problem: str | None = None
        self._layer: LayerReader | None = None
        try:
            self._reader = Reader(imagery or data.run.mosaic)
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

    def draw(self, row: Mapping[str, Any], shape: shapely.Geometry) -> Thumbnail:
        """Return the thumbnail of an object.

        Args:
            row: its row of the detections.
            shape: its shape, in the CRS of the imagery.
        """
        class_id = int(row["class_id"])
        color = self._run.settings.model.classes[class_id].color
        outline = shapely.transform(shape, self._run.grid.to_lattice)
        near, far = self._window(outline, MARGIN_M), self._window(outline, NEIGHBOURHOOD_M)
        explained = self._maps.find(row)
        title = f"{TITLES[self._heat.method]} on the city's scale" if explained is None else OWN
        widths_m = near.width * self._pixel_m, far.width * self._pixel_m
        try:
            pixels = self._imagery(far, row["images"])
            imagery = _with_outline(pixels[near.slices(far)], outline, near, color)
            values = (
                self._heat_in(far, class_id) if explained is None else self._own(explained, far)
            )
            heat = (
                None
                if values is None
                else _with_outline(_overlay(pixels, values), outline, far, None)
            )
        except (ImageError, OSError) as error:
            return Thumbnail(None, None, title, *widths_m, str(error))
        return Thumbnail(imagery, heat, title, *widths_m, None)

    def _window(self, outline: shapely.Geometry, around_m: float) -> Window:
        """Return a square window around an object."""
        return square_around(outline, around_m / self._pixel_m)

    def _imagery(self, window: Window, images: str) -> Pixels:
        """Return the pixels of a window, (height, width, 3)."""
        if self._reader is None:
            raise ImageError(self._problem or "there is no imagery; bring the images back")
        names = images.split(",")
        available = {source.name for source in self._reader.mosaic.touching(window)}
        if gone := [name for name in names if name not in available]:
            raise ImageError(
                f"image {', '.join(gone)} is not where the run found it; bring it back"
            )
        self._reader.needed = names[0]  # of damaged neighbours, what can be decoded
        return self._reader.read(window)[0].transpose(1, 2, 0)

    def _own(self, explained: StoredObject, window: Window) -> NDArray[np.float64]:
        """Return an object's own map in a window, (height, width) of 0..1."""
        tiling = self._run.settings.tiling
        return brightness(explained, tiling.size, tiling.stride, window)

    def _heat_in(self, window: Window, class_id: int) -> NDArray[np.float64] | None:
        """Return the heatmap of a window, (height, width) of 0..1, NaN where not explained."""
        if self._layer is None:
            return None
        stride = self._heat.stride
        blocks = Window.between(
            window.row // stride,
            window.col // stride,
            -(-window.bottom // stride),
            -(-window.right // stride),
        )
        values = self._heat.brightness(self._layer.read(class_id, blocks), class_id)
        pixels = values.repeat(stride, axis=0).repeat(stride, axis=1)
        heat: NDArray[np.float64] = pixels[window.slices(blocks.scaled(stride))]
        return None if np.isnan(heat).all() else heat


@contextmanager
def open_thumbnails(data: ReportData, imagery: Mosaic | None) -> Iterator[ThumbnailReader]:
    """Open a reader of thumbnails, and close its files at the end."""
    with gdal_settings(), closing(ThumbnailReader(data, imagery)) as reader:
        yield reader


def square_around(outline: shapely.Geometry, margin_px: float) -> Window:
    """Return a square window around an object, of ``MAX_PX`` at most.

    Args:
        outline: in lattice pixels.
        margin_px: on each side.
    """
    left, top, right, bottom = outline.bounds
    side = int(min(max(right - left, bottom - top) + 2 * margin_px, MAX_PX))
    col, row = (left + right - side) // 2, (top + bottom - side) // 2
    return Window(int(row), int(col), side, side)


def _overlay(pixels: Pixels, values: NDArray[np.float64]) -> Pixels:
    """Return a heatmap over the imagery in grey; low values are transparent."""
    strength = np.nan_to_num(values)
    grey = pixels.mean(axis=2, keepdims=True) * GREY
    colours = _ramp()[np.rint(strength * 255).astype(np.uint8)]
    share = strength[..., None]
    return np.asarray((1 - share) * grey + share * colours, np.uint8)


@cache
def _ramp() -> NDArray[np.float64]:
    """Return the colours of inferno, (256, 3)."""
    from matplotlib import colormaps  # noqa: PLC0415 slow to import

    colors: NDArray[np.float64] = colormaps["inferno"](np.arange(256))[:, :3] * 255
    return colors


def _with_outline(
    pixels: Pixels, outline: shapely.Geometry, window: Window, color: str | None
) -> bytes:
    """Return pixels as WebP, with an outline."""
    stream = io.BytesIO()
    outlined(pixels, outline, window, color).save(stream, "WEBP", quality=QUALITY, method=2)
    return stream.getvalue()


def outlined(
    pixels: Pixels, outline: shapely.Geometry, window: Window, color: str | None
) -> Image.Image:
    """Return pixels with an outline: coloured with a white casing, or thin and white.

    Args:
        pixels: (height, width, 3) of the window.
        outline: in lattice pixels.
        window: a square.
        color: #RRGGBB of the line; None: white.
    """
    image = Image.fromarray(pixels).resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC)
    image.paste(WHITE, mask=_line(outline, window, 4 if color else 1.5))
    if color:
        image.paste(color, mask=_line(outline, window, 2))
    return image


def _line(outline: shapely.Geometry, window: Window, width: float) -> Image.Image:
    """Return the mask of an outline, 0..255."""
    edge = SIZE_PX * SUPERSAMPLING
    mask, scale = Image.new("L", (edge, edge)), edge / window.width
    draw = ImageDraw.Draw(mask)
    for part in shapely.get_parts(outline):
        for ring in (part.exterior, *part.interiors):
            points = (shapely.get_coordinates(ring) - (window.col, window.row)) * scale
            line: list[Any] = [tuple(point) for point in points]
            draw.line(line, 255, width=round(width * SUPERSAMPLING), joint="curve")
    return mask.reduce(SUPERSAMPLING)


def to_webp(path: Path) -> bytes:
    """Return a figure as WebP, a quarter of the bytes of PNG."""
    stream = io.BytesIO()
    with Image.open(path) as figure:
        figure.convert("RGB").save(stream, "WEBP", quality=FIGURE_QUALITY)
    return stream.getvalue()
