"""Pictures over the map that show an explanation: the object's own map, and what is left of a tile.

Imported by the process that explains; it needs PyTorch.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from capecam.detections.object_columns import OBJECT_COLUMNS
from capecam.grid import Grid, Window
from capecam.pipeline.object_explainer import (
    CHANGES,
    MARGIN_M,
    ObjectExplanation,
    ObjectPart,
    replacements,
)
from capecam.settings import Settings
from capecam.store.object_store import StoredObject
from capecam.views.report.object_maps import brightness
from capecam.views.styles.palettes import object_palette
from capecam.views.styles.raster_styles import SHARES

OWN, ALONE, WITHOUT = "its own map", "only the object", "without the object"

PNG_LEVEL = 1
"""Compression: 9 takes 5 times as long for a fifth less."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """A picture with its place on the map."""

    title: str
    png: bytes
    extent: tuple[float, float, float, float]
    """West, south, east, north, in the CRS of the run."""
    legend: tuple[tuple[str, str], ...] = field(default=())
    """Labels and colours #RRGGBB."""
    unit: str = ""


def overlays_of(explanation: ObjectExplanation, grid: Grid, settings: Settings) -> list[Overlay]:
    """Return the pictures of an explanation: each kind for each part of the object."""
    stored, palette = explanation.stored(), object_palette()
    overlays = []
    for part in explanation.parts:
        own = SHARES.at(_shares(stored, settings, part.window))
        overlays.append(
            Overlay(OWN, _png(own), _extent(grid, part.window), palette.legend, palette.unit)
        )
    for part in explanation.parts:
        extent = _extent(grid, part.window)
        overlays += (Overlay(title, _png(picture), extent) for title, picture in _changed(part))
    return overlays


def _shares(stored: StoredObject, settings: Settings, window: Window) -> NDArray[np.float64]:
    """Return shares of the scale of ``objects`` at pixels, (S, S) of 0..1."""
    tiling = settings.tiling
    return brightness(stored, tiling.size, tiling.stride, window) ** 2


def _changed(part: ObjectPart) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield what the network was shown, (S, S, 4), transparent where nothing was changed."""
    pixels, valid, inside = (
        torch.from_numpy(array)[None] for array in (part.pixels, part.valid, part.tile.inside)
    )
    shown = replacements(pixels, valid, inside)[0]
    changed = {"alone": ~part.tile.within(MARGIN_M), "without": part.tile.inside}
    for title, change in ((ALONE, "alone"), (WITHOUT, "without")):
        colors = shown[CHANGES.index(change)]
        opaque = (changed[change] & part.valid).astype(np.uint8) * 255
        yield title, np.dstack([colors.permute(1, 2, 0).numpy(), opaque])


def _extent(grid: Grid, window: Window) -> tuple[float, float, float, float]:
    return grid.crop(window).bounds


def _png(picture: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG", compress_level=PNG_LEVEL)
    return stream.getvalue()


def plain_numbers(numbers: dict[str, float]) -> dict[str, float | None]:
    """Return the numbers of an object for JSON; None where they are not defined."""
    return {
        name: None if np.isnan(numbers[name]) else round(numbers[name], 6)
        for name in OBJECT_COLUMNS
    }
