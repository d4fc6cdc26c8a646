"""How well objects were found: one to one against annotations, by class, with its uncertainty.

Objects in, numbers out; files and areas are the business of ``evaluate``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from capecam.analysis.matching import assign, overlaps
from capecam.errors import UsageError

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

BLOCK_M = 100.0
"""Squares that the bootstrap draws: objects of a house, and of one street, are not independent."""

DRAWS = 1000
INTERVAL = (2.5, 97.5)
"""Percentiles: 95 %."""

THRESHOLDS = tuple(round(0.05 * n, 2) for n in range(20))
"""Least confidences of the curve."""

ALL = "all classes"

Intervals = dict[str, tuple[float, float] | None]
"""95 % of precision, recall and f1; None where they are undefined."""


@dataclass(frozen=True, slots=True)
class Rules:
    """When two objects are one."""

    min_iou: float = 0.5
    """Intersection over union."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        if not 0 < self.min_iou <= 1:
            raise UsageError(f"--iou must be above 0 and at most 1, got {self.min_iou}")


def ratio(part: float, whole: float) -> float | None:
    """None where there is nothing to divide by."""
    return float(part / whole) if whole else None


@dataclass(frozen=True, slots=True)
class Counts:
    """True objects, found objects, and pairs of them."""

    true: int
    found: int
    matched: int

    @property
    def precision(self) -> float | None:
        """Share of what was found that is true."""
        return ratio(self.matched, self.found)

    @property
    def recall(self) -> float | None:
        """Share of what is true that was found."""
        return ratio(self.matched, self.true)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of the two."""
        return ratio(2 * self.matched, self.true + self.found)

    def to_json(self) -> dict[str, Any]:
        """Counts and quotients."""
        return {
            "true": self.true,
            "found": self.found,
            "matched": self.matched,
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
        }


@dataclass(frozen=True, slots=True)
class ClassScore:
    """Of one class, or of all together."""

    name: str
    counts: Counts
    true_m2: float
    found_m2: float
    mean_iou: float | None
    """Of the pairs."""
    intervals: Intervals
    """95 % of precision, recall and f1; None where they are undefined."""
    average_precision: float | None
    """Area under precision over recall as confidence falls; None without confidences."""
    curve: list[dict[str, Any]] = field(default_factory=list)
    """Counts and quotients by least ``confidence``."""

    def to_json(self) -> dict[str, Any]:
        """As in evaluation.json."""
        c = self.counts
        return {
            "class": self.name,
            **c.to_json(),
            "intervals_95": self.intervals,
            "count_error": c.found - c.true,
            "count_error_relative": ratio(c.found - c.true, c.true),
            "true_m2": self.true_m2,
            "found_m2": self.found_m2,
            "area_error_m2": self.found_m2 - self.true_m2,
            "area_error_relative": ratio(self.found_m2 - self.true_m2, self.true_m2),
            "mean_iou": self.mean_iou,
            "average_precision": self.average_precision,
            "curve": self.curve,
        }


@dataclass(frozen=True, slots=True)
class Score:
    """Everything about two sets of objects."""

    classes: tuple[ClassScore, ...]
    """In their order; the last is all together."""
    confusion: Integers
    """(C + 1, C + 1) pairs regardless of class: true by found; row and column 0 are nothing."""


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Which true object is, or could be, which found one."""

    true: Integers
    found: Integers
    iou: Floats

    def take(self, chosen: NDArray[Any]) -> _Pairs:
        """Those of an index or mask."""
        return _Pairs(self.true[chosen], self.found[chosen], self.iou[chosen])

    def best(self) -> _Pairs:
        """The optimal assignment."""
        return self.take(assign(self.true, self.found, self.iou))


@dataclass(frozen=True, slots=True)
class _Objects:
    """One of the two sets."""

    class_id: Integers
    shapes: NDArray[np.object_]
    confidence: Floats | None
    """None where it is not known of all."""

    @classmethod
    def of(cls, table: gpd.GeoDataFrame) -> _Objects:
        """From ``class_id``, the geometry, and ``confidence``."""
        known = "confidence" in table and bool(table["confidence"].notna().all())
        return cls(
            table["class_id"].to_numpy(np.int64),
            np.asarray(table.geometry.to_numpy(), object),
            table["confidence"].to_numpy(np.float64) if known else None,
        )

    def are(self, class_id: int) -> NDArray[np.bool_]:
        """(N,) whether they are of a class; 0 is any."""
        own: NDArray[np.bool_] = (self.class_id == class_id) | (class_id == 0)
        return own

    def squares(self) -> Integers:
        """(N, 2) column and row of the square that each object's inside point lies in."""
        points = shapely.get_coordinates(shapely.point_on_surface(self.shapes))
        return np.asarray(np.floor(points / BLOCK_M), np.int64)


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Two sets, and their pairs within classes."""

    true: _Objects
    found: _Objects
    candidates: _Pairs
    """All that overlap enough."""
    pairs: _Pairs
    """One to one."""

    def counts(self, class_id: int) -> Counts:
        """Of a class; 0 is all."""
        theirs, ours = self.true.are(class_id), self.found.are(class_id)
        return Counts(int(theirs.sum()), int(ours.sum()), int(theirs[self.pairs.true].sum()))

    def class_score(self, class_id: int, name: str, intervals: Intervals) -> ClassScore:
        """Of a class; 0 is all."""
        theirs, ours = self.true.are(class_id), self.found.are(class_id)
        iou = self.pairs.iou[theirs[self.pairs.true]]
        return ClassScore(
            name,
            self.counts(class_id),
            float(shapely.area(self.true.shapes[theirs]).sum()),
            float(shapely.area(self.found.shapes[ours]).sum()),
            float(iou.mean()) if len(iou) else None,
            intervals,
            self._average_precision(class_id),
            self._curve(class_id),
        )

    def _curve(self, class_id: int) -> list[dict[str, Any]]:
        """Scores of what is at least so confident, matched anew each time."""
        if self.found.confidence is None:
            return []
        theirs, ours, points = self.true.are(class_id), self.found.are(class_id), []
        for least in THRESHOLDS:
            sure = ours & (self.found.confidence >= least)
            left = self.candidates.take(
                theirs[self.candidates.true] & sure[self.candidates.found]
            ).best()
            counts = Counts(int(theirs.sum()), int(sure.sum()), len(left.iou))
            points.append({"confidence": least, **counts.to_json()})
        return points

    def _average_precision(self, class_id: int) -> float | None:
        """Mean precision at each true object that is found, as confidence falls; 0 at others."""
        ours, true = self.found.are(class_id), int(self.true.are(class_id).sum())
        if self.found.confidence is None or not true:
            return None
        hit = np.zeros(len(ours), np.bool_)
        hit[self.pairs.found] = True
        levels, level = np.unique(-self.found.confidence[ours], return_inverse=True)
        hits = np.cumsum(np.bincount(level, hit[ours], len(levels)))
        precision = hits / np.cumsum(np.bincount(level, minlength=len(levels)))
        return float((np.diff(hits, prepend=0) * precision).sum() / true)

    def by_square(self, classes: int) -> Integers:
        """(3, squares, classes) true, found and matched objects; class 0 is all.

        A pair counts in the square of its true object.
        """
        places = np.concatenate([self.true.squares(), self.found.squares()])
        _, square = np.unique(places, axis=0, return_inverse=True)
        theirs, ours = np.split(square.astype(np.int64), [len(self.true.class_id)])
        ours[self.pairs.found] = theirs[self.pairs.true]
        counts = np.zeros((3, int(square.max(initial=-1)) + 1, classes), np.int64)
        np.add.at(counts[0], (theirs, self.true.class_id), 1)
        np.add.at(counts[1], (ours, self.found.class_id), 1)
        matched = self.pairs.true
        np.add.at(counts[2], (theirs[matched], self.true.class_id[matched]), 1)
        counts[:, :, 0] = counts.sum(axis=2)
        return counts


def score(
    true: gpd.GeoDataFrame, found: gpd.GeoDataFrame, names: Sequence[str], rules: Rules
) -> Score:
    """Match objects one to one and count.

    Args:
        true: ``class_id`` and polygons, in a CRS in metres.
        found: the same, and ``confidence`` if there is one.
        names: of all classes, 0 first.
        rules: when two objects are one.
    """
    theirs, ours = _Objects.of(true), _Objects.of(found)
    candidates = _Pairs(*overlaps(theirs.shapes, ours.shapes, rules.min_iou))
    same = candidates.take(theirs.class_id[candidates.true] == ours.class_id[candidates.found])
    both = _Comparison(theirs, ours, same, same.best())
    squares = both.by_square(len(names))
    classes = [
        both.class_score(k, names[k] if k else ALL, _intervals(squares[:, :, k], rules.seed))
        for k in (*range(1, len(names)), 0)
    ]
    return Score(tuple(classes), _confusion(theirs, ours, candidates.best(), len(names)))


def _confusion(true: _Objects, found: _Objects, pairs: _Pairs, classes: int) -> Integers:
    table = np.zeros((classes, classes), np.int64)
    missed, wrong = (
        np.delete(side.class_id, own) for side, own in ((true, pairs.true), (found, pairs.found))
    )
    np.add.at(table, (true.class_id[pairs.true], found.class_id[pairs.found]), 1)
    np.add.at(table, (missed, np.zeros_like(missed)), 1)
    np.add.at(table, (np.zeros_like(wrong), wrong), 1)
    return table


def _intervals(counts: Integers, seed: int) -> Intervals:
    """By bootstrap: squares of (3, squares) true, found and matched objects are drawn anew."""
    squares = counts.shape[1]
    rng = np.random.default_rng(seed)
    drawn = np.zeros((DRAWS, 3))
    for draw in range(DRAWS if squares else 0):
        drawn[draw] = counts[:, rng.integers(0, squares, squares)].sum(axis=1)
    true, found, matched = drawn.T
    quotients = {
        "precision": (matched, found),
        "recall": (matched, true),
        "f1": (2 * matched, true + found),
    }
    return {name: _percentiles(*quotient) for name, quotient in quotients.items()}


def _percentiles(part: Floats, whole: Floats) -> tuple[float, float] | None:
    defined = whole > 0
    if not defined.any():
        return None
    low, high = np.percentile(part[defined] / whole[defined], INTERVAL)
    return float(low), float(high)
