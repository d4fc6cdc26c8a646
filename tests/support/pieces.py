"""Pieces of cells on disk, and rules that make detections of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from capecam.detections.assembly import AssemblyRules, CellPieces
from capecam.detections.filters import DetectionFilter
from capecam.detections.measurement import write_pieces
from capecam.settings import CAPE_TOWN_CLASSES, DetectionSettings
from support.tracing import LO19, NAMES, trace

BLOCKS = np.random.default_rng(5).choice([0, 0, 0, 1, 2, 3], (40, 60)).astype(np.uint8)


def cooked(
    join_distance_px: float = 2.0, min_area_m2: float = 1.7, tolerance_px: float = 0.0, **options
) -> AssemblyRules:
    rules = DetectionSettings(min_area_m2=min_area_m2)
    return AssemblyRules(
        LO19,
        CAPE_TOWN_CLASSES,
        join_distance_px,
        tolerance_px,
        DetectionFilter.of(rules, NAMES),
        **options,
    )


def pieces_of_cells(folder: Path, rows: int, cols: int) -> list[CellPieces]:
    """BLOCKS in cells of that many rows and columns."""
    parts = []
    for row in range(0, BLOCKS.shape[0], rows):
        for col in range(0, BLOCKS.shape[1], cols):
            path = folder / f"{row}_{col}.parquet"
            cut = trace(BLOCKS[row : row + rows, col : col + cols], row=row, col=col)
            write_pieces(cut, LO19, NAMES, path)
            parts.append(CellPieces(row, path))
    return parts
