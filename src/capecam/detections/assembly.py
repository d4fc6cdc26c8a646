"""Detections of a city from the pieces of its cells: joined, filtered, measured, written.

``pieces -> objects -> outlines -> filter -> evidence -> explanations -> review queue -> files``.
Cells come from top to bottom, and an object is finished as soon as no later piece can touch it:
memory holds the pieces of two rows of cells, and the table of all detections.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from capecam.detections.column_descriptions import field_metadata
from capecam.detections.confidence_calibration import P_RIGHT, ConfidenceCalibration
from capecam.detections.evidence import Evidence
from capecam.detections.filters import REASONS, rejection_reasons
from capecam.detections.measurement import COLUMNS, middle_pixel_m, read_pieces, to_table
from capecam.detections.object_columns import OBJECT_COLUMNS, evidence_words
from capecam.detections.regions import Pieces, first_pixels, join
from capecam.detections.simplification import simplify_outlines
from capecam.grid import Grid
from capecam.io.parquet_texts import NO_TEXTS
from capecam.io.vector_writer import write_geoparquet
from capecam.mosaic.aoi import read_shapes
from capecam.runtime.files import atomic_write
from capecam.settings import ClassSettings, DetectionSettings
from capecam.store.file_names import DETECTIONS, PIECES, REJECTED, SUMMARY
from capecam.store.run_folder import RunFolder

EXPECTED = "expected_count"
"""Column of the summary: the sum of ``p_right``, the number of right detections to be expected."""

BATCH = 64
"""Cells that are joined at once: about a row of a city's."""


@dataclass(frozen=True, slots=True)
class CellPieces:
    """File with the pieces of a cell."""

    row: int
    """First row of the cell in lattice pixels; no piece begins above it."""
    path: Path


@dataclass(frozen=True, slots=True)
class AssemblyRules:
    """Rules to make detections of pieces."""

    grid: Grid
    """The pixel grid of the mosaic."""
    classes: tuple[ClassSettings, ...]
    """All classes, 0 first."""
    settings: DetectionSettings
    buildings: shapely.STRtree | None = None
    """Footprints in lattice pixels; None for no rule about buildings."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all classes, 0 first."""
        return tuple(entry.name for entry in self.classes)


@dataclass(frozen=True, slots=True)
class Detections:
    """All detections of a city."""

    objects: Pieces
    """(N,) in lattice pixels, exact."""
    table: gpd.GeoDataFrame
    """N rows: ``COLUMNS``, evidence from the heatmaps, and geometry."""
    rejected: gpd.GeoDataFrame | None
    """Objects that a filter removed, with the reason; None if they are not kept."""
    steps: dict[str, dict[str, int]]
    """Step -> class -> objects after tracing and joining, rejected for each reason, and kept."""


def assemble(
    cells: Iterable[CellPieces], rules: AssemblyRules, evidence: Evidence | None = None
) -> Detections:
    """Make detections of the pieces of all cells.

    Args:
        cells: the pieces.
        rules: how to make detections of pieces.
        evidence: reads the heatmaps at each; None leaves these columns out.
    """
    kept_objects, tables, rejected, counted = [], [], [], []
    for objects, table in _objects(cells, rules):
        counted.append(pd.DataFrame(table[["class", "reason", "parts"]]))
        kept = (table["reason"] == "").to_numpy()
        if rules.settings.keep_rejected:
            rejected.append(table.loc[~kept, [*COLUMNS, "reason", "geometry"]])
        rows = pd.DataFrame(table.loc[kept, [*COLUMNS]])
        kept_objects.append(objects.take(kept))
        if evidence is not None:
            rows = rows.join(evidence.columns(kept_objects[-1], rows))
        tables.append(gpd.GeoDataFrame(rows, geometry=table.geometry[kept]))
    return Detections(
        Pieces.concatenate(kept_objects),
        pd.concat(tables, ignore_index=True),
        pd.concat(rejected, ignore_index=True) if rejected else None,
        _count_steps(pd.concat(counted), rules.names),
    )


def write_detections(
    out: Path,
    found: Detections,
    rules: AssemblyRules,
    explained: pd.DataFrame | None = None,
    calibration: ConfidenceCalibration | None = None,
    *,
    texts: Mapping[str, str] = NO_TEXTS,
) -> pd.DataFrame:
    """Write ``DETECTIONS``, ``SUMMARY`` and, if they are kept, the rejected objects.

    Args:
        out: the folder to write to.
        found: N detections.
        rules: by which they were made.
        explained: N rows of ``OBJECT_COLUMNS``, NaN for those without an explanation; None leaves
            these columns and the review queue out.
        calibration: gives each the probability of being right; None leaves this column out.
        texts: statements about the origin of the tables, for their metadata.

    Returns:
        A row for each foreground class, also without detections.
    """
    table, review = found.table, None
    if explained is not None:
        geometry = table.geometry
        table = table.drop(columns="geometry").join(explained[[*OBJECT_COLUMNS]])
        table["evidence"] = pd.Series(evidence_words(explained), table.index, "str")
        if calibration is not None:
            table[P_RIGHT] = calibration.p_right(table)
        table = gpd.GeoDataFrame(table, geometry=geometry)
        review = review_ranks(table)
    summary = _summary(table, rules.names)
    with atomic_write(out / DETECTIONS) as parquet, atomic_write(out / SUMMARY) as csv:
        fields = field_metadata([*table.columns, "review"])
        write_geoparquet(parquet, table, review, texts=texts, by_place=True, fields=fields)
        summary.to_csv(csv, index=False, lineterminator="\n")
    if found.rejected is None:
        (out / f"{REJECTED}.parquet").unlink(missing_ok=True)
    else:
        with atomic_write(out / f"{REJECTED}.parquet") as parquet:
            fields = field_metadata(found.rejected.columns)
            write_geoparquet(parquet, found.rejected, texts=texts, by_place=True, fields=fields)
    return summary


def review_ranks(table: pd.DataFrame) -> NDArray[np.int64]:
    """Return the rank of each detection in the review queue, from 1: the least likely right first.

    Ascending by ``p_right`` where it is calibrated, else by confidence; among equal ones the
    smaller comes first.
    """
    ranks = np.empty(len(table), np.int64)
    likely = table[P_RIGHT if P_RIGHT in table else "confidence"]
    ranks[np.lexsort((table["area_m2"], likely))] = np.arange(1, len(table) + 1)
    return ranks


def _objects(
    cells: Iterable[CellPieces], rules: AssemblyRules
) -> Iterator[tuple[Pieces, gpd.GeoDataFrame]]:
    """Yield objects from top to bottom with their table.

    The table also has ``reason``, "" for objects that are kept, and ``parts``, how many regions
    an object was joined from.
    """
    settings = rules.settings
    joined = join_across_cells(_batches(cells, rules.grid), settings.join_distance_px)
    tolerance_px = settings.simplify_m / float(np.sqrt(middle_pixel_m(rules.grid).prod()))
    for objects, outlines in simplify_outlines(joined, tolerance_px):
        table = to_table(objects, rules.grid, rules.names, outlines)
        reasons = rejection_reasons(objects, table, settings, rules.names, rules.buildings)
        table["reason"] = pd.Series(reasons, dtype="str")
        table["parts"] = shapely.get_num_geometries(objects.geometry)
        yield objects, table


def objects_by_step(
    cells: Iterable[CellPieces], rules: AssemblyRules
) -> dict[str, gpd.GeoDataFrame]:
    """Return all objects after each step: tracing, joining, and each rule that is in use."""
    tables = [table for _, table in _objects(cells, rules)]
    rest = gpd.GeoDataFrame(pd.concat(tables, ignore_index=True), crs=tables[0].crs)
    steps = {"tracing": rest.explode(ignore_index=True), "joining": rest}
    in_use = {
        "dropping small ones": ("small", True),
        "dropping unsure ones": (
            "unsure",
            any(rules.settings.by_class("min_confidence", rules.names)),
        ),
        "dropping those off buildings": ("off building", rules.buildings is not None),
    }
    for step, (reason, is_in_use) in in_use.items():
        rest = rest[rest["reason"] != reason]
        if is_in_use:
            steps[step] = rest
    return steps


def _batches(cells: Iterable[CellPieces], grid: Grid) -> Iterator[tuple[Pieces, float]]:
    """Yield the pieces of some cells, and the row above which no later piece begins."""
    ordered = sorted(cells, key=lambda cell: (cell.row, cell.path))
    for start in range(0, len(ordered), BATCH):
        batch, later = ordered[start : start + BATCH], ordered[start + BATCH :]
        pieces = Pieces.concatenate([read_pieces(cell.path, grid) for cell in batch])
        yield pieces, later[0].row if later else inf


def join_across_cells(
    batches: Iterable[tuple[Pieces, float]], distance_px: float
) -> Iterator[Pieces]:
    """Join pieces batch by batch, as :func:`capecam.detections.regions.join` does all at once.

    Args:
        batches: pieces, with the row above which no piece of a later batch begins.
        distance_px: largest gap between pieces of one class that are one object.

    Yields:
        Complete objects, all in the order of ``join``.
    """
    waiting = Pieces.concatenate([])
    for pieces, next_row in batches:
        waiting = join(Pieces.concatenate([waiting, pieces]), distance_px)
        _, top = first_pixels(waiting.geometry)
        bottom = shapely.bounds(waiting.geometry)[:, 3]
        complete = bottom + distance_px < next_row
        ready = complete & (top < np.min(top[~complete].astype(float), initial=next_row))
        yield waiting.take(ready)
        waiting = waiting.take(~ready)


def _summary(detections: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    areas = detections.groupby("class_id")["area_m2"].agg(["count", "sum"])
    areas = areas.reindex(pd.RangeIndex(1, len(names), name="class_id"), fill_value=0)
    summary = areas.round(2).rename(columns={"sum": "area_m2"}).reset_index()
    summary.insert(1, "class", names[1:])
    if P_RIGHT in detections:
        expected = detections.groupby("class_id")[P_RIGHT].sum()
        summary[EXPECTED] = expected.reindex(summary["class_id"], fill_value=0).round(1).to_numpy()
    return summary


def _count_steps(objects: pd.DataFrame, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Count objects by step and class, from their ``class``, ``reason`` and ``parts``."""
    classes = objects["class"]
    steps = {"traced": classes.repeat(objects["parts"]), "joined": classes}
    steps |= {reason: classes[objects["reason"] == reason] for reason in REASONS}
    steps["kept"] = classes[objects["reason"] == ""]
    return {
        step: some.value_counts().reindex(names[1:], fill_value=0).to_dict()
        for step, some in steps.items()
    }


def cell_pieces(run: RunFolder) -> list[CellPieces]:
    """Return the files with the pieces of all cells of a run."""
    return [CellPieces(run.core(name).row, run.path(name, PIECES)) for name in run.cells]


def assembly_rules(run: RunFolder) -> AssemblyRules:
    """Return the rules of a run.

    Raises:
        UsageError: the footprints cannot be read.
    """
    footprints, buildings = run.settings.mosaic.footprints, None
    if footprints is not None:
        buildings = shapely.STRtree(read_shapes(footprints, run.grid))
    classes, settings = run.settings.model.classes, run.settings.detections
    return AssemblyRules(run.grid, classes, settings, buildings)
