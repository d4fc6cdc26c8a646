"""Objects whose reason is known, because the drawing was changed and the network asked again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely
import torch
from numpy.typing import NDArray
from torch import Tensor

from capecam.api import Model
from capecam.demo.canvas import covers_centres
from capecam.grid import Window
from reasons.cities import (
    PANEL,
    Plan,
    Site,
    cue_px,
    draw,
    plan_scene,
    planted_cues,
    toggled,
    without_object,
)

STRIDE_PX = 10
DETECTED = 0.5
"""Mean probability inside from which on an object counts as detected."""

NEEDED, NOT_NEEDED = 0.3, 0.7
"""Shares of its probability. An object that keeps less when something is removed from the drawing
needs it; one that keeps more does not; between the two, its reason is not clear."""

WORDS = {(True, False): "itself", (False, True): "context", (True, True): "both"}
"""Words by whether the object is needed, and the cue; ``either`` where neither alone is."""


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """A scene as it is, and as it would be with other cues or with bare roofs."""

    plan: Plan
    pixels: NDArray[np.uint8]
    toggled: NDArray[np.uint8]
    bare: NDArray[np.uint8]

    @classmethod
    def of(cls, plan: Plan) -> Drawing:
        """Draw the three."""
        cues = planted_cues(plan.city)
        return cls(
            plan,
            draw(plan),
            draw(plan, [toggled(site, cues) for site in plan.sites]),
            draw(plan, [without_object(site) for site in plan.sites]),
        )


@dataclass(frozen=True, eq=False)
class Subject:
    """An object in a tile that is centred on it. S: edge of the tile."""

    drawing: Drawing
    site: Site
    window: Window

    @cached_property
    def pixels(self) -> Tensor:
        """(3, S, S) uint8."""
        return tensor(self.drawing.pixels[self.slices])

    @cached_property
    def inside(self) -> NDArray[np.bool_]:
        """(S, S) bool; True is a pixel of the object."""
        return self.site.inside(self.window)

    @cached_property
    def cue(self) -> NDArray[np.bool_]:
        """(S, S) bool; True where the cues of the site are that can decide in its city."""
        cues = [cue for cue in planted_cues(self.drawing.plan.city) if cue in self.site.cues]
        areas = shapely.union_all([cue_px(self.site, cue) for cue in cues])
        return covers_centres(areas, self.window) & ~self.inside

    @cached_property
    def others(self) -> NDArray[np.bool_]:
        """(S, S) bool; True is a pixel of another panel."""
        panels = [site for site in self.drawing.plan.sites if site.is_panel and site != self.site]
        union = shapely.union_all([site.array.outline_px for site in panels])
        return covers_centres(union, self.window)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the tile in its scene."""
        side = self.drawing.plan.side_px
        return self.window.slices(Window(0, 0, side, side))

    def with_other_cues(self) -> Tensor:
        """Return the tile (3, S, S) in which only this site's cues are toggled."""
        return self._changed(self.drawing.toggled)

    def without_object(self) -> Tensor:
        """Return the tile (3, S, S) in which only this site's roof is bare."""
        return self._changed(self.drawing.bare)

    def shifted(self, rows_px: int, cols_px: int) -> Subject:
        """Return the same object in a tile that lies elsewhere."""
        w = self.window
        moved = Window(w.row + rows_px, w.col + cols_px, w.height, w.width)
        return Subject(self.drawing, self.site, moved)

    def _changed(self, variant: NDArray[np.uint8]) -> Tensor:
        lot = covers_centres(self.site.lot_px, self.window)[..., None]
        here = self.slices
        return tensor(np.where(lot, variant[here], self.drawing.pixels[here]))


def tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Convert (S, S, 3) to (3, S, S)."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def subjects(city: str, seeds: range, side_px: int, tile_px: int) -> Iterator[Subject]:
    """Yield the things on roofs whose tile, moved by up to 80 px, lies in its scene."""
    margin = tile_px // 2 + 80
    middle = shapely.box(margin, margin, side_px - margin, side_px - margin)
    for seed in seeds:
        drawing = Drawing.of(plan_scene(city, seed, side_px))
        for site in drawing.plan.sites:
            if site.array.outline_px.centroid.within(middle):
                yield Subject(drawing, site, centred(site, tile_px))


def centred(site: Site, tile_px: int) -> Window:
    """Return the tile around an object, moved to whole blocks."""
    row, col = (
        round((place - tile_px / 2) / STRIDE_PX) * STRIDE_PX
        for place in (site.array.frame.row_px, site.array.frame.col_px)
    )
    return Window(row, col, tile_px, tile_px)


@torch.no_grad()
def probability(
    model: Model, pixels: Tensor, inside: NDArray[np.bool_], class_id: int = 1
) -> NDArray[np.float64]:
    """Return the mean probability of a class inside (S, S), for tiles (B, 3, S, S)."""
    normalised = model.normalisation.on(torch.device("cpu"), torch.float32)
    inputs = normalised(pixels.float()).contiguous(memory_format=torch.channels_last)
    parts = [model.network(part).softmax(1)[:, class_id] for part in inputs.split(4)]
    mask = torch.from_numpy(inside)
    return np.asarray(torch.cat(parts)[:, mask].mean(1).double().numpy())


@dataclass(frozen=True, slots=True)
class Truth:
    """Probability of an object as drawn, and what is left of it after changes to the drawing."""

    p0: float
    other_cues: float
    no_object: float

    @property
    def word(self) -> str | None:
        """The true word of a detected object; None if its reason is not clear."""
        changes = (self.no_object / self.p0, self.other_cues / self.p0)
        if self.p0 < DETECTED or any(NEEDED <= share <= NOT_NEEDED for share in changes):
            return None
        needed = tuple(share < NEEDED for share in changes)
        return WORDS.get((needed[0], needed[1]), "either")


def find_truth(model: Model, subject: Subject) -> Truth:
    """Ask the network about the drawing as it is, and with the changes."""
    tiles = [subject.pixels, subject.with_other_cues(), subject.without_object()]
    return Truth(*probability(model, torch.stack(tiles), subject.inside))


def looks_alike(subject: Subject) -> bool:
    """Return True if a thing looks like a panel and is none, for want of its cue."""
    return subject.site.look == PANEL and not subject.site.is_panel
