"""The review queue, read a page at a time."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from capecam.viewer.outlines import QUEUE_COLUMNS

DEFAULT_ROWS, MAX_ROWS = 100, 1000
"""Rows of a page."""


class ReviewQueue:
    """Detections in the order of the review queue.

    The file is mapped into memory, so that a city of any size costs the server what is read.

    Args:
        path: ``queue.arrow``.
    """

    def __init__(self, path: Path) -> None:
        with pa.memory_map(str(path)) as file:
            self._table = pa.ipc.open_file(file).read_all()
        self._of_class = lru_cache(maxsize=16)(self._rows_of_class)

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def page(
        self, offset: int = 0, limit: int = DEFAULT_ROWS, class_id: int | None = None
    ) -> dict[str, Any]:
        """Return some rows of the queue, as ``queue.json`` has them.

        Args:
            offset: number of rows before the first one.
            limit: number of rows, at most ``MAX_ROWS``.
            class_id: class of the detections; None: all.
        """
        limit = min(max(limit, 0), MAX_ROWS)
        if class_id is None:
            total, rows = len(self), self._table.slice(offset, limit)
        else:
            found = self._of_class(class_id)
            total = len(found)
            rows = self._table.take(pa.array(found[offset : offset + limit]))
        columns = [_plain(rows[name]) for name in QUEUE_COLUMNS]
        return {
            "total": total,
            "columns": list(QUEUE_COLUMNS),
            "rows": [list(row) for row in zip(*columns, strict=True)],
        }

    def find(self, id_: str) -> dict[str, Any] | None:
        """Return the row of a detection by column, or None if there is no such id."""
        index = pc.index(self._table["id"], id_).as_py()
        if index < 0:
            return None
        row = self._table.slice(index, 1)
        return {name: _plain(row[name])[0] for name in QUEUE_COLUMNS}

    def _rows_of_class(self, class_id: int) -> NDArray[np.int64]:
        return np.flatnonzero(self._table["class_id"].to_numpy() == class_id)


def _plain(column: pa.ChunkedArray) -> list[Any]:
    """Return values for JSON, which has no NaN."""
    values: list[Any] = column.to_pylist()
    return [None if isinstance(v, float) and not math.isfinite(v) else v for v in values]
