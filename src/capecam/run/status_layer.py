"""``cells.gpkg``: the state of every cell, to be looked at in QGIS while a run goes on.

A view of the ledger, never the truth: it can be deleted at any time.
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
import shapely

from capecam.grid import Cell, Grid
from capecam.runtime.files import atomic_write
from capecam.store.ledger import Ledger
from capecam.views.styles.layers import cells_style
from capecam.views.styles.qml import embed_style

log = logging.getLogger(__name__)

LAYER = "cells"
EVERY_S = 2.0
"""Between updates, so that thousands of small cells do not wait for it."""
LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
WAIT_S = 0.2
"""For a file that something holds locked; then that update is skipped."""


class CellStatus(NamedTuple):
    """Row of a cell: ``pending``, ``running``, ``done`` or ``failed``, and what came of it."""

    status: str
    tiles: int | None = None
    detections: int | None = None
    seconds: float | None = None
    error: str | None = None


class StatusLayer:
    """Shows cells as ``pending``, ``running``, ``done`` or ``failed``.

    Args:
        path: of the GeoPackage.
        grid: of the mosaic.
        cells: all of them, with their states so far.
        unusable: images that have no cell, and why; they come without a shape.
    """

    def __init__(
        self,
        path: Path,
        grid: Grid,
        cells: Mapping[Cell, CellStatus],
        unusable: Mapping[str, str],
    ) -> None:
        self._path = path
        self._pending: dict[str, CellStatus] = {}
        self._written = 0.0
        self._lock = threading.Lock()  # cells are taken by threads
        if not _is_free(path):
            log.debug("%s is in use; it keeps the cells that it has", path)
            return
        with atomic_write(path) as temporary:
            _table(grid, cells, unusable).to_file(
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
        """The cells; each of them is shown as running when it is taken."""
        for cell in cells:
            self.show(cell.name, CellStatus("running"))
            yield cell

    def show(self, name: str, state: CellStatus) -> None:
        """Change the state of a cell; it is written soon, with all that waits."""
        with self._lock:
            self._pending[name] = state
            if time.monotonic() - self._written >= EVERY_S:
                self._write()

    def flush(self) -> None:
        """Write what waits; if the file is locked, never."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        values = [(*state, name) for name, state in self._pending.items()]
        columns = ", ".join(f"{field} = ?" for field in CellStatus._fields)
        try:
            with closing(sqlite3.connect(self._path, timeout=WAIT_S)) as database, database:
                database.executemany(f"UPDATE {LAYER} SET {columns} WHERE cell = ?", values)
        except sqlite3.Error as error:
            level = (
                logging.DEBUG
                if getattr(error, "sqlite_errorcode", None) in LOCKED
                else logging.WARNING
            )
            log.log(level, "%s is not updated: %s", self._path, error)
            return
        self._pending.clear()
        self._written = time.monotonic()


def _table(
    grid: Grid, cells: Mapping[Cell, CellStatus], unusable: Mapping[str, str]
) -> gpd.GeoDataFrame:
    """A row a cell, and one for each image that has none."""
    rows = [{"cell": cell.name, **state._asdict()} for cell, state in cells.items()]
    rows += [
        {"cell": name, **CellStatus("failed", error=reason)._asdict()}
        for name, reason in unusable.items()
    ]
    boxes = [cell.core.box for cell in cells]
    shapes = [*shapely.transform(boxes, grid.to_map), *(None for _ in unusable)]
    table = gpd.GeoDataFrame(rows, geometry=shapes, crs=grid.crs)
    return table.astype({"tiles": "Int64", "detections": "Int64", "seconds": "Float64"})


def _is_free(path: Path) -> bool:
    """Whether a GeoPackage can be replaced: SQLite would add a reader's journal to the new one."""
    if not path.exists():
        return True
    if path.with_name(f"{path.name}-wal").exists():
        return False
    try:
        with closing(sqlite3.connect(path, timeout=WAIT_S)) as database:
            database.execute("BEGIN EXCLUSIVE")
            database.rollback()
    except sqlite3.OperationalError:
        return False
    except sqlite3.DatabaseError:  # not a database: whatever it is, it can go
        return True
    return True


def status_of(ledger: Ledger, cell: Cell) -> CellStatus:
    """Read the status of a cell from the ledger."""
    if record := ledger.read(cell.name):
        return CellStatus("done", record.tiles, record.detections, record.seconds)
    if failure := ledger.read_failure(cell.name):
        return CellStatus("failed", error=failure.error)
    return CellStatus("pending")


def open_status_layer(
    out: Path, grid: Grid, cells: Sequence[Cell], unusable: Mapping[str, str]
) -> StatusLayer:
    """A board of all cells as the ledger has them."""
    ledger = Ledger.of(out)
    states = {cell: status_of(ledger, cell) for cell in cells}
    return StatusLayer(out / "cells.gpkg", grid, states, unusable)
