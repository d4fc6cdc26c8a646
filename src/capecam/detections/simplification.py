"""Optional simplification of outlines, in which neighbours never come to overlap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from math import inf

import numpy as np
import shapely

from capecam.detections.regions import Pieces, Polygons, connected_groups, first_pixels

MAX_DEVIATION = 4.0
"""Largest distance between an outline and its simplification, in tolerances; an outline that would
deviate more is left as it is. Vertices of a long, gentle curve are removed one after the other."""


def simplify_outlines(
    objects: Iterable[Pieces], tolerance_px: float
) -> Iterator[tuple[Pieces, Polygons]]:
    """Yield the same objects in the same order, each with its simplified outline.

    A vertex is removed if its triangle with its neighbours is smaller than the tolerance squared
    (Visvalingam & Whyatt 1993, as GEOS does it for coverages). Objects near each other are
    simplified together, and keep the borders that they share.

    Args:
        objects: from top to bottom, as ``join_across_cells`` yields them.
        tolerance_px: in pixels; 0 leaves outlines as they are.

    Yields:
        Objects and (N,) outlines, in lattice pixels.
    """
    if tolerance_px == 0:
        yield from ((part, part.geometry) for part in objects)
        return
    distance = 2 * MAX_DEVIATION * tolerance_px
    waiting, outlines = Pieces.concatenate([]), np.empty(0, object)
    for part, last in chain(((part, False) for part in objects), [(Pieces.concatenate([]), True)]):
        waiting = Pieces.concatenate([waiting, part])
        outlines = np.concatenate([outlines, np.full(len(part), None, object)])
        # No later object begins above this row.
        next_row = (
            inf if last or not len(waiting) else float(first_pixels(waiting.geometry)[1].max())
        )
        _fill_outlines(waiting.geometry, outlines, tolerance_px, distance, next_row)
        missing = np.flatnonzero(shapely.is_missing(outlines))
        ready = np.arange(len(waiting)) < (missing[0] if len(missing) else len(waiting))
        yield waiting.take(ready), outlines[ready]
        waiting, outlines = waiting.take(~ready), outlines[~ready]


def _fill_outlines(
    geometry: Polygons, outlines: Polygons, tolerance_px: float, distance: float, next_row: float
) -> None:
    """Fill in missing outlines of groups of neighbours that no later object can be near to."""
    missing = np.flatnonzero(shapely.is_missing(outlines))
    shapes = geometry[missing]
    links = shapely.STRtree(shapes).query(shapes, predicate="dwithin", distance=distance)
    bottom = shapely.bounds(shapes)[:, 3]
    for group in connected_groups(len(shapes), links):
        if bottom[group].max() + distance < next_row:
            outlines[missing[group]] = _simplify(shapes[group], tolerance_px)


def _simplify(shapes: Polygons, tolerance_px: float) -> Polygons:
    # With a vertex at every pixel's corner, borders that shapes share have the same vertices.
    simple = shapely.coverage_simplify(shapely.segmentize(shapes, 1.0), tolerance_px)
    deviation = shapely.hausdorff_distance(simple, shapes, densify=0.25)
    if (deviation > MAX_DEVIATION * tolerance_px).any() or not shapely.is_valid(simple).all():
        return shapes
    return np.asarray(shapely.normalize(simple), object)
