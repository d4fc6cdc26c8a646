"""Outlines with fewer corners, for those who want them: neighbours never come to overlap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from math import inf

import numpy as np
import shapely

from capecam.detections.regions import Pieces, Polygons, components, first_pixels

STRAY = 4.0
"""By how many tolerances an outline may leave its pixels; one that would stays as it is. Corners
of a long, gentle curve go one after the other."""


def simplified(objects: Iterable[Pieces], tolerance_px: float) -> Iterator[tuple[Pieces, Polygons]]:
    """The same objects in the same order, each with its outline simplified.

    A corner goes if its triangle with its neighbours is smaller than the tolerance squared
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
    reach = 2 * STRAY * tolerance_px
    held, outlines = Pieces.concatenate([]), np.empty(0, object)
    for part, last in chain(((part, False) for part in objects), [(Pieces.concatenate([]), True)]):
        held = Pieces.concatenate([held, part])
        outlines = np.concatenate([outlines, np.full(len(part), None, object)])
        # No object that is still to come begins above this row.
        below = inf if last or not len(held) else float(first_pixels(held.geometry)[1].max())
        _simplify_whole(held.geometry, outlines, tolerance_px, reach, below)
        waiting = np.flatnonzero(shapely.is_missing(outlines))
        ready = np.arange(len(held)) < (waiting[0] if len(waiting) else len(held))
        yield held.take(ready), outlines[ready]
        held, outlines = held.take(~ready), outlines[~ready]


def _simplify_whole(
    geometry: Polygons, outlines: Polygons, tolerance_px: float, reach: float, below: float
) -> None:
    """Fill in the outlines of groups of neighbours that nothing below a row can touch."""
    todo = np.flatnonzero(shapely.is_missing(outlines))
    shapes = geometry[todo]
    a, b = shapely.STRtree(shapes).query(shapes, predicate="dwithin", distance=reach)
    bottom = shapely.bounds(shapes)[:, 3]
    for group in components(len(todo), zip(a.tolist(), b.tolist(), strict=True)):
        if bottom[group].max() + reach < below:
            outlines[todo[group]] = _simplify(shapes[group], tolerance_px)


def _simplify(shapes: Polygons, tolerance_px: float) -> Polygons:
    # With a vertex at every pixel's corner, borders that shapes share have the same vertices.
    simple = shapely.coverage_simplify(shapely.segmentize(shapes, 1.0), tolerance_px)
    strays = shapely.hausdorff_distance(simple, shapes, densify=0.25) > STRAY * tolerance_px
    if strays.any() or not shapely.is_valid(simple).all():
        return shapes
    return np.asarray(shapely.normalize(simple), object)
