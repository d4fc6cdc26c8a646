"""One-to-one matching of polygons by overlap."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching

Indices = NDArray[np.intp]

DENSE = 1_000_000
"""Maximum number of entries of a dense cost matrix (8 MB)."""


def match(
    a: NDArray[Any], b: NDArray[Any], min_iou: float, *, most_pairs: bool = True
) -> tuple[Indices, Indices, NDArray[np.float64]]:
    """Match two sets of polygons by intersection over union (IoU).

    The assignment has the largest sum of IoU, by default among those with the most pairs. A greedy
    choice, best pair first, can end with fewer pairs and a smaller sum.

    Args:
        a: (N,) valid polygons.
        b: (M,) valid polygons in the same CRS.
        min_iou: minimum IoU of a pair; above 0.
        most_pairs: maximize the number of pairs first.

    Returns:
        Indices into ``a``, indices into ``b``, and the IoU of each pair, by index into ``a``.
    """
    i, j, iou = overlaps(a, b, min_iou)
    kept = assign(i, j, iou, most_pairs=most_pairs)
    return i[kept], j[kept], iou[kept]


def assign(i: Indices, j: Indices, iou: NDArray[np.float64], *, most_pairs: bool = True) -> Indices:
    """Return the indices of pairs of an optimal one-to-one assignment: see :func:`match`."""
    if not len(i):
        return np.empty(0, np.intp)
    count = i.max() + 1
    # One more pair outweighs any sum of IoUs.
    worth = 1 + iou / (len(i) + 1) if most_pairs else iou
    size = count + j.max() + 1
    links = coo_array((np.ones(len(i), np.int8), (i, j + count)), shape=(size, size))
    _, group = connected_components(links, directed=False)
    order = np.argsort(group[i], kind="stable")
    starts = np.flatnonzero(np.diff(group[i][order], prepend=-1))
    chosen = [
        edges if len(edges) == 1 else edges[_best(i[edges], j[edges], worth[edges])]
        for edges in np.split(order, starts[1:])
    ]
    return np.sort(np.concatenate(chosen))


def overlaps(
    a: NDArray[Any], b: NDArray[Any], min_iou: float
) -> tuple[Indices, Indices, NDArray[np.float64]]:
    """Return all pairs that overlap by at least ``min_iou``: indices into ``a`` and ``b``, IoU."""
    i, j = shapely.STRtree(b).query(a, predicate="intersects")
    common = shapely.area(shapely.intersection(a[i], b[j]))
    iou = common / (shapely.area(a[i]) + shapely.area(b[j]) - common)
    kept = (iou >= min_iou) & (common > 0)
    order = np.lexsort((j[kept], i[kept]))
    return i[kept][order], j[kept][order], iou[kept][order]


def _best(i: Indices, j: Indices, worth: NDArray[np.float64]) -> Indices:
    """Return the edges of an optimal assignment in a connected graph."""
    rows, row = np.unique(i, return_inverse=True)
    cols, col = np.unique(j, return_inverse=True)
    if len(rows) * len(cols) <= DENSE:
        gain = np.zeros((len(rows), len(cols)))
        gain[row, col] = worth
        taken = np.zeros(gain.shape, np.bool_)
        taken[linear_sum_assignment(gain, maximize=True)] = True
        return np.flatnonzero(taken[row, col])
    return _best_sparse(row, col, worth, (len(rows), len(cols)))


def _best_sparse(
    row: Indices, col: Indices, worth: NDArray[np.float64], shape: tuple[int, int]
) -> Indices:
    """Return the same with a sparse matrix, in which each row may also take a column of its own."""
    rows, cols = shape
    alone = np.arange(rows)
    nothing = 3.0  # more than any pair costs, and not 0, which would be no entry
    cost = np.concatenate([nothing - worth, np.full(rows, nothing)])
    ends = (np.concatenate([row, alone]), np.concatenate([col, cols + alone]))
    graph = coo_array((cost, ends), shape=(rows, cols + rows)).tocsr()
    partner = np.empty(rows, np.intp)
    first, second = min_weight_full_bipartite_matching(graph)
    partner[first] = second
    return np.flatnonzero(partner[row] == col)
