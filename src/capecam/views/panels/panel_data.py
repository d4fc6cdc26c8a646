"""Data of a panel, and options for how it is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from capecam.errors import UsageError
from capecam.grid import Grid
from capecam.settings import ClassSettings
from capecam.views.panels.detection_lookup import Detection
from capecam.views.panels.object_map import Extent, ObjectMap, extent

RAMPS = ("inferno", "jet")

MAX_ROWS = 4
"""Maximum number of classes in a figure, so that it fits on one page."""

NEGLIGIBLE = 0.05
"""Share of the city's scale below which the highest value of a map is negligible: stretched like
other maps, noise of 5e-06 would look as strong as they do."""


@dataclass(frozen=True, slots=True)
class PanelStyle:
    """Options for drawing panels."""

    ramp: str = "inferno"
    """One of ``RAMPS``: perceptually uniform, or as in the original figures."""
    all_classes: bool = False
    """Whether classes that are not predicted in the tile get a row, too."""

    def __post_init__(self) -> None:
        if self.ramp not in RAMPS:
            raise UsageError(f"--ramp must be one of {', '.join(RAMPS)}; got {self.ramp!r}")


@dataclass(frozen=True, slots=True)
class Provenance:
    """Network, layer, score and device that computed the maps of a panel."""

    score: str
    network: str
    target_layer: str
    precision: str
    device: str


@dataclass(frozen=True, slots=True, eq=False)
class PanelData:
    """A tile of a run with its prediction and heatmaps. C is the number of foreground classes."""

    grid: Grid
    """Grid of the tile, size x size pixels."""
    pixels: NDArray[np.uint8]
    """(size, size, 3); 0 where invalid."""
    valid: NDArray[np.bool_]
    """(size, size); True is imagery, False is nodata."""
    probability: NDArray[np.float32]
    """(1 + C, size, size); 0 is the background."""
    predicted: NDArray[np.int64]
    """(size, size) index of the predicted class, from this tile alone."""
    heat: Mapping[str, NDArray[np.float32]]
    """Raw maps by method: CAMs (C, h, w) at the target layer's resolution, others (C, size, size).
    """
    scale_max: Mapping[str, tuple[float | None, ...]]
    """Top of the city's scale by method and class; None for an empty class."""
    classes: tuple[ClassSettings, ...]
    """All 1 + C classes."""
    point: tuple[float, float]
    """Map coordinates of the detection or the place that is shown."""
    lonlat: tuple[float, float]
    """The point in degrees, WGS 84."""
    pixel_m: tuple[float, float]
    """Width and height of a pixel of the tile, in metres."""
    images: tuple[str, ...]
    """Names of the images in the tile."""
    provenance: Provenance
    evidence_method: str
    """Method whose heatmap the evidence is based on."""
    detection: Detection | None = None
    """Detection that is shown; None: a place."""
    own: ObjectMap | None = None
    """Own map of the object that is shown; None if there is no object."""

    @property
    def name(self) -> str:
        """Return a file name, without a suffix."""
        x, y = self.point
        return self.detection.id if self.detection else f"at_{x:.10g}_{y:.10g}"

    @property
    def pixel_m2(self) -> float:
        """Return the area of a pixel of the tile."""
        return self.pixel_m[0] * self.pixel_m[1]

    def predicted_px(self) -> NDArray[np.int64]:
        """Return the number of valid pixels predicted per class, (1 + C,)."""
        return np.bincount(self.predicted[self.valid], minlength=len(self.classes))

    def rows(self, style: PanelStyle) -> list[int]:
        """Return the classes to show: that of the detection first, then by predicted area.

        Only predicted classes, unless there are none or the style asks for all; at most
        ``MAX_ROWS``.
        """
        counts, own = self.predicted_px(), self.detection.class_id if self.detection else 0
        mean = self.probability[:, self.valid].mean(axis=1)
        ranked = sorted(range(1, len(self.classes)), key=lambda k: (k != own, -counts[k], -mean[k]))
        shown = [k for k in ranked if counts[k] or k == own]
        return (ranked if style.all_classes or not shown else shown)[:MAX_ROWS]

    def extent(self, method: str, class_id: int) -> Extent:
        """Return the lowest and the highest raw value of a map where there is imagery."""
        return extent(self.heat[method][class_id - 1], self.valid)

    def city_top(self, method: str, class_id: int) -> float | None:
        """Return the top of the city's scale of a map; None for an empty class."""
        return self.scale_max[method][class_id - 1]

    def is_negligible(self, method: str, class_id: int) -> bool:
        """Return whether a map is below ``NEGLIGIBLE`` of the city's scale everywhere."""
        top = self.city_top(method, class_id)
        return top is not None and self.extent(method, class_id)[1] < NEGLIGIBLE * top

    @property
    def share_in_tile(self) -> float:
        """Return the share of the detection's area that is in the tile; 1 for a place."""
        if self.detection is None:
            return 1.0
        outline, tile = self.detection.outline, self.grid.window.box
        if tile.covers(outline):
            return 1.0
        return float(shapely.intersection(outline, tile).area / outline.area)
