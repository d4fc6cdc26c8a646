"""Edits of review files, as people make them with other programs."""

from __future__ import annotations

import sqlite3
import struct
from contextlib import closing
from pathlib import Path


def sql(path: Path, *statements: str) -> list[tuple]:
    """Edit as SQLite does, with the functions that the spatial index of a GeoPackage calls."""
    with closing(sqlite3.connect(path)) as database, database:
        database.create_function("ST_IsEmpty", 1, lambda blob: blob is None)
        for at, name in enumerate(("ST_MinX", "ST_MaxX", "ST_MinY", "ST_MaxY")):
            database.create_function(
                name, 1, lambda blob, at=at: struct.unpack_from("<d", blob, 8 + 8 * at)[0]
            )
        return [row for text in statements for row in database.execute(text)]
