"""Detections of a run as files that a page can read in parts, made when the server starts.

A process of its own makes them, since reading the 664,000 detections of a city takes seconds of
Python and a gigabyte for a moment. The server maps what it reads often into memory.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pyproj
import shapely
from numpy.typing import NDArray
from pyogrio import raw

from capecam.errors import CapecamError, StoppedError
from capecam.grid import Grid
from capecam.runtime.child_process import ChildDiedError, ChildProcess, ParentConnection
from capecam.runtime.files import atomic_write
from capecam.store.run_folder import known_run, product

OUTLINES, COUNTS, QUEUE, ZONES = "detections.fgb", "counts.json", "queue.arrow", "zones.fgb"
"""Files that are made."""

ZONES_TABLE = "zones.parquet"
"""Zones of ``capecam summarize`` in the folder of the run."""

TEXT, REAL = pa.string(), pa.float64()

OUTLINE_COLUMNS = {
    "id": TEXT, "class_id": pa.int32(), "class": TEXT, "confidence": REAL, "p_right": REAL,
    "area_m2": REAL, "evidence": TEXT, "review": pa.int64(), "own_share": REAL, "own_drop": REAL,
}  # fmt: skip
"""Columns of the outlines; those that a run does not have are NULL."""

RENAMED = {"review": "rank"}

QUEUE_COLUMNS = {
    name: OUTLINE_COLUMNS[name]
    for name in ("id", "class_id", "confidence", "p_right", "area_m2", "evidence")
} | dict.fromkeys(("x", "y", "west", "south", "east", "north"), REAL)
"""Columns of the queue: ``x`` and ``y`` are the centroid; then the bounds of the outline."""

MIN_SQUARE_PX = 512
MAX_SQUARES = 256
"""Squares in which detections are counted: at least 41 m for pixels of 8 cm, and doubled until a
side of the city has no more; 2,799 images (60 x 67 km) have squares of 328 m."""

BATCH = 16_384
"""Detections that are in memory at a time."""


class PreparedDetections:
    """The files of a run's detections, some of which may still be in the making.

    Args:
        out: folder of the run.
        folder: folder for the files.
    """

    def __init__(self, out: Path, folder: Path) -> None:
        self._folder, self._problem = folder, ""
        self._made = {name: threading.Event() for name in (QUEUE, COUNTS, OUTLINES, ZONES)}
        self._child = ChildProcess(prepare_detections, out, folder)
        threading.Thread(target=self._listen, daemon=True, name="outlines").start()

    def close(self) -> None:
        """End the process."""
        self._child.kill()

    def path(self, name: str, timeout_s: float | None = None) -> Path:
        """Wait for a file, and return its path.

        Raises:
            TimeoutError: it is not there yet.
            CapecamError: it could not be made.
        """
        if not self._made[name].wait(timeout_s):
            raise TimeoutError
        path = self._folder / name
        if self._problem and not path.exists():
            raise StoppedError(self._problem)
        return path

    def _listen(self) -> None:
        try:
            while (message := self._child.receive()) is not None:
                name, problem = message
                self._problem = problem
                if problem:
                    break
                self._made[name].set()
            self._child.kill()  # it has ended, and is waited for
        except ChildDiedError as error:
            self._problem = f"the outlines cannot be made: the process died ({error}); start again"
        for event in self._made.values():
            event.set()


def prepare_detections(parent: ParentConnection, out: Path, folder: Path) -> None:
    """Make the files, and tell the parent of each; this is the task of the process."""
    try:
        run, source = known_run(out), product(out, "detections.parquet")
        grid = run.pixel_grid
        table = _queue_table(source)
        _write_arrow(folder / QUEUE, table)
        parent.send((QUEUE, ""))
        with atomic_write(folder / COUNTS) as temporary:
            temporary.write_text(json.dumps(count_by_square(table, grid), separators=(",", ":")))
        parent.send((COUNTS, ""))
        del table
        _write_outlines(source, folder / OUTLINES, pyproj.CRS.from_wkt(grid.crs))
        parent.send((OUTLINES, ""))
        if (out / ZONES_TABLE).exists():
            _write_zones(out / ZONES_TABLE, folder / ZONES)
        parent.send((ZONES, ""))
        parent.send(None)
    except (CapecamError, OSError, pa.ArrowException) as error:
        parent.send(("", str(error)))


def _batches(source: Path) -> Iterator[dict[str, pa.Array]]:
    """Yield the columns of ``OUTLINE_COLUMNS`` and ``geometry`` (WKB) of some detections."""
    with pq.ParquetFile(source) as file:
        there = set(file.schema_arrow.names)
        names = [name for name in OUTLINE_COLUMNS if name in there]
        for batch in file.iter_batches(BATCH, columns=[*names, "geometry"]):
            found = {name: batch[name].cast(OUTLINE_COLUMNS[name]) for name in names}
            empty = {
                name: pa.nulls(len(batch), kind)
                for name, kind in OUTLINE_COLUMNS.items()
                if name not in there
            }
            yield {**found, **empty, "geometry": batch["geometry"].cast(pa.binary())}


def _queue_table(source: Path) -> pa.Table:
    """Return the columns of the queue, in its order; by confidence where a run has no ranks."""
    parts, ranks = [], []
    for columns in _batches(source):
        shapes = shapely.from_wkb(columns["geometry"].to_numpy(zero_copy_only=False))
        centres, bounds = shapely.centroid(shapes), shapely.bounds(shapes).reshape(-1, 4)
        places = (shapely.get_x(centres), shapely.get_y(centres), *bounds.T)
        own = list(QUEUE_COLUMNS)[: -len(places)]
        arrays = [*(columns[name] for name in own), *map(pa.array, places)]
        parts.append(pa.record_batch(arrays, names=list(QUEUE_COLUMNS)))
        has_ranks = columns["review"].null_count == 0
        ranks.append(columns["review" if has_ranks else "confidence"].to_numpy())
    table = pa.Table.from_batches(parts, pa.schema(list(QUEUE_COLUMNS.items())))
    order = np.argsort(np.concatenate(ranks), kind="stable") if ranks else np.empty(0, np.int64)
    return table.take(pa.array(order))


def _write_arrow(path: Path, table: pa.Table) -> None:
    with atomic_write(path) as temporary, pa.ipc.new_file(temporary, table.schema) as writer:
        writer.write_table(table, max_chunksize=BATCH)


def count_by_square(table: pa.Table, grid: Grid) -> dict[str, Any]:
    """Return the numbers of detections by class and square of the grid.

    Args:
        table: with ``class_id``, ``x`` and ``y``.
        grid: of the run; squares begin at its top-left corner.
    """
    size, window = square_px(grid), grid.window
    rows, cols = (-(-length // size) for length in window.shape)
    points = np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1)
    places = (grid.to_pixels(points) - (window.col, window.row)) // size
    col, row = np.clip(places, 0, (cols - 1, rows - 1)).astype(np.int64).T
    class_id = table["class_id"].to_numpy().astype(np.int64)
    keys, counts = np.unique((class_id * rows + row) * cols + col, return_counts=True)
    found: dict[str, list[list[int]]] = {}
    for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
        square, at_col = divmod(key, cols)
        at_class, at_row = divmod(square, rows)
        found.setdefault(str(at_class), []).append([at_row, at_col, count])
    return {"pixels": size, "counts": found}


def square_px(grid: Grid) -> int:
    """Return the edge of the squares in which detections are counted, in pixels."""
    size = MIN_SQUARE_PX
    while max(grid.window.shape) > MAX_SQUARES * size:
        size *= 2
    return size


def _write_outlines(source: Path, path: Path, crs: pyproj.CRS) -> None:
    fields = [pa.field(RENAMED.get(name, name), kind) for name, kind in OUTLINE_COLUMNS.items()]
    schema = pa.schema([*fields, pa.field("geometry", pa.binary())])
    batches = (
        pa.record_batch([columns[name] for name in (*OUTLINE_COLUMNS, "geometry")], schema=schema)
        for columns in _batches(source)
    )
    with atomic_write(path) as temporary:
        pyogrio.write_arrow(
            pa.RecordBatchReader.from_batches(schema, batches),
            temporary,
            driver="FlatGeobuf",
            layer="detections",
            geometry_name="geometry",
            geometry_type="MultiPolygon",
            crs=crs.to_wkt("WKT1_GDAL"),
        )


def _write_zones(source: Path, path: Path) -> None:
    """Write the zones with a shape; the row of what is outside of all has none."""
    zones = gpd.read_parquet(source)
    zones = zones[zones.geometry.notna() & ~zones.geometry.is_empty]
    with atomic_write(path) as temporary:
        pyogrio.write_dataframe(zones, temporary, driver="FlatGeobuf", layer="zones")


Bounds = tuple[float, float, float, float]
"""West, south, east, north."""


def read_outlines(path: Path, bounds: Bounds) -> tuple[list[str], NDArray[Any], NDArray[Any]]:
    """Return ids, classes (N,) and shapes (N,) of the detections whose bounds touch some others.

    Args:
        path: ``detections.fgb``.
        bounds: in the CRS of the run.
    """
    # Not by Arrow, in which GDAL 3.12 gives 65,536 empty features where there is none.
    _, _, shapes, (ids, classes) = raw.read(path, bbox=bounds, columns=["id", "class_id"])
    return ids.tolist(), classes, shapely.from_wkb(shapes)


def read_outline(path: Path, id_: str, bounds: Bounds) -> shapely.Geometry:
    """Return the shape of a detection, in the CRS of the run."""
    ids, _, shapes = read_outlines(path, bounds)
    return shapes[ids.index(id_)]
