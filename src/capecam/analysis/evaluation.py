"""``capecam evaluate``: scores of a run or a vector file against annotations."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pyproj
import shapely
from numpy.typing import NDArray

from capecam.analysis.annotations import read_objects
from capecam.analysis.duplicates import warn_of_repeated, without_repeated
from capecam.analysis.held_out import block_numbers
from capecam.analysis.looks import QueueScore, score_misses, score_orders
from capecam.analysis.result_folder import result_folder
from capecam.analysis.scoring import BLOCK_M, ClassScore, Rules, Score, score
from capecam.detections.assembly import (
    assembly_rules,
    cell_pieces,
    objects_by_step,
    review_ranks,
)
from capecam.detections.confidence_calibration import P_RIGHT
from capecam.detections.measurement import metric_crs
from capecam.detections.misses import find_misses
from capecam.errors import OutputError
from capecam.io.reprojection import reproject, reproject_table
from capecam.io.vector_reader import read_polygons
from capecam.runtime.files import write_json
from capecam.settings import Settings
from capecam.store.file_names import EVALUATION_JSON
from capecam.store.run_folder import RunFolder

log = logging.getLogger(__name__)

MIN_INSIDE = 0.5
"""Minimum share of an object inside the area; the part outside is cut off."""

MAX_FAR = 0.2
"""Share of found objects far from all truth above which an area was probably forgotten."""

FAR_M = 100.0

NOTHING = "(nothing)"

FLAT = "[-]"
NO_INTERVAL = f"; {FLAT}: not known, since every resample of these objects is the same"
"""Interval of a score without spread, on the terminal."""


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """Objects to compare, and rules of comparing them."""

    found: Path
    """Folder of a run, or vector file."""
    truth: Path
    area: Path | None = None
    """Vector file of the annotated area; None: all that was mapped."""
    by_step: bool = False
    """Score a run also after each step from pixels to detections."""
    with_misses: bool = False
    """Score also the places where a run most likely misses an object."""
    rules: Rules = field(default_factory=Rules)
    settings: Settings = field(default_factory=Settings)
    """``truth`` names the columns; ``model.classes`` the classes of a vector file."""
    to: Path | None = None
    """Folder for ``evaluation.json``; None: that of the run, if it can be written."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Result of an evaluation."""

    request: EvaluationRequest
    names: tuple[str, ...]
    score: Score
    area_km2: float | None
    """Area that was compared; None if it is not limited."""
    steps: tuple[tuple[str, Score], ...]
    queue: QueueScore | None = None
    """Errors found by the first looks at a run's detections; None for a file."""
    misses: QueueScore | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the result of ``--json`` and evaluation.json; undefined values are None."""
        labels = [NOTHING, *self.names[1:]]
        rows = self.score.confusion.tolist()
        return {
            "found": str(self.request.found),
            "truth": str(self.request.truth),
            "area": None if self.request.area is None else str(self.request.area),
            "area_km2": self.area_km2,
            "iou": self.request.rules.min_iou,
            "seed": self.request.rules.seed,
            "classes": [entry.to_json() for entry in self.score.classes],
            "confusion": {
                label: dict(zip(labels, row, strict=True))
                for label, row in zip(labels, rows, strict=True)
            },
            "steps": [
                {"step": step, **_brief(entry)}
                for step, found in self.steps
                for entry in found.classes
            ],
            "queue": self.queue.to_json() if self.queue else None,
            "misses": self.misses.to_json() if self.misses else None,
        }

    def to_text(self) -> str:
        """Return the result as text."""
        scores = pd.DataFrame([_row(entry) for entry in self.score.classes]).to_string(index=False)
        labels = [NOTHING, *self.names[1:]]
        confusion = pd.DataFrame(self.score.confusion, labels, labels)
        lines = [
            f"one to one, IoU at least {self.request.rules.min_iou:g}"
            + (f", in {self.area_km2:,.2f} km²" if self.area_km2 is not None else ""),
            scores,
            "",
            f"in brackets: 95 % intervals{NO_INTERVAL if FLAT in scores else ''}",
            "true objects (rows) found as (columns):",
            confusion.to_string(),
        ]
        if self.steps:
            rows = [
                {"after": step, **_short(entry)}
                for step, found in self.steps
                for entry in found.classes
            ]
            lines += ["", pd.DataFrame(rows).to_string(index=False)]
        if self.queue:
            wrong = f"{self.queue.errors:,} of {self.queue.objects:,} detections"
            lines += ["", f"wrong are {wrong}; found in the first N looks by order:"]
            lines.append(self.queue.to_text())
        if self.misses:
            unseen = f"{self.misses.errors:,} true objects have no detection"
            places = f"{self.misses.objects:,} places"
            lines += ["", f"{unseen}; found in the first N looks at {places}:"]
            lines.append(self.misses.to_text())
        return "\n".join(lines)


def _brief(entry: ClassScore) -> dict[str, Any]:
    return {"class": entry.name, **entry.counts.to_json(), "found_m2": entry.found_m2}


def _short(entry: ClassScore) -> dict[str, Any]:
    c = entry.counts
    quotients = {name: _shown(getattr(c, name)) for name in ("precision", "recall", "f1")}
    return {"class": entry.name, "true": c.true, "found": c.found, **quotients,
            "found m²": f"{entry.found_m2:,.1f}"}  # fmt: skip


def _row(entry: ClassScore) -> dict[str, Any]:
    c = entry.counts
    row: dict[str, Any] = {"class": entry.name, "true": c.true, "found": c.found}
    for name, value in (("precision", c.precision), ("recall", c.recall), ("f1", c.f1)):
        row[name] = _shown(value) + _around(entry.intervals[name])
    row["AP"] = _shown(entry.average_precision)
    row["IoU"] = _shown(entry.mean_iou)
    row["true m²"] = f"{entry.true_m2:,.1f}"
    row["found m²"] = f"{entry.found_m2:,.1f}"
    return row


def _around(interval: tuple[float, float] | None) -> str:
    """Return an interval as text; an interval without spread is no certainty."""
    if interval is None:
        return ""
    low, high = interval
    return f" [{low:.3f} {high:.3f}]" if low < high else f" {FLAT}"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def evaluate(request: EvaluationRequest) -> Evaluation:
    """Score objects against annotations; the result of a run is also saved as a file.

    An object counts if at least half of it lies in the area that was annotated and mapped; the
    parts outside are cut off on both sides.

    Raises:
        UsageError: a file cannot be used, or has no class.
        OutputError: the folder holds no run, or steps are requested of a file.
    """
    is_run = request.found.is_dir() and request.found.suffix.lower() != ".gdb"
    run = RunFolder.open_finished(request.found) if is_run else None
    if request.by_step and run is None:
        raise OutputError(
            f"{request.found}: --steps needs the folder of a run, not a file"
            "; name that folder, or leave out --steps"
        )
    names = run.names if run else tuple(e.name for e in request.settings.model.classes)
    found = _read_run(run) if run else read_objects(request.found, names, request.settings.truth)
    crs = metric_crs(found)
    found = reproject_table(found, crs)
    mapped = None if run is None else mapped_area(run, crs)
    near = mapped or shapely.box(*found.total_bounds)
    true = read_objects(request.truth, names, request.settings.truth, crs, near)
    true = without_repeated(true, request.truth, "true objects")
    if run is None:
        warn_of_repeated(found, request.found, "found objects")
    area = compared_area(request.area, mapped, crs, near)
    true, found = objects_within(true, area), objects_within(found, area)
    _warn_if_far(true, found, request)
    after = (
        objects_by_step(cell_pieces(run), assembly_rules(run)) if run and request.by_step else {}
    )
    scored = score(true, found, names, request.rules)
    evaluation = Evaluation(
        request,
        names,
        scored,
        None if area is None else float(area.area) / 1e6,
        _by_step(after, true, area, names, request.rules),
        _score_queue(found, scored.right) if run else None,
        _score_misses(run, true, found, area) if run and request.with_misses else None,
    )
    _save(evaluation, run)
    return evaluation


def _score_queue(found: gpd.GeoDataFrame, right: NDArray[np.bool_]) -> QueueScore:
    """Score the review queue beside the order of confidence."""
    plain = found.drop(columns=P_RIGHT, errors="ignore")
    ranks = {"queue": review_ranks(found), "confidence": review_ranks(plain)}
    points = shapely.get_coordinates(shapely.point_on_surface(found.geometry.to_numpy()))
    return score_orders(~right, ranks, block_numbers(points, BLOCK_M))


def _score_misses(
    run: RunFolder,
    true: gpd.GeoDataFrame,
    found: gpd.GeoDataFrame,
    area: shapely.Geometry | None,
) -> QueueScore:
    """Score the places where a run most likely misses an object."""
    places = objects_within(reproject_table(find_misses(run), pyproj.CRS(true.crs)), area)
    seen, _ = shapely.STRtree(found.geometry.to_numpy()).query(true.geometry, "intersects")
    unseen = true.drop(index=true.index[np.unique(seen)])
    ranks = places["review"].rank().to_numpy(np.int64)
    return score_misses(unseen.geometry, places.geometry, ranks)


def _save(evaluation: Evaluation, run: RunFolder | None) -> None:
    tree, to = evaluation.to_json(), evaluation.request.to
    out = run.out if run else to
    if run is not None:
        tree["detections"] = run.detections_version
    if out is not None:
        with result_folder(out, to) as folder:
            write_json(folder / EVALUATION_JSON, tree)


def _read_run(run: RunFolder) -> gpd.GeoDataFrame:
    path = run.detections()
    known = set(pq.read_schema(path).names)
    columns = ["class_id", "area_m2", "confidence", P_RIGHT, "geometry"]
    return gpd.read_parquet(path, columns=[name for name in columns if name in known])


def mapped_area(run: RunFolder, crs: pyproj.CRS) -> shapely.Geometry:
    """Return the area that a run has mapped."""
    boxes = np.array([run.core(cell).box for cell in run.cells])
    placed = shapely.transform(shapely.union_all(boxes), run.grid.to_map)
    (mapped,), _ = reproject(np.array([placed]), pyproj.CRS.from_wkt(run.grid.crs), crs)
    return mapped


def compared_area(
    path: Path | None, mapped: shapely.Geometry | None, crs: pyproj.CRS, near: shapely.Geometry
) -> shapely.Geometry | None:
    """Return the area that is annotated and was mapped; None: not limited."""
    areas = [] if mapped is None else [mapped]
    if path is not None:
        annotated = read_polygons(path, crs, near=near, everywhere=True, columns=[])
        areas.insert(0, shapely.union_all(annotated.geometry.to_numpy()))
    return shapely.intersection_all(areas) if areas else None


def objects_within(table: gpd.GeoDataFrame, area: shapely.Geometry | None) -> gpd.GeoDataFrame:
    """Return the objects with at least half inside an area, clipped to it."""
    if area is None or not len(table):
        return table
    shapely.prepare(area)
    shapes = table.geometry.to_numpy()
    cut = np.flatnonzero(~shapely.covers(area, shapes))
    share = np.ones(len(shapes))
    inside = shapely.intersection(shapes[cut], area)
    share[cut] = shapely.area(inside) / shapely.area(shapes[cut])
    left = np.asarray(shapes, object).copy()
    left[cut] = inside
    return table.set_geometry(gpd.GeoSeries(left, index=table.index, crs=table.crs))[
        share >= MIN_INSIDE
    ]


def _by_step(
    after: Mapping[str, gpd.GeoDataFrame],
    true: gpd.GeoDataFrame,
    area: shapely.Geometry | None,
    names: Sequence[str],
    rules: Rules,
) -> tuple[tuple[str, Score], ...]:
    crs = pyproj.CRS(true.crs)
    return tuple(
        (step, score(true, objects_within(reproject_table(table, crs), area), names, rules))
        for step, table in after.items()
    )


def _warn_if_far(
    true: gpd.GeoDataFrame, found: gpd.GeoDataFrame, request: EvaluationRequest
) -> None:
    """Warn about objects outside the annotated area, which would all count as wrong."""
    if not len(true):
        log.warning("%s: no true object lies in the area that was mapped", request.truth)
    if request.area is not None or not len(true) or not len(found):
        return
    labelled = shapely.convex_hull(shapely.union_all(_points(true))).buffer(FAR_M)
    shapely.prepare(labelled)
    far = int(np.sum(~shapely.intersects(labelled, _points(found))))
    if far > MAX_FAR * len(found):
        log.warning(
            "%d of %d found objects lie more than %g m outside of all truth and count as wrong; if "
            "that area was not annotated, name the annotated area with --area FILE",
            far, len(found), FAR_M,
        )  # fmt: skip


def _points(table: gpd.GeoDataFrame) -> NDArray[np.object_]:
    return np.asarray(shapely.centroid(table.geometry.to_numpy()), object)
