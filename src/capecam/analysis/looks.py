"""What is found in the first N looks, if people look in some order.

A queue is worth what it saves beside the simplest other orders, so it is shown with these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from capecam.analysis.held_out import QUEUE_SHARE, Bools, Estimate, Integers, scores

LOOKS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
"""Numbers of looks that are shown, below the number of objects."""

RANDOM = "random"

UNDEFINED = "-"


@dataclass(frozen=True, slots=True)
class OrderScore:
    """Errors that an order finds."""

    found: tuple[float, ...]
    """In the first looks; of a random order, the mean."""
    first_tenth: Estimate | None
    """Share of all errors in the first tenth of the objects; None where it is undefined."""
    auc: Estimate | None
    """Probability that an error comes before an object that is right; .5 is random."""

    def to_json(self) -> dict[str, Any]:
        """Return the entry of evaluation.json."""
        return {
            "found": list(self.found),
            "first_tenth": self.first_tenth.to_json() if self.first_tenth else None,
            "auc": self.auc.to_json() if self.auc else None,
        }


@dataclass(frozen=True, slots=True)
class QueueScore:
    """Errors found in the first looks of several orders."""

    objects: int
    errors: int
    looks: tuple[int, ...]
    orders: Mapping[str, OrderScore]

    def to_json(self) -> dict[str, Any]:
        """Return the entry of evaluation.json."""
        return {
            "objects": self.objects,
            "errors": self.errors,
            "looks": list(self.looks),
            "orders": {name: order.to_json() for name, order in self.orders.items()},
        }

    def to_text(self) -> str:
        """Return a row for each order."""
        rows = [
            {
                "order": name,
                **{
                    f"{look:,}": f"{n:.4g}" for look, n in zip(self.looks, order.found, strict=True)
                },
                "first tenth": _shown(order.first_tenth),
                "AUC": _shown(order.auc),
            }
            for name, order in self.orders.items()
        ]
        table = pd.DataFrame(rows)
        undefined = table.columns[(table == UNDEFINED).all()]
        return str(table.drop(columns=undefined).to_string(index=False))


def _shown(estimate: Estimate | None) -> str:
    if estimate is None:
        return UNDEFINED
    is_exact = estimate.low == estimate.high
    return f"{estimate.value:.3f}" if is_exact else str(estimate)


def score_orders(wrong: Bools, ranks: Mapping[str, Integers], block: Integers) -> QueueScore:
    """Score orders of looking at N objects, beside a random one.

    Args:
        wrong: (N,) True for an error.
        ranks: by order, (N,) ranks from 1.
        block: (N,) number of the block of ground of each object.
    """
    count, errors = len(wrong), int(wrong.sum())
    looks = _looks(count)
    orders = {name: _score(wrong, rank, looks, block) for name, rank in ranks.items()}
    at_random = tuple(errors * look / count for look in looks)
    tenth, half = (Estimate(x, x, x) if 0 < errors < count else None for x in (QUEUE_SHARE, 0.5))
    return QueueScore(count, errors, looks, {**orders, RANDOM: OrderScore(at_random, tenth, half)})


def _looks(count: int) -> tuple[int, ...]:
    return (*(look for look in LOOKS if look < count), *([count] if count else []))


def _score(wrong: Bools, rank: Integers, looks: tuple[int, ...], block: Integers) -> OrderScore:
    found = tuple(int(wrong[rank <= look].sum()) for look in looks)
    if wrong.all() or not wrong.any():
        return OrderScore(found, None, None)
    measured = scores(rank.astype(np.float64), ~wrong, block, ("errors_first_tenth", "auc"))
    return OrderScore(found, *measured.values())


def _chance(places: int, looks: int, count: int) -> float:
    """Return how likely random looks at some of all places see one of these places."""
    return 1 - prod(max(count - looks - n, 0) / (count - n) for n in range(places))


def score_misses(unseen: gpd.GeoSeries, places: gpd.GeoSeries, rank: Integers) -> QueueScore:
    """Score the queue of misses: objects without any detection that the first looks find.

    A look finds the objects that its place touches.

    Args:
        unseen: M true objects without a detection.
        places: N places in the same CRS.
        rank: (N,) ranks from 1.
    """
    objects, at = shapely.STRtree(places.to_numpy()).query(unseen.to_numpy(), "intersects")
    looks, count = _looks(len(places)), len(places)
    first = np.full(len(unseen), count + 1)
    np.minimum.at(first, objects, rank[at])
    touching = np.bincount(objects, minlength=len(unseen)).tolist()
    by_chance = [sum(_chance(k, look, count) for k in touching) for look in looks]
    orders = {
        "misses": OrderScore(tuple(int((first <= look).sum()) for look in looks), None, None),
        RANDOM: OrderScore(tuple(by_chance), None, None),
    }
    return QueueScore(count, len(unseen), looks, orders)
