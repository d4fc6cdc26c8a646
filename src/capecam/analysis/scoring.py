"""Scores of detected objects against annotations, by class, with confidence intervals.

Objects are matched one to one. Files and areas are handled by ``evaluation``.
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
"""Edge of the squares that the bootstrap resamples: objects of a house or street are dependent."""

DRAWS = 1000
INTERVAL = (2.5, 97.5)
"""Percentiles of the 95 % interval."""

THRESHOLDS = tuple(round(0.05 * n, 2) for n in range(20))
"""Minimum confidences of the curve."""

ALL = "all classes"

Intervals = dict[str, tuple[float, float] | None]
"""95 % intervals of precision, recall and f1; None where they are undefined."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules of matching and scoring."""

    min_iou: float = 0.5
    """Minimum intersection over union of a pair."""
    seed: int = 0
    """Seed of the bootstrap."""

    def __post_init__(self) -> None:
        if not 0 < self.min_iou <= 1:
            raise UsageError(f"--iou must be above 0 and at most 1, got {self.min_iou}")


def ratio(part: float, whole: float) -> float | None:
    """Return a quotient, or None if the divisor is 0."""
    return float(part / whole) if whole else None


@dataclass(frozen=True, slots=True)
class Counts:
    """Number of true objects, found objects, and matched pairs."""

    true: int
    found: int
    matched: int

    @property
    def precision(self) -> float | None:
        """Return the share of found objects that are true."""
        return ratio(self.matched, self.found)

    @property
    def recall(self) -> float | None:
        """Return the share of true objects that were found."""
        return ratio(self.matched, self.true)

    @property
    def f1(self) -> float | None:
        """Return the harmonic mean of precision and recall."""
        return ratio(2 * self.matched, self.true + self.found)

    def to_json(self) -> dict[str, Any]:
        """Return the counts and quotients."""
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
    """Score of one class, or of all classes together."""

    name: str
    counts: Counts
    true_m2: float
    found_m2: float
    mean_iou: float | None
    """Mean over the pairs."""
    intervals: Intervals
    """95 % intervals of precision, recall and f1."""
    average_precision: float | None
    """Area under precision over recall as confidence falls; None without confidences."""
    curve: list[dict[str, Any]] = field(default_factory=list)
    """Counts and quotients by minimum ``confidence``."""

    def to_json(self) -> dict[str, Any]:
        """Return the entry of evaluation.json."""
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
    """Scores of two sets of objects, and their confusion matrix."""

    classes: tuple[ClassScore, ...]
    """Scores by class, in order; the last is of all classes together."""
    confusion: Integers
    """(C + 1, C + 1) pairs regardless of class, true by found; row and column 0: no partner."""
    right: NDArray[np.bool_]
    """(N,) True for found objects that have a partner of their class."""


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Candidate or matched pairs of true and found objects."""

    true: Integers
    found: Integers
    iou: Floats

    def take(self, chosen: NDArray[Any]) -> _Pairs:
        """Return the pairs of an index or mask."""
        return _Pairs(self.true[chosen], self.found[chosen], self.iou[chosen])

    def of_one_class(self, true: _Objects, found: _Objects) -> _Pairs:
        """Return the pairs whose objects have the same class."""
        return self.take(true.class_id[self.true] == found.class_id[self.found])

    def found_of(self, count: int) -> NDArray[np.bool_]:
        """Return (count,) True for found objects that are in a pair."""
        return np.isin(np.arange(count), self.found)

    def best(self) -> _Pairs:
        """Return the optimal one-to-one assignment."""
        return self.take(assign(self.true, self.found, self.iou))


@dataclass(frozen=True, slots=True)
class _Objects:
    """One of the two sets of objects."""

    class_id: Integers
    shapes: NDArray[np.object_]
    confidence: Floats | None
    """None unless it is known for all objects."""

    @classmethod
    def of(cls, table: gpd.GeoDataFrame) -> _Objects:
        """Return the objects of a table with ``class_id``, geometry and ``confidence``."""
        known = "confidence" in table and bool(table["confidence"].notna().all())
        return cls(
            table["class_id"].to_numpy(np.int64),
            np.asarray(table.geometry.to_numpy(), object),
            table["confidence"].to_numpy(np.float64) if known else None,
        )

    def are(self, class_id: int) -> NDArray[np.bool_]:
        """Return (N,) True for objects of a class; class 0 means any."""
        own: NDArray[np.bool_] = (self.class_id == class_id) | (class_id == 0)
        return own

    def squares(self) -> Integers:
        """Return (N, 2) column and row of the square of each object's inside point."""
        points = shapely.get_coordinates(shapely.point_on_surface(self.shapes))
        return np.asarray(np.floor(points / BLOCK_M), np.int64)


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Two sets of objects, and their pairs within classes."""

    true: _Objects
    found: _Objects
    candidates: _Pairs
    """All pairs that overlap enough."""
    pairs: _Pairs
    """One-to-one pairs."""

    def counts(self, class_id: int) -> Counts:
        """Return the counts of a class; class 0 means all."""
        theirs, ours = self.true.are(class_id), self.found.are(class_id)
        return Counts(int(theirs.sum()), int(ours.sum()), int(theirs[self.pairs.true].sum()))

    def class_score(self, class_id: int, name: str, intervals: Intervals) -> ClassScore:
        """Return the score of a class; class 0 means all."""
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
        """Return scores by minimum confidence, with the objects matched again for each."""
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
        """Return the mean precision at matched objects by falling confidence; 0 at missed ones."""
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
        """Return (3, squares, classes) true, found and matched objects; class 0 means all.

        A pair is counted in the square of its true object.
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
    """Match objects one to one and score them.

    Args:
        true: ``class_id`` and polygons, in a CRS in metres.
        found: the same, with ``confidence`` if it is known.
        names: names of all classes, 0 first.
        rules: rules of matching.
    """
    theirs, ours = _Objects.of(true), _Objects.of(found)
    candidates = _Pairs(*overlaps(theirs.shapes, ours.shapes, rules.min_iou))
    same = candidates.of_one_class(theirs, ours)
    both = _Comparison(theirs, ours, same, same.best())
    squares = both.by_square(len(names))
    classes = [
        both.class_score(k, names[k] if k else ALL, _intervals(squares[:, :, k], rules.seed))
        for k in (*range(1, len(names)), 0)
    ]
    confusion = _confusion(theirs, ours, candidates.best(), len(names))
    return Score(tuple(classes), confusion, both.pairs.found_of(len(found)))


def is_right(true: gpd.GeoDataFrame, found: gpd.GeoDataFrame, min_iou: float) -> NDArray[np.bool_]:
    """Return (N,) True for found objects with a partner, one to one as ``capecam evaluate`` has it.

    Args:
        true: ``class_id`` and polygons.
        found: N rows of the same, in the same CRS.
        min_iou: minimum overlap of partners of one class.
    """
    theirs, ours = _Objects.of(true), _Objects.of(found)
    candidates = _Pairs(*overlaps(theirs.shapes, ours.shapes, min_iou))
    return candidates.of_one_class(theirs, ours).best().found_of(len(found))


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
    """Return bootstrap intervals from (3, squares) true, found and matched objects."""
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
