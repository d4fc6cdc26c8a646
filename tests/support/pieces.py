"""Pieces of cells on disk, and the rules to assemble them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from capecam.detections.assembly import AssemblyRules, CellPieces
from capecam.detections.measurement import write_pieces
from capecam.settings import CAPE_TOWN_CLASSES, DetectionSettings
from support.tracing import LO19, NAMES, trace

BLOCKS = np.random.default_rng(5).choice([0, 0, 0, 1, 2, 3], (40, 60)).astype(np.uint8)


def make_rules(**settings: float) -> AssemblyRules:
    return AssemblyRules(LO19, CAPE_TOWN_CLASSES, DetectionSettings(**settings))


def pieces_of_cells(folder: Path, rows: int, cols: int) -> list[CellPieces]:
    """Trace BLOCKS in cells of this many rows and columns."""
    cells = []
    for row in range(0, BLOCKS.shape[0], rows):
        for col in range(0, BLOCKS.shape[1], cols):
            path = folder / f"{row}_{col}.parquet"
            pieces = trace(BLOCKS[row : row + rows, col : col + cols], row=row, col=col)
            write_pieces(pieces, LO19, NAMES, path)
            cells.append(CellPieces(row, path))
    return cells
