"""The objects of a city, from the pieces of its cells: joined, sieved, measured, written.

``pieces -> objects -> outlines -> sieve -> evidence -> queue -> files``. Cells come from top to
bottom, and an object is finished as soon as nothing that is still to come can touch it: memory
holds the pieces of two rows of cells, and the table of all objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from capecam.detections.evidence import Evidence
from capecam.detections.filters import REASONS, DetectionFilter
from capecam.detections.measurement import COLUMNS, measure, middle_pixel_m, read_pieces
from capecam.detections.regions import Pieces, first_pixels, join
from capecam.detections.simplification import simplified
from capecam.grid import Grid
from capecam.io.vector_writer import write_geoparquet
from capecam.mosaic.aoi import read_shapes
from capecam.runtime.files import atomic_write
from capecam.settings import ClassSettings
from capecam.store.file_names import DETECTIONS, PIECES, REJECTED, SUMMARY
from capecam.store.run_folder import RunFolder

BATCH = 64
"""Cells that are joined at once: about a row of a city's."""


@dataclass(frozen=True, slots=True)
class CellPieces:
    """The pieces of a cell, on disk."""

    row: int
    """The cell's first: no piece begins above it."""
    path: Path


@dataclass(frozen=True, slots=True)
class AssemblyRules:
    """How pieces become detections."""

    grid: Grid
    """Of the lattice."""
    classes: tuple[ClassSettings, ...]
    """0 first."""
    join_distance_px: float
    tolerance_px: float
    """Of outlines; 0 leaves them as they are."""
    sieve: DetectionFilter
    keep_rejected: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of all classes, 0 first."""
        return tuple(entry.name for entry in self.classes)


@dataclass(slots=True)
class StepCounts:
    """What each step left or removed: step -> objects by class id."""

    steps: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    @classmethod
    def of(cls, names: Sequence[str]) -> StepCounts:
        """Nothing counted yet."""
        steps = ("traced", "joined", *REASONS, "kept")
        return cls({step: np.zeros(len(names), np.int64) for step in steps})

    def add(self, objects: Pieces, reasons: NDArray[np.object_]) -> None:
        """Count objects; a piece is traced as many times as it has parts."""
        self._count(
            "traced", np.repeat(objects.class_id, shapely.get_num_geometries(objects.geometry))
        )
        self._count("joined", objects.class_id)
        for reason in REASONS:
            self._count(reason, objects.class_id[reasons == reason])
        self._count("kept", objects.class_id[reasons == ""])

    def _count(self, step: str, class_ids: NDArray[np.int64]) -> None:
        self.steps[step] += np.bincount(class_ids, minlength=len(self.steps[step]))

    def to_json(self, names: Sequence[str]) -> dict[str, dict[str, int]]:
        """As kept in run.json."""
        return {
            step: {name: int(count) for name, count in list(zip(names, counts, strict=True))[1:]}
            for step, counts in self.steps.items()
        }


@dataclass(frozen=True, slots=True)
class WrittenDetections:
    """What became of a city's pieces."""

    summary: pd.DataFrame
    """A row a foreground class, those without a detection included."""
    tally: StepCounts


def write_detections(
    out: Path, parts: Iterable[CellPieces], recipe: AssemblyRules, evidence: Evidence | None = None
) -> WrittenDetections:
    """``DETECTIONS``, the rejected objects where they are kept, and ``SUMMARY``.

    Args:
        out: the folder to write to.
        parts: of all cells.
        recipe: how pieces become objects.
        evidence: asked about each; None leaves these columns out.
    """
    tables, rejected, doubts, tally = [], [], [], StepCounts.of(recipe.names)
    for objects, table in _objects(parts, recipe, tally):
        kept = (table["reason"] == "").to_numpy()
        if recipe.keep_rejected:
            rejected.append(table.loc[~kept, [*COLUMNS, "reason", "geometry"]])
        rows, doubt = _with_evidence(objects.take(kept), table[kept], evidence)
        tables.append(rows)
        doubts.append(doubt)
    detections = pd.concat(tables, ignore_index=True)
    review = None if evidence is None else ranks(np.concatenate(doubts))
    with atomic_write(out / DETECTIONS) as parquet, atomic_write(out / SUMMARY) as csv:
        write_geoparquet(parquet, detections, review)
        summary = _summary(detections, recipe.names)
        summary.to_csv(csv, index=False, lineterminator="\n")
    if recipe.keep_rejected:
        with atomic_write(out / f"{REJECTED}.parquet") as parquet:
            write_geoparquet(parquet, pd.concat(rejected, ignore_index=True))
    else:
        (out / f"{REJECTED}.parquet").unlink(missing_ok=True)
    return WrittenDetections(summary, tally)


def _objects(
    parts: Iterable[CellPieces], recipe: AssemblyRules, tally: StepCounts
) -> Iterator[tuple[Pieces, gpd.GeoDataFrame]]:
    """Objects from top to bottom, measured, with the ``reason`` of those that are dropped."""
    objects = join_across_cells(_batches(parts, recipe.grid), recipe.join_distance_px)
    for some, outlines in simplified(objects, recipe.tolerance_px):
        table = measure(some, recipe.grid, recipe.names, outlines)
        reasons = recipe.sieve.reasons(some, table)
        tally.add(some, reasons)
        yield some, table.assign(reason=pd.Series(reasons, dtype="str"))


def _with_evidence(
    objects: Pieces, table: gpd.GeoDataFrame, evidence: Evidence | None
) -> tuple[gpd.GeoDataFrame, NDArray[np.float64]]:
    """The columns of the file but ``review``, and how much each object wants to be looked at."""
    if evidence is None:
        return table[[*COLUMNS, "geometry"]], np.zeros(len(table))
    added = evidence.columns(objects, table).set_index(table.index)
    doubt = added.pop("doubt").to_numpy()
    return gpd.GeoDataFrame(table[[*COLUMNS]].join(added), geometry=table.geometry), doubt


def objects_by_step(
    parts: Iterable[CellPieces], recipe: AssemblyRules
) -> dict[str, gpd.GeoDataFrame]:
    """All objects after each step: traced, joined, and what each rule leaves that there is.

    For scoring; in memory, unlike :func:`write_detections`.
    """
    tables = [table for _, table in _objects(parts, recipe, StepCounts.of(recipe.names))]
    left = gpd.GeoDataFrame(pd.concat(tables, ignore_index=True), crs=tables[0].crs)
    after = {"tracing": left.explode(ignore_index=True), "joining": left}
    rules = {
        "dropping small ones": ("small", True),
        "dropping unsure ones": ("unsure", any(recipe.sieve.min_confidence)),
        "dropping those off buildings": ("off building", recipe.sieve.buildings is not None),
    }
    for step, (reason, exists) in rules.items():
        left = left[left["reason"] != reason]
        if exists:
            after[step] = left
    return after


def ranks(doubt: NDArray[np.float64]) -> NDArray[np.int64]:
    """The place of each object in the review queue, from 1; the most doubtful first."""
    place = np.empty(len(doubt), np.int64)
    place[np.argsort(-doubt, kind="stable")] = np.arange(1, len(doubt) + 1)
    return place


def _batches(parts: Iterable[CellPieces], grid: Grid) -> Iterator[tuple[Pieces, float]]:
    """The pieces of some cells, and the row above which none of the rest begins."""
    ordered = sorted(parts, key=lambda part: (part.row, part.path))
    for start in range(0, len(ordered), BATCH):
        here, rest = ordered[start : start + BATCH], ordered[start + BATCH :]
        pieces = Pieces.concatenate([read_pieces(part.path, grid) for part in here])
        yield pieces, rest[0].row if rest else inf


def join_across_cells(
    batches: Iterable[tuple[Pieces, float]], distance_px: float
) -> Iterator[Pieces]:
    """What :func:`capecam.detections.regions.join` makes of all batches at once, in the same order.

    Args:
        batches: pieces, with the row above which no piece of a later batch begins.
        distance_px: up to which pieces of one class belong together.
    """
    held = Pieces.concatenate([])
    for pieces, below in batches:
        held = join(Pieces.concatenate([held, pieces]), distance_px)
        _, top = first_pixels(held.geometry)
        bottom = shapely.bounds(held.geometry)[:, 3]
        whole = bottom + distance_px < below
        ready = whole & (top < np.min(top[~whole].astype(float), initial=below))
        yield held.take(ready)
        held = held.take(~ready)


def _summary(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    by_class = table.groupby("class_id")["area_m2"].agg(["count", "sum"])
    by_class = by_class.reindex(range(1, len(names)), fill_value=0)
    return pd.DataFrame(
        {
            "class_id": by_class.index,
            "class": list(names[1:]),
            "count": by_class["count"].to_numpy(int),
            "area_m2": by_class["sum"].to_numpy(float).round(2),
        }
    )


def cell_pieces(run: RunFolder) -> list[CellPieces]:
    """The pieces of all cells."""
    return [CellPieces(run.core(name).row, run.path(name, PIECES)) for name in run.cells]


def assembly_rules(run: RunFolder) -> AssemblyRules:
    """How a run makes detections of pieces.

    Raises:
        UsageError: the footprints cannot be read.
    """
    grid, settings, footprints = run.grid, run.settings.detections, run.settings.mosaic.footprints
    buildings = None if footprints is None else read_shapes(footprints, grid)
    return AssemblyRules(
        grid,
        run.settings.model.classes,
        settings.join_distance_px,
        settings.simplify_m / float(np.sqrt(middle_pixel_m(grid).prod())),
        DetectionFilter.of(settings, run.names, buildings),
        settings.keep_rejected,
    )
