"""``cells.gpkg``: the state of every cell, to be watched in QGIS during a run.

It is a view of the ledger, never the truth, and can be deleted at any time.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import geopandas as gpd
import pandas as pd
import shapely

from capecam.grid import Cell, Grid
from capecam.imagery.datum import registered_crs
from capecam.runtime.files import atomic_write
from capecam.store.ledger import Ledger
from capecam.store.records import CellRecord, FailureRecord
from capecam.views.styles.layers import cells_style
from capecam.views.styles.qml import embed_style

log = logging.getLogger(__name__)

LAYER = "cells"
UPDATE_S = 2.0
"""Between updates, so that thousands of small cells do not wait for the file."""
LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
TIMEOUT_S = 0.2
"""For a file that another program has locked; after it, the update is skipped."""


class CellStatus(NamedTuple):
    """Columns of a cell: ``pending``, ``running``, ``done`` or ``failed``, and its result."""

    status: str
    tiles: int | None = None
    detections: int | None = None
    seconds: float | None = None
    error: str | None = None


class StatusLayer:
    """The layer, written at once and updated during a run.

    Args:
        out: folder of the run.
        grid: of the mosaic.
        cells: all of them.
        unusable: images that have no cell, and why; their rows have no geometry.
    """

    def __init__(
        self, out: Path, grid: Grid, cells: Sequence[Cell], unusable: Mapping[str, str]
    ) -> None:
        self._ledger, self._path = Ledger.of(out), out / "cells.gpkg"
        self._pending: dict[str, CellStatus] = {}
        self._written = 0.0
        self._lock = threading.Lock()  # threads take cells
        if not _is_replaceable(self._path):
            log.debug("%s is in use; it keeps the cells that it has", self._path)
            return
        rows = [(cell.name, *_status(self._ledger, cell)) for cell in cells]
        rows += [(name, *CellStatus("failed", error=reason)) for name, reason in unusable.items()]
        table = gpd.GeoDataFrame(
            pd.DataFrame(rows, columns=["cell", *CellStatus._fields]),
            geometry=[
                *shapely.transform([cell.core.box for cell in cells], grid.to_map),
                *(None for _ in unusable),
            ],
            crs=registered_crs(grid.crs),
        )
        table = table.astype({"tiles": "Int64", "detections": "Int64", "seconds": "Float64"})
        with atomic_write(self._path) as temporary:
            table.to_file(
                temporary,
                driver="GPKG",
                layer=LAYER,
                engine="pyogrio",
                geometry_type="Polygon",
                dataset_options={"VERSION": "1.2"},
                # Its triggers call functions that SQLite itself does not have.
                layer_options={"SPATIAL_INDEX": "NO"},
            )
            embed_style(temporary, LAYER, cells_style())

    def running(self, cells: Iterable[Cell]) -> Iterator[Cell]:
        """Yield the cells, and show each as running when it is taken."""
        for cell in cells:
            self._show(cell, CellStatus("running"))
            yield cell

    def update(self, cell: Cell) -> None:
        """Show what the ledger has of a cell."""
        self._show(cell, _status(self._ledger, cell))

    def flush(self) -> None:
        """Write the pending updates; they are lost if the file is locked."""
        with self._lock:
            self._write()

    def _show(self, cell: Cell, status: CellStatus) -> None:
        with self._lock:
            self._pending[cell.name] = status
            if time.monotonic() - self._written >= UPDATE_S:
                self._write()

    def _write(self) -> None:
        values = [(*status, name) for name, status in self._pending.items()]
        columns = ", ".join(f"{field} = ?" for field in CellStatus._fields)
        try:
            with closing(sqlite3.connect(self._path, timeout=TIMEOUT_S)) as database, database:
                database.executemany(f"UPDATE {LAYER} SET {columns} WHERE cell = ?", values)
        except sqlite3.Error as error:
            is_locked = getattr(error, "sqlite_errorcode", None) in LOCKED
            level = logging.DEBUG if is_locked else logging.WARNING
            log.log(level, "%s is not updated: %s", self._path, error)
            return
        self._pending.clear()
        self._written = time.monotonic()


def _status(ledger: Ledger, cell: Cell) -> CellStatus:
    match ledger.read_any(cell.name):
        case CellRecord() as record:
            return CellStatus("done", record.tiles, record.detections, record.seconds)
        case FailureRecord() as record:
            return CellStatus("failed", error=record.error)
        case None:
            return CellStatus("pending")


def _is_replaceable(path: Path) -> bool:
    """Return whether no other program has a GeoPackage open: SQLite would apply a reader's journal
    to the new file."""
    if not path.exists():
        return True
    if path.with_name(f"{path.name}-wal").exists():
        return False
    try:
        with closing(sqlite3.connect(path, timeout=TIMEOUT_S)) as database:
            database.execute("BEGIN EXCLUSIVE")
            database.rollback()
    except sqlite3.DatabaseError as error:  # if it is not a database, nothing is lost
        return not isinstance(error, sqlite3.OperationalError)
    return True
