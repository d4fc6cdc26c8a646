"""What the heatmaps say at each object: numbers, a word, a place in the queue (DESIGN section 6).

Everything is read from the stored rasters, after objects are joined, so that the numbers do not
depend on how the work was cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from capecam.children import Children
from capecam.grid import Grid
from capecam.measuring import middle_pixel_m, pixel_m
from capecam.raster import Layer, LayerReader, gdal_settings
from capecam.recall import Recall
from capecam.settings import EvidenceSettings
from capecam.surroundings import REACH_M, RING_M, Blocks, Nearest, Sight, sights
from capecam.vectors import Pieces, first_pixels

VERSION = 1
"""Of what is measured, and how: numbers of another version are not taken over."""

MEASURES = ("in", "ring", "share", "peak", "peak_m")
"""Columns of a method: ``gradcam_in`` ..."""

WORDS = ("focused", "saturated", "context", "weak")

LEVELS = 254
"""The top of rasters in bytes; 255 is nodata."""


Task = tuple[NDArray[np.object_], list[int], NDArray[np.float64]]
"""Objects: (N,) shapes in lattice pixels, class ids, and (N, 2) the size of a pixel in metres."""

CHUNK = 64
"""Objects that go to a process at once: some 0.5 s."""

WORTH_IT = 8
"""Chunks from which processes are started, which takes a second."""

NEAR_PX = 2048


@dataclass(frozen=True, slots=True)
class Heat:
    """The rasters of one method, and how their values are read."""

    method: str
    layer: Layer
    stride: int
    """Pixels along the edge of a block; 1 for a method at full resolution."""
    tops: tuple[float | None, ...] | None
    """For raw values, the top of the scale by foreground class; None for stored levels."""

    def scaled(self, values: NDArray[Any], class_id: int) -> NDArray[np.float64]:
        """Stored values as 0..1 of the city's scale, NaN where there is nothing."""
        if self.tops is None:
            return np.asarray(SCALE[values], np.float64)
        top = self.tops[class_id - 1]
        levels = np.zeros(values.shape) if top is None else np.minimum(values / top, 1)
        return np.asarray(np.where(np.isnan(values), np.nan, levels), np.float64)


SCALE: NDArray[np.float64] = np.append(np.arange(LEVELS + 1) / LEVELS, np.nan)
"""What a stored byte means."""

NOTHING = -1.0
"""Below every value of a heatmap."""


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
    peaks: list[tuple[Sight, NDArray[np.bool_], int]] = field(default_factory=list)
    """Where the surroundings have it: a strip, its blocks with that value, and the stride."""

    def add(self, sight: Sight, blocks: Blocks, stride: int, values: NDArray[np.float64]) -> None:
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
class Rasters:
    """What is asked about objects."""

    heats: tuple[Heat, ...]
    probability: Layer
    classes: tuple[str, ...]
    """Names of the probability's bands: classes without the background."""

    @property
    def columns(self) -> list[str]:
        """Names of all numbers of an object."""
        names = [f"{heat.method}_{measure}" for heat in self.heats for measure in MEASURES]
        return [*names, "rival_id", "rival_in"]


class Witness:
    """Reads what the rasters say about objects; for one thread."""

    def __init__(self, rasters: Rasters) -> None:
        self._heats, self._classes = rasters.heats, len(rasters.classes)
        self._files = ExitStack()
        self._readers = [self._reader(heat.layer) for heat in rasters.heats]
        self._probability = self._reader(rasters.probability)

    def _reader(self, layer: Layer) -> LayerReader:
        return self._files.enter_context(closing(LayerReader(layer)))

    def close(self) -> None:
        """Close all files."""
        self._files.close()

    def __call__(self, task: Task) -> NDArray[np.float64]:
        """(N, columns) of N objects, in the order of :attr:`Rasters.columns`."""
        rows = [
            self._row(geometry, class_id, (float(size[0]), float(size[1])))
            for geometry, class_id, size in zip(*task, strict=True)
        ]
        return np.array(rows, np.float64)

    def _row(self, geometry: Any, class_id: int, pixel: tuple[float, float]) -> tuple[float, ...]:
        sums = [_Sums() for _ in self._heats]
        levels = np.zeros(self._classes + 1, np.int64)
        for sight in sights(geometry, pixel):
            blocks = {n: sight.blocks(n) for n in {heat.stride for heat in self._heats}}
            for heat, reader, so_far in zip(self._heats, self._readers, sums, strict=True):
                part = blocks[heat.stride]
                values = heat.scaled(reader.read(class_id, part.window), class_id)
                so_far.add(sight, part, heat.stride, values)
            self._add_levels(levels, sight)
        nearest = Nearest(geometry, pixel)
        measures = [value for so_far in sums for value in so_far.measures(nearest)]
        levels[class_id] = 0
        rival = int(np.argmax(levels))
        return (*measures, rival, levels[rival] / shapely.area(geometry) / LEVELS)

    def _add_levels(self, levels: NDArray[np.int64], sight: Sight) -> None:
        """The probabilities inside, by class id, as sums of stored levels."""
        if sight.own is not None:
            inside = sight.inside[sight.own.slices(sight.window)]
            for band in range(1, self._classes + 1):
                found = self._probability.read(band, sight.own)[inside]
                levels[band] += found.sum(dtype=np.int64)


ADDED = ("rival", "rival_in", "evidence")
"""Columns behind the methods' measures: see docs/outputs.md."""


@contextmanager
def witness(rasters: Rasters) -> Iterator[Witness]:
    """A :class:`Witness` in a process of its own."""
    with gdal_settings(), closing(Witness(rasters)) as found:
        yield found


class Evidence:
    """Asks about many objects, in as many processes as there are cores."""

    def __init__(
        self, rasters: Rasters, grid: Grid, rules: EvidenceSettings, processes: int, memory: Path
    ) -> None:
        """With 0 processes everything happens in this one.

        Args:
            rasters: what is asked.
            grid: of the lattice.
            rules: what makes words of numbers.
            processes: how many work.
            memory: file with the numbers of the last time; may be missing.
        """
        self._rasters, self._grid, self._rules, self._processes = rasters, grid, rules, processes
        self._files = ExitStack()
        self._children: Children | None = None
        self._recall = _recall(rasters, grid, memory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._files.close()
        if kind is None:
            self._recall.save()

    def columns(self, objects: Pieces, table: pd.DataFrame) -> pd.DataFrame:
        """What is added to a table of N objects, and ``doubt`` (:func:`doubt`), N rows.

        Args:
            objects: in lattice pixels.
            table: their ``confidence``.
        """
        found = pd.DataFrame(self._numbers(objects), columns=self._rasters.columns)
        found["confidence"] = table["confidence"].to_numpy()
        method = self._rules.method or self._rasters.heats[0].method
        names = np.array([None, *self._rasters.classes], object)
        found["rival"] = pd.Series(names[found.pop("rival_id").to_numpy(int)], dtype="str")
        found["evidence"] = pd.Series(judged(found, method, self._rules), dtype="str")
        found["doubt"] = doubt(found, method)
        return found[[*self._rasters.columns[:-2], *ADDED, "doubt"]]

    def _numbers(self, objects: Pieces) -> NDArray[np.float64]:
        """(N, columns); those that are known from the last time are not asked for."""
        keys = self._recall.keys(objects)
        known, numbers = self._recall.known(keys)
        numbers[~known] = self._measured(objects.take(~known))
        self._recall.keep(keys, numbers)
        return numbers

    def _measured(self, objects: Pieces) -> NDArray[np.float64]:
        pixel = pixel_m(self._grid, shapely.get_coordinates(shapely.centroid(objects.geometry)))
        numbers = np.empty((len(objects), len(self._rasters.columns)))
        col, row = first_pixels(objects.geometry)
        # Neighbours one after the other read the same blocks of the same files.
        order = np.lexsort((row, col // NEAR_PX, row // NEAR_PX))
        chunks = [order[start : start + CHUNK] for start in range(0, len(order), CHUNK)]
        tasks = [(objects.geometry[c], objects.class_id[c].tolist(), pixel[c]) for c in chunks]
        for chunk, answer in zip(chunks, self._answers(tasks), strict=True):
            numbers[chunk] = answer
        return numbers

    def _answers(self, tasks: Sequence[Task]) -> Iterable[NDArray[np.float64]]:
        if self._processes and self._children is None and len(tasks) >= WORTH_IT:
            children = Children(witness, self._rasters, self._processes)
            self._children = self._files.enter_context(children)
        if self._children is not None:
            return self._children.map(tasks)
        with closing(Witness(self._rasters)) as here:
            return [here(task) for task in tasks]


def _recall(rasters: Rasters, grid: Grid, memory: Path) -> Recall:
    """What is known from the last time, and what it depends on."""
    tiles, tops = list(rasters.probability.tiles), []
    for heat in rasters.heats:
        tops.append(f"{heat.method} {heat.stride} {heat.tops}")
        tiles += [replace(t, window=t.window.scaled(heat.stride)) for t in heat.layer.tiles]
    size_m = float(middle_pixel_m(grid).min())
    # In degrees a pixel is not everywhere as large as in the middle.
    reach_px = 1.5 * REACH_M / size_m + max(heat.stride for heat in rasters.heats)
    recipe = f"{VERSION} {RING_M} {REACH_M} {grid.crs} {grid.anchor} {grid.pixel} {tops}"
    return Recall(memory, recipe, tiles, reach_px, len(rasters.columns))


def judged(table: pd.DataFrame, method: str, rules: EvidenceSettings) -> NDArray[np.object_]:
    """One word an object, of ``WORDS`` (docs/method.md).

    Args:
        table: with ``confidence`` and the measures of ``method``.
        method: the heatmap that decides.
        rules: the thresholds.
    """
    inside = table[f"{method}_in"].to_numpy(float)
    ring = table[f"{method}_ring"].to_numpy(float)
    around = _around(table, method)
    with np.errstate(invalid="ignore"):  # NaN: nothing was explained there, and nothing holds
        focused = (inside >= rules.high) & ~(ring >= rules.outweighs * inside)
        context = (around >= rules.high) & (around >= rules.outweighs * inside)
        certain = (table["confidence"].to_numpy(float) >= rules.certain) & ~np.isnan(inside)
    words = np.select([focused, context, certain], ["focused", "context", "saturated"], "weak")
    return words.astype(object)


def _around(table: pd.DataFrame, method: str) -> NDArray[np.float64]:
    """How strong the surroundings are: the ring's mean, or half of a peak outside the object.

    Half, since a peak is compared with the mean of the inside.
    """
    ring, peak, away = (table[f"{method}_{m}"].to_numpy(float) for m in ("ring", "peak", "peak_m"))
    found: NDArray[np.float64] = np.fmax(ring, np.where(away > 0, peak / 2, np.nan))
    return found


def doubt(table: pd.DataFrame, method: str) -> NDArray[np.float64]:
    """How much an object wants to be looked at, 0..1: it is sure of itself for reasons that lie
    elsewhere, or split between classes.

    The larger of: confidence times the share by which the surroundings outweigh the inside, where
    the word is ``context``; and the rival's probability relative to that of the object's class.
    """
    confidence = table["confidence"].to_numpy(float)
    inside, around = table[f"{method}_in"].to_numpy(float), _around(table, method)
    with np.errstate(invalid="ignore", divide="ignore"):
        elsewhere = np.where(table["evidence"] == "context", 1 - inside / around, 0.0)
        split = np.minimum(table["rival_in"].to_numpy(float) / confidence, 1.0)
    found: NDArray[np.float64] = np.fmax(np.fmax(confidence * elsewhere, split), 0.0)
    return found
