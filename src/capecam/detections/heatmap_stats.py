"""What the rasters say at an object, in numbers (DESIGN section 6)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from capecam.detections.neighbourhood import (
    Blocks,
    Nearest,
    NeighbourhoodStrip,
    neighbourhood_strips,
)
from capecam.io.cog import LEVELS
from capecam.io.gdal import gdal_settings
from capecam.io.heat_layer import HeatLayer
from capecam.io.layer_reader import LayerReader
from capecam.io.vrt import Layer

VERSION = 1
"""Of what is measured, and how: numbers of another version are not taken over."""

MEASURES = ("in", "ring", "share", "peak", "peak_m")
"""Columns of a method: ``gradcam_in`` ..."""


NOTHING = -1.0
"""Below every value of a heatmap."""

Task = tuple[NDArray[np.object_], list[int], NDArray[np.float64]]
"""Objects: (N,) shapes in lattice pixels, class ids, and (N, 2) the size of a pixel in metres."""


@dataclass(slots=True)
class _Sums:
    """What adds up over the strips of an object, for one method."""

    inside: float = 0.0
    inside_px: int = 0
    ring: float = 0.0
    ring_px: int = 0
    around: float = 0.0
    peak_inside: float = NOTHING
    peak_around: float = NOTHING
    peaks: list[tuple[NeighbourhoodStrip, NDArray[np.bool_], int]] = field(default_factory=list)
    """Where the surroundings have it: a strip, its blocks with that value, and the stride."""

    def add(
        self, sight: NeighbourhoodStrip, blocks: Blocks, stride: int, values: NDArray[np.float64]
    ) -> None:
        """A strip, as blocks, and the (H, W) values of these; NaN where there is nothing."""
        valid = ~np.isnan(values)
        found = np.where(valid, values, 0.0)
        self.inside += float((found * blocks.inside).sum())
        self.inside_px += int(blocks.inside[valid].sum())
        self.ring += float((found * blocks.ring).sum())
        self.ring_px += int(blocks.ring[valid].sum())
        self.around += float((found * blocks.around).sum())
        own, near = valid & (blocks.inside > 0), valid & (blocks.around > 0)
        self.peak_inside = max(self.peak_inside, float(values[own].max(initial=NOTHING)))
        highest = float(values[near].max(initial=NOTHING))
        if highest > self.peak_around:
            self.peak_around, self.peaks = highest, []
        if highest == self.peak_around:
            self.peaks.append((sight, near & (values == highest), stride))

    def measures(self, nearest: Nearest) -> tuple[float, ...]:
        """In the order of ``MEASURES``; NaN where there is nothing to say."""
        energy = self.inside + self.around
        peak = max(self.peak_inside, self.peak_around)
        return (
            self.inside / self.inside_px if self.inside_px else np.nan,
            self.ring / self.ring_px if self.ring_px else np.nan,
            self.inside / energy if energy > 0 else np.nan,
            peak if peak > NOTHING else np.nan,
            self._away_m(nearest) if peak > 0 else np.nan,
        )

    def _away_m(self, nearest: Nearest) -> float:
        if self.peak_inside >= self.peak_around:
            return 0.0
        at = [sight.pixels_around(blocks, stride) for sight, blocks, stride in self.peaks]
        return nearest.distance_m(np.concatenate(at))


@dataclass(frozen=True, slots=True)
class EvidenceRasters:
    """What is asked about objects."""

    heats: tuple[HeatLayer, ...]
    probability: Layer
    classes: tuple[str, ...]
    """Names of the probability's bands: classes without the background."""

    @property
    def columns(self) -> list[str]:
        """Names of all numbers of an object."""
        names = [f"{heat.method}_{measure}" for heat in self.heats for measure in MEASURES]
        return [*names, "rival_id", "rival_in"]


class HeatmapSampler:
    """Reads what the rasters say about objects; for one thread."""

    def __init__(self, rasters: EvidenceRasters) -> None:
        self._heats, self._classes = rasters.heats, len(rasters.classes)
        self._files = ExitStack()
        self._readers = [self._reader(h.layer) if h.layer else None for h in rasters.heats]
        self._probability = self._reader(rasters.probability)

    def _reader(self, layer: Layer) -> LayerReader:
        return self._files.enter_context(closing(LayerReader(layer)))

    def close(self) -> None:
        """Close all files."""
        self._files.close()

    def __call__(self, task: Task) -> NDArray[np.float64]:
        """(N, columns) of N objects, in the order of :attr:`EvidenceRasters.columns`."""
        rows = [
            self._row(geometry, class_id, (float(size[0]), float(size[1])))
            for geometry, class_id, size in zip(*task, strict=True)
        ]
        return np.array(rows, np.float64)

    def _row(self, geometry: Any, class_id: int, pixel: tuple[float, float]) -> tuple[float, ...]:
        sums = [_Sums() for _ in self._heats]
        levels = np.zeros(self._classes + 1, np.int64)
        nearest = Nearest(pixel)
        for sight in neighbourhood_strips(geometry, pixel):
            nearest.add(sight)
            blocks = {n: sight.blocks(n) for n in {heat.stride for heat in self._heats}}
            for heat, reader, so_far in zip(self._heats, self._readers, sums, strict=True):
                if reader is None:
                    continue
                part = blocks[heat.stride]
                values = heat.scaled(reader.read(class_id, part.window), class_id)
                so_far.add(sight, part, heat.stride, values)
            self._add_levels(levels, sight)
        measures = [value for so_far in sums for value in so_far.measures(nearest)]
        levels[class_id] = 0
        rival = int(np.argmax(levels))
        return (*measures, rival, levels[rival] / shapely.area(geometry) / LEVELS)

    def _add_levels(self, levels: NDArray[np.int64], sight: NeighbourhoodStrip) -> None:
        """The probabilities inside, by class id, as sums of stored levels."""
        if sight.own is not None:
            inside = sight.inside[sight.own.slices(sight.window)]
            for band in range(1, self._classes + 1):
                found = self._probability.read(band, sight.own)[inside]
                levels[band] += found.sum(dtype=np.int64)


@contextmanager
def heatmap_sampler(rasters: EvidenceRasters) -> Iterator[HeatmapSampler]:
    """A :class:`HeatmapSampler` in a process of its own."""
    with gdal_settings(), closing(HeatmapSampler(rasters)) as found:
        yield found
