"""Explain the objects of a city that are not explained yet, cell by cell."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import shapely

from capecam.detections.assembly import Detections, review_ranks
from capecam.detections.confidence_calibration import P_RIGHT, ConfidenceCalibration
from capecam.detections.object_columns import OBJECT_COLUMNS
from capecam.detections.regions import Integers, first_pixels
from capecam.grid import Window
from capecam.pipeline.object_explainer import VERSION
from capecam.pipeline.object_group import GroupResult, ObjectGroup
from capecam.pipeline.object_tiles import ExplainedObject, tile_windows
from capecam.store.object_store import ObjectStore, StoredObject
from capecam.store.run_folder import RunFolder

log = logging.getLogger(__name__)

Explain = Callable[[Sequence[ObjectGroup]], Iterable[GroupResult]]
"""Explains groups of objects, and returns the results in the order in which they end."""


def explain_detections(
    run: RunFolder,
    found: Detections,
    explain: Explain,
    calibration: ConfidenceCalibration | None = None,
) -> list[StoredObject | None]:
    """Explain the detections that ``objects.explain`` selects, unless they are explained already.

    Args:
        run: with all finished cells.
        found: N detections.
        explain: does it.
        calibration: orders the review queue, of which the first ones may be selected.

    Returns:
        N explanations; None for those without one.
    """
    store = ObjectStore(run.out, len(OBJECT_COLUMNS))
    explained: list[StoredObject | None] = [None] * len(found.objects)
    stored: dict[str, dict[bytes, StoredObject]] = {}
    missing: dict[str, _Group] = {}
    for group in _groups(run, found, calibration):
        known = store.read(group.cell)
        stored[group.cell] = {m.key: known[m.key] for m in group.members if m.key in known}
        for member in group.members:
            explained[member.index] = known.get(member.key)
        if rest := tuple(m for m in group.members if m.key not in known):
            missing[group.cell] = _Group(group.cell, rest)
    store.prune(stored)
    if count := sum(len(group.members) for group in missing.values()):
        log.info("detections: %d to be explained", count)
    todo = [group.to_explain(run) for group in missing.values()]
    for result in explain(todo) if todo else ():
        if result.objects is None:
            log.warning("%s are not explained: %s", result.group.name, result.reason)
            continue
        group = missing[result.group.cell]
        for member, each in zip(group.members, result.objects, strict=True):
            explained[member.index] = stored[group.cell][member.key] = each
        store.write(group.cell, stored[group.cell])
    return explained


def object_table(explained: Sequence[StoredObject | None]) -> pd.DataFrame:
    """Return N rows of ``OBJECT_COLUMNS``; NaN without an explanation."""
    numbers = np.full((len(explained), len(OBJECT_COLUMNS)), np.nan)
    for row, each in zip(numbers, explained, strict=True):
        if each is not None:
            row[:] = each.numbers
    return pd.DataFrame(numbers, columns=[*OBJECT_COLUMNS])


@dataclass(frozen=True, slots=True)
class _Member:
    """A detection to explain."""

    index: int
    """Among all detections."""
    target: ExplainedObject
    key: bytes
    """Equal for explanations that must be equal."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Detections whose first pixel lies in one cell."""

    cell: str
    members: tuple[_Member, ...]

    def to_explain(self, run: RunFolder) -> ObjectGroup:
        """Return what a worker gets."""
        targets = tuple(member.target for member in self.members)
        return ObjectGroup(self.cell, run.cells[self.cell].image, targets)


def _groups(
    run: RunFolder, found: Detections, calibration: ConfidenceCalibration | None
) -> Iterator[_Group]:
    """Yield the selected detections by cell, with all that their explanations depend on."""
    selected = _selected(run, found, calibration)
    if not len(selected):
        return
    names, tiling = list(run.cells), run.settings.tiling.tiling
    cores = shapely.STRtree([run.core(name).box for name in names])
    basis = [_basis(run, name) for name in names]
    shapes = found.objects.geometry
    tree = shapely.STRtree(shapes)
    owner = _owners(cores, *first_pixels(shapes))
    members: dict[int, list[_Member]] = {}
    for n in selected.tolist():
        windows = tile_windows(shapes[n], tiling.size, tiling.stride, run.grid.window)
        boxes = shapely.union_all([window.box for window in windows])
        near = [int(k) for k in tree.query(boxes, predicate="intersects") if k != n]
        same = [k for k in sorted(near) if found.objects.class_id[k] == found.objects.class_id[n]]
        others = tuple(shapes[k] for k in same)
        target = ExplainedObject(
            str(found.table["id"].iloc[n]), int(found.objects.class_id[n]), shapes[n], others
        )
        touched = sorted(cores.query(boxes, predicate="intersects").tolist())
        key = _key(target, windows, [basis[k] for k in touched])
        members.setdefault(int(owner[n]), []).append(_Member(n, target, key))
    for cell, entries in sorted(members.items()):
        yield _Group(names[cell], tuple(entries))


def _selected(
    run: RunFolder, found: Detections, calibration: ConfidenceCalibration | None
) -> Integers:
    """Return the indices of the detections that the settings select."""
    wanted = run.settings.objects.explain
    if wanted == "none":
        return np.empty(0, np.int64)
    count = len(found.objects) if wanted == "all" else wanted
    table = pd.DataFrame(found.table[["confidence", "area_m2"]])
    if calibration is not None and not calibration.needs_explanations:
        table[P_RIGHT] = calibration.p_right(found.table)
    return np.flatnonzero(review_ranks(table) <= count)


def _owners(cores: shapely.STRtree, col: Integers, row: Integers) -> Integers:
    """Return the index of the cell in which each pixel lies; the first of several cores."""
    pixel, cell = cores.query(shapely.points(col + 0.5, row + 0.5), predicate="intersects")
    owner = np.full(len(row), -1)
    order = np.lexsort((-cell, pixel))
    owner[pixel[order]] = cell[order]
    return owner


def _basis(run: RunFolder, cell: str) -> str:
    """Return what explanations near a cell depend on: the network, and the cell's image."""
    record, inputs = run.cells[cell], run.cells[cell].inputs
    objects = run.settings.objects.model_dump(mode="json", exclude={"explain"})
    image = record.images.get(record.image)
    parts = (
        inputs.format, inputs.checkpoint, inputs.precision, inputs.model, inputs.align,
        inputs.grid, inputs.collar, inputs.reading.get(record.image), objects,
        run.settings.tiling.size, run.settings.tiling.stride,
        record.image, image and image.sha256,
    )  # fmt: skip
    return json.dumps(parts, sort_keys=True)


def _key(target: ExplainedObject, windows: Sequence[Window], basis: Sequence[str]) -> bytes:
    """Return a digest of everything that an explanation depends on."""
    digest = hashlib.blake2b(f"{VERSION} {target.class_id} {windows}".encode(), digest_size=16)
    for text in basis:
        digest.update(text.encode())
    for shape in (target.shape, *target.others):
        digest.update(shapely.to_wkb(shape))
    return digest.digest()
