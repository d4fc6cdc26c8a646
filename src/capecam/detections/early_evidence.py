"""Evidence of objects in finished cells, while others are still being made.

It fills the cache that the city's products are made with, and nothing else: an object that is not
in it, because a cell near it came last or was made again, is measured in the end as ever.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from capecam.detections.assembly import assembly_rules
from capecam.detections.evidence import Evidence, evidence_rasters, reach_px
from capecam.detections.evidence_cache import EVIDENCE_CACHE, EvidenceCache
from capecam.detections.filters import rejection_reasons
from capecam.detections.measurement import read_pieces, to_table
from capecam.detections.regions import Pieces, Polygons, join
from capecam.grid import Window
from capecam.io.gdal import gdal_settings
from capecam.runtime.child_process import ParentConnection
from capecam.store.file_names import PIECES
from capecam.store.ledger import Ledger
from capecam.store.provenance import settings_of
from capecam.store.records import CellRecord
from capecam.store.run_folder import RunFolder, known_run

SAVE_S = 60.0
"""Seconds between two writings of the cache: the most that a killed run measures again."""

MARGIN = 4
"""Reaches of the evidence around a cell in which pieces are joined; an object that goes on beyond
is left to the end."""

REMEMBERED = 256
"""Cells of which records and pieces are kept: four rows of a city's."""

NICENESS = 10
"""Added to that of the process, which works beside those that make cells."""


class EarlyEvidence:
    """Measures objects as soon as all cells near them are there.

    Args:
        out: folder of a run, with its ``run.json``.
        cores: pixels of all cells of the run, by name.
        pending: names of the cells that are still to be made.
    """

    def __init__(self, out: Path, cores: Mapping[str, Window], pending: Collection[str]) -> None:
        record = known_run(out)
        self._run = run = RunFolder(out, record, settings_of(out, record), {})
        self._names, self._cores = list(cores), cores
        self._index = shapely.STRtree([core.box for core in cores.values()])
        self._pending = np.array([name in pending for name in self._names], np.bool_)
        self._rules = assembly_rules(run)
        strides = [run.stride(method) for method in run.settings.explain.methods]
        self._join_px = run.settings.detections.join_distance_px
        self._reach_px = max(reach_px(strides, run.grid), self._join_px + 1)
        self._known: OrderedDict[str, tuple[CellRecord, Pieces]] = OrderedDict()
        self._cache: EvidenceCache | None = None

    def settle(self, name: str) -> int:
        """Note that a cell is done or has failed, and measure the objects that waited for it.

        Returns:
            The number of these objects.
        """
        self._pending[self._names.index(name)] = False
        self._known.pop(name, None)
        core = self._cores[name].box
        area = shapely.box(*_widened(core, MARGIN * self._reach_px).T)
        near = [self._names[n] for n in self._index.query(area) if not self._pending[n]]
        cells = {cell: known for cell in sorted(near) if (known := self._read(cell))}
        pieces = Pieces.concatenate([pieces for _, pieces in cells.values()])
        pieces = pieces.take(shapely.intersects(pieces.geometry, area))
        if not len(pieces):
            return 0
        objects = self._kept(self._ready(join(pieces, self._join_px), core, area))
        run = replace(self._run, cells={cell: record for cell, (record, _) in cells.items()})
        rasters = evidence_rasters(run)
        if self._cache is None:
            self._cache = EvidenceCache(run.out / EVIDENCE_CACHE, len(rasters.columns))
        if len(objects):
            with Evidence(rasters, run.grid, 0, self._cache) as evidence:
                evidence.numbers(objects)
        return len(objects)

    def save(self) -> None:
        """Replace the cache by one that has what is measured, too."""
        if self._cache is not None:
            self._cache.save(keep_loaded=True)

    def _read(self, name: str) -> tuple[CellRecord, Pieces] | None:
        """Return record and pieces of a cell; None if it has failed."""
        if name not in self._known:
            record = Ledger.of(self._run.out).read(name)
            if record is None:
                return None
            while len(self._known) >= REMEMBERED:
                self._known.popitem(last=False)
            self._known[name] = record, read_pieces(self._run.path(name, PIECES), self._run.grid)
        self._known.move_to_end(name)
        return self._known[name]

    def _ready(self, objects: Pieces, core: shapely.Polygon, area: shapely.Polygon) -> Pieces:
        """Return the objects whose evidence depends on a cell, and on none that is pending."""
        boxes = shapely.box(*_widened(objects.geometry, self._reach_px).T)
        box, cell = self._index.query(boxes, predicate="intersects")
        waits = np.zeros(len(objects), np.bool_)
        waits[box[self._pending[cell]]] = True
        return objects.take(shapely.intersects(boxes, core) & shapely.within(boxes, area) & ~waits)

    def _kept(self, objects: Pieces) -> Pieces:
        """Return the objects that no filter removes."""
        rules = self._rules
        table = to_table(objects, rules.grid, rules.names)
        reasons = rejection_reasons(objects, table, rules.settings, rules.names, rules.buildings)
        return objects.take(reasons == "")


def _widened(shapes: shapely.Geometry | Polygons, distance: float) -> NDArray[np.float64]:
    """Return the bounds of shapes, (4,) or (N, 4), wider by a distance on all sides."""
    margins = np.array([-1.0, -1.0, 1.0, 1.0]) * distance
    return np.asarray(shapely.bounds(shapes) + margins)


def measure_beside(
    parent: ParentConnection, out: Path, cores: Mapping[str, Window], pending: Collection[str]
) -> None:
    """Measure objects in a process beside those that make cells; the task of a child process.

    The parent sends the name of each cell that has ended, and None in the end, which is answered
    by None, or by the reason why nothing more was measured.
    """
    os.nice(NICENESS)
    try:
        with gdal_settings():
            _measure_beside(parent, EarlyEvidence(out, cores, pending))
    except Exception as error:  # the parent names it, and what is missing is measured in the end
        parent.send(f"{type(error).__name__}: {error}")
    else:
        parent.send(None)


def _measure_beside(parent: ParentConnection, early: EarlyEvidence) -> None:
    saved, names = time.monotonic(), [parent.receive()]
    while None not in names:
        early.settle(names.pop(0))
        if time.monotonic() - saved > SAVE_S:
            early.save()
            saved = time.monotonic()
        names += parent.received() or ([] if names else [parent.receive()])
    early.save()
