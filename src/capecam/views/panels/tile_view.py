"""What is known of one tile, and how it may look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from capecam.errors import UsageError
from capecam.grid import Grid
from capecam.settings import ClassSettings
from capecam.views.panels.detection_lookup import Detection

RAMPS = ("inferno", "jet")
MOST_CLASSES = 4
"""Rows of a figure on one page."""


@dataclass(frozen=True, slots=True)
class PanelStyle:
    """How panels look."""

    ramp: str = "inferno"
    """One of ``RAMPS``: perceptually uniform, or as in the original figures."""
    all_classes: bool = False
    """A row for every class, also for those that are not predicted in the tile."""

    def __post_init__(self) -> None:
        if self.ramp not in RAMPS:
            raise UsageError(f"--ramp must be one of {', '.join(RAMPS)}; got {self.ramp!r}")


@dataclass(frozen=True, slots=True)
class Provenance:
    """What the maps rest on."""

    score: str
    network: str
    target_layer: str
    precision: str
    device: str


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A tile of a run with all that the network says about it. C: foreground classes."""

    grid: Grid
    """Of the tile: size x size pixels."""
    pixels: NDArray[np.uint8]
    """(size, size, 3); 0 where invalid."""
    valid: NDArray[np.bool_]
    """(size, size); True is imagery, False is nodata."""
    probability: NDArray[np.float32]
    """(1 + C, size, size); 0 is the background."""
    decided: NDArray[np.int64]
    """(size, size) index of the class of each pixel, of this tile alone."""
    heat: Mapping[str, NDArray[np.float32]]
    """By method, raw: CAMs (C, h, w) as the target layer has them, others (C, size, size)."""
    scale_max: Mapping[str, tuple[float | None, ...]]
    """By method and class: the top of the city's scale; None for a class that is empty."""
    classes: tuple[ClassSettings, ...]
    """All 1 + C."""
    place: tuple[float, float]
    """Map coordinates of what the panel is about."""
    lonlat: tuple[float, float]
    """The same in degrees, WGS 84."""
    pixel_m: tuple[float, float]
    """Width and height of a pixel of the tile, in metres."""
    images: tuple[str, ...]
    """Names of those in the tile."""
    footing: Provenance
    decisive: str
    """The method that the word of evidence comes from."""
    subject: Detection | None = None
    """The detection that it is about, if it is about one."""

    @property
    def name(self) -> str:
        """For a file."""
        x, y = self.place
        return self.subject.id if self.subject else f"at_{x:.10g}_{y:.10g}"

    @property
    def pixel_m2(self) -> float:
        """Area of a pixel of the tile."""
        return self.pixel_m[0] * self.pixel_m[1]

    def predicted_px(self) -> NDArray[np.int64]:
        """(1 + C,) valid pixels by class."""
        return np.bincount(self.decided[self.valid], minlength=len(self.classes))

    def rows(self, style: PanelStyle) -> list[int]:
        """The classes to show: the detection's own first, then by what is predicted of them.

        Those that are predicted; all if none is or if they are asked for; at most
        ``MOST_CLASSES``.
        """
        counts, own = self.predicted_px(), self.subject.class_id if self.subject else 0
        likely = self.probability[:, self.valid].mean(axis=1)
        ranked = sorted(range(1, len(self.classes)), key=lambda k: (-counts[k], -likely[k]))
        ranked.sort(key=lambda k: k != own)
        shown = [k for k in ranked if counts[k] or k == own]
        return (ranked if style.all_classes or not shown else shown)[:MOST_CLASSES]

    def strength(self, method: str, class_id: int) -> float | None:
        """The highest raw value in parts of the city's scale; None where that has no top."""
        top = self.scale_max[method][class_id - 1]
        return None if top is None else float(self.heat[method][class_id - 1].max()) / top
