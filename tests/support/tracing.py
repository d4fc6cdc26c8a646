"""Regions traced from arrays."""

from __future__ import annotations

import itertools

import numpy as np
import pyproj
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from capecam.detections.regions import Pieces
from capecam.detections.tracing import Tracer
from capecam.grid import Grid, Window

NAMES = ["background", "solar panel", "water heater", "pool heater"]
LO19 = Grid(
    pyproj.CRS("ESRI:102562").to_wkt(), (-51_000.0, -3_763_000.0), (0.08, 0.08), Window(0, 0, 9, 9)
)


def trace(classes: np.ndarray, cuts=(), col: int = 0, row: int = 0, levels=None) -> Pieces:
    """Trace an array in strips that end at ``cuts``."""
    if levels is None:
        levels = np.full((3, *classes.shape), 127, np.uint8)
    tracer = Tracer(col, "image")
    edges = [0, *sorted(cuts), len(classes)]
    for start, stop in itertools.pairwise(edges):
        tracer.add(row + start, classes[start:stop], levels[:, start:stop])
    return tracer.finish()


rasters = hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 14), st.integers(1, 14)),
    elements=st.sampled_from([0, 0, 1, 1, 2, 255]),
)  # fmt: skip
