"""Statistics of the heatmaps and probabilities at an object (docs/method.md#objects)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field

import numpy as np
import shapely
from numpy.typing import NDArray

from capecam.detections.neighbourhood import (
    BlockCounts,
    EdgeDistance,
    NeighbourhoodStrip,
    neighbourhood_strips,
)
from capecam.detections.signals import SIGNALS, ProbabilitySums, edge_strips, shape_measures
from capecam.io.cog import LEVELS
from capecam.io.gdal import gdal_settings
from capecam.io.heat_layer import HeatLayer
from capecam.io.layer_reader import LayerReader
from capecam.io.vrt import Layer

VERSION = 2
"""Version of the definitions below; cached numbers of another version are not used."""

MEASURES = ("in", "ring", "share", "peak", "peak_m")
"""Columns of a method: ``gradcam_in`` ..."""

NO_VALUE = -1.0
"""Below every value of a heatmap."""

Task = tuple[NDArray[np.object_], list[int], NDArray[np.float64]]
"""Objects: (N,) shapes in lattice pixels, class ids, and (N, 2) the size of a pixel in metres."""


@dataclass(slots=True)
class _Sums:
    """Sums and peaks of one heatmap over the strips of an object."""

    inside: float = 0.0
    inside_px: int = 0
    ring: float = 0.0
    ring_px: int = 0
    around: float = 0.0
    peak_inside: float = NO_VALUE
    peak_around: float = NO_VALUE
    peaks: list[tuple[NeighbourhoodStrip, NDArray[np.bool_], int]] = field(default_factory=list)
    """Location of ``peak_around``: strips, their blocks with that value, and the stride."""

    def add(
        self,
        strip: NeighbourhoodStrip,
        counts: BlockCounts,
        stride: int,
        values: NDArray[np.float64],
    ) -> None:
        """Add a strip with the (H, W) values of its blocks; NaN is nodata."""
        valid = ~np.isnan(values)
        heat = np.where(valid, values, 0.0)
        self.inside += float((heat * counts.inside).sum())
        self.inside_px += int(counts.inside[valid].sum())
        self.ring += float((heat * counts.ring).sum())
        self.ring_px += int(counts.ring[valid].sum())
        self.around += float((heat * counts.around).sum())
        inside, around = valid & (counts.inside > 0), valid & (counts.around > 0)
        self.peak_inside = max(self.peak_inside, float(values[inside].max(initial=NO_VALUE)))
        highest = float(values[around].max(initial=NO_VALUE))
        if highest > self.peak_around:
            self.peak_around, self.peaks = highest, []
        if highest == self.peak_around:
            self.peaks.append((strip, around & (values == highest), stride))

    def measures(self, distance: EdgeDistance) -> tuple[float, ...]:
        """Return the columns, in the order of ``MEASURES``; NaN where they are not defined."""
        energy = self.inside + self.around
        peak = max(self.peak_inside, self.peak_around)
        return (
            self.inside / self.inside_px if self.inside_px else np.nan,
            self.ring / self.ring_px if self.ring_px else np.nan,
            self.inside / energy if energy > 0 else np.nan,
            peak if peak > NO_VALUE else np.nan,
            self._peak_m(distance) if peak > 0 else np.nan,
        )

    def _peak_m(self, distance: EdgeDistance) -> float:
        if self.peak_inside >= self.peak_around:
            return 0.0
        pixels = [strip.pixels_around(blocks, stride) for strip, blocks, stride in self.peaks]
        return distance.minimum_m(np.concatenate(pixels))


@dataclass(frozen=True, slots=True)
class EvidenceRasters:
    """Rasters that the evidence of detections is read from."""

    heatmaps: tuple[HeatLayer, ...]
    probability: Layer
    classes: tuple[str, ...]
    """Names of the probability's bands: the foreground classes."""

    @property
    def columns(self) -> list[str]:
        """Names of all numbers of an object."""
        names = [f"{heatmap.method}_{measure}" for heatmap in self.heatmaps for measure in MEASURES]
        return [*names, "rival_id", "rival_in", *SIGNALS]


class HeatmapSampler:
    """Computes the numbers of objects from the rasters; for one thread."""

    def __init__(self, rasters: EvidenceRasters, files: ExitStack) -> None:
        def open_layer(layer: Layer) -> LayerReader:
            return files.enter_context(closing(LayerReader(layer)))

        self._rasters = rasters
        self._readers = [open_layer(h.layer) if h.layer else None for h in rasters.heatmaps]
        self._probability = open_layer(rasters.probability)

    def __call__(self, task: Task) -> NDArray[np.float64]:
        """Return (N, columns) of N objects, in the order of :attr:`EvidenceRasters.columns`."""
        rows = [
            self._row(geometry, class_id, (float(size[0]), float(size[1])))
            for geometry, class_id, size in zip(*task, strict=True)
        ]
        return np.array(rows, np.float64)

    def _row(
        self, geometry: shapely.Geometry, class_id: int, pixel: tuple[float, float]
    ) -> tuple[float, ...]:
        heatmaps = self._rasters.heatmaps
        sums = [_Sums() for _ in heatmaps]
        distance = EdgeDistance(pixel)
        for strip in neighbourhood_strips(geometry, pixel):
            distance.add(strip)
            counts = {stride: strip.blocks(stride) for stride in {h.stride for h in heatmaps}}
            for heatmap, reader, total in zip(heatmaps, self._readers, sums, strict=True):
                if reader is not None:
                    blocks = counts[heatmap.stride]
                    stored = reader.read(class_id, blocks.window)
                    total.add(strip, blocks, heatmap.stride, heatmap.scaled(stored, class_id))
        measures = [value for total in sums for value in total.measures(distance)]
        probabilities = self._probabilities(geometry, class_id)
        levels = probabilities.levels.copy()
        levels[class_id] = 0
        rival = int(np.argmax(levels))
        return (
            *measures,
            rival,
            levels[rival] / shapely.area(geometry) / LEVELS,
            *probabilities.measures(),
            *shape_measures(geometry, pixel),
        )

    def _probabilities(self, geometry: shapely.Geometry, class_id: int) -> ProbabilitySums:
        sums = ProbabilitySums(class_id, len(self._rasters.classes) + 1)
        for strip in edge_strips(geometry):
            sums.add(strip, self._probability.read_bands(strip.window))
        return sums


@contextmanager
def heatmap_sampler(rasters: EvidenceRasters) -> Iterator[HeatmapSampler]:
    """Open the rasters; the context of a thread or process."""
    with gdal_settings(), ExitStack() as files:
        yield HeatmapSampler(rasters, files)
