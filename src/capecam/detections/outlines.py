"""Outlines of regions of pixels, from the corners of their boundaries.

Corners are the ends of the vertical edges of a boundary, (4, N) integers: region, side (0 for an
edge on the left of pixels, 1 on their right), x and y.
"""

from __future__ import annotations

import numpy as np
import shapely

from capecam.detections.pixel_runs import Runs
from capecam.detections.regions import Booleans, Integers, Polygons, components


def corners_of(
    runs: Runs, region: Integers, links: Integers, is_first: Booleans, is_last: Booleans
) -> Integers:
    """Return the corners of runs: where another run does not go straight on above or below them.

    Args:
        runs: N runs.
        region: (N,) their regions.
        links: (2, L) indices of runs that touch: upper, lower.
        is_first: (N,) True where the upper ends are left out.
        is_last: (N,) True where the lower ends are left out.
    """
    upper, lower = links
    corners = [np.empty((4, 0), np.int64)]
    for number, x in enumerate((runs.start, runs.stop)):
        is_straight = x[upper] == x[lower]
        tops, bottoms = ~is_first, ~is_last
        tops[lower[is_straight]] = bottoms[upper[is_straight]] = False
        for ends, y in ((tops, runs.row), (bottoms, runs.row + 1)):
            side = np.full(ends.sum(), number)
            corners.append(np.stack([region[ends], side, x[ends], y[ends]]))
    return np.concatenate(corners, axis=1)


def outlines(corners: Integers) -> Polygons:
    """Return (R,) valid polygons of 4-connected regions, normalized and without collinear vertices.

    Sorted along vertical lines, corners are the two ends of an edge each; left edges are directed
    down, right edges up. Sorted along horizontal lines, the boundary goes from the first to the
    second, from the third to the fourth, and so on. Where two pixels touch diagonally, the left
    edge comes first: thus the boundary turns around the background, and a hole that touches
    another one, or the outside, is a ring of its own, as a valid polygon requires.

    Args:
        corners: (4, N) all corners of regions 0..R-1.
    """
    region, side, x, y = corners = corners[:, np.lexsort(corners[::-1])]
    top, bottom = np.arange(len(x)).reshape(-1, 2).T
    ends = np.where(side[top], [bottom, top], [top, bottom])
    """(2, E) corners at which edges begin and end."""
    pairs = np.lexsort((side, x, y, region)).reshape(-1, 2)
    arrives = np.isin(np.arange(len(x)), ends[1], assume_unique=True)[pairs]
    following = np.empty(len(top), np.int64)
    following[pairs[arrives] // 2] = pairs[~arrives] // 2

    edges, ring = _rings(following)
    ends = ends[:, edges]
    vertices = np.stack([x, y], axis=1)[ends.T.reshape(-1)].astype(np.float64)
    rings = shapely.linearrings(vertices, indices=np.repeat(ring, 2))
    is_hole = np.bincount(ring, x[ends[0]] * (y[ends[1]] - y[ends[0]])) > 0
    owner = region[ends[0, np.unique(ring, return_index=True)[1]]]
    shells_first = np.lexsort((is_hole, owner))
    polygons = shapely.polygons(rings[shells_first], indices=owner[shells_first])
    return np.asarray(shapely.normalize(polygons), object)


def _rings(following: Integers) -> tuple[Integers, Integers]:
    """Return the nodes of closed chains in order, chain by chain, and the chain of each.

    The distance of every node from the last one of its chain is found by doubling.

    Args:
        following: (N,) the node after each; a permutation.
    """
    nodes = np.arange(len(following))
    ring = components(len(nodes), np.stack([nodes, following]))
    last = np.unique(ring, return_index=True)[1]
    ahead, distance = following.copy(), np.ones(len(nodes), np.int64)
    ahead[last], distance[last] = last, 0
    while not np.array_equal(ahead, last[ring]):
        distance += distance[ahead]
        ahead = ahead[ahead]
    order = np.lexsort((-distance, ring))
    return order, ring[order]
