"""``capecam evaluate OUT --reviews``: what the verdicts of people say about a run.

They say how many of the detections that were looked at are right. They do not say how good the map
is: the queue leads to what is most likely wrong, so that its share of right detections is far below
that of the map. A total needs a sample (``capecam estimate``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from capecam.analysis.result_folder import result_folder
from capecam.analysis.review.estimation import wilson_interval
from capecam.analysis.review.review_file import Review, ReviewFile
from capecam.analysis.review.verdicts import (
    MatchedVerdicts,
    areas_m2,
    brief,
    detections_of,
    found_since,
    match_verdicts,
    one_per_detection,
)
from capecam.analysis.scoring import ALL, ratio
from capecam.runtime.files import write_json
from capecam.store.file_names import REVIEWS_JSON
from capecam.store.run_folder import RunFolder

QUEUE, SAMPLE = ORIGINS = ("queue", "sample")
"""Ways to a verdict: the review queue or chance, and a block of a sample."""

Z_95 = 1.959964
"""Quantile .975 of the normal distribution."""

CAUTION = (
    "These are counts of what was looked at, and no estimate for the city: the queue begins with "
    "what is most likely wrong. capecam estimate says what a sample says about all of it."
)

UNMATCHED = ["row", "id", "class", "verdict", "true_class", "block", "iou", "reason"]
DISPUTED = ["row", "id", "class", "verdict", "true_class", "block", "reviewer", "checked_at"]

SHOWN = 10
"""Number of rows of a list on the terminal; all of them are in the JSON."""


@dataclass(frozen=True, slots=True)
class ClassVerdicts:
    """Verdicts on the detections of a class, or of all classes together."""

    name: str
    right: int
    other_class: int
    """Wrong, and an object of another class."""
    no_object: int
    """Wrong, and no object of any class."""

    @property
    def looked_at(self) -> int:
        """Return the number of detections with a verdict."""
        return self.right + self.other_class + self.no_object

    @property
    def precision(self) -> float | None:
        """Return the share of right detections among those looked at."""
        return ratio(self.right, self.looked_at)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % interval of the precision of detections that are chosen alike."""
        return wilson(self.right, self.looked_at)

    def to_json(self) -> dict[str, Any]:
        """Return the counts and the share."""
        return {
            "class": self.name,
            "looked_at": self.looked_at,
            "right": self.right,
            "wrong": self.looked_at - self.right,
            "other_class": self.other_class,
            "no_object": self.no_object,
            "precision": self.precision,
            "interval_95": self.interval,
        }


def wilson(part: int, whole: int) -> tuple[float, float] | None:
    """Return the 95 % interval of a proportion by :func:`wilson_interval`; None of none.

    The detections count as independent.
    """
    if not whole:
        return None
    share, number = np.array([part / whole]), np.array([float(whole)])
    low, high = wilson_interval(share, number, np.array([Z_95]))
    return float(low[0]), float(high[0])


@dataclass(frozen=True, slots=True, eq=False)
class ReviewScores:
    """Result of ``capecam evaluate OUT --reviews``."""

    found: Path
    """Folder of the run."""
    reviews: Path
    names: tuple[str, ...]
    """Classes, 0 first."""
    detections: NDArray[np.int64]
    """(C,) detections of the run by class."""
    not_yet: int
    """Rows without a verdict."""
    classes: tuple[ClassVerdicts, ...]
    """Counts of all that was looked at, by class; the last is of all classes together."""
    by_origin: Mapping[str, tuple[ClassVerdicts, ...]]
    missed: pd.DataFrame
    """``class_id``, ``m2`` and ``found_since`` of what people say is missing."""
    confusion: NDArray[np.int64]
    """(C, C) true class by class of the detection; row 0: no object, column 0: missed."""
    unmatched: list[dict[str, Any]]
    disputed: list[dict[str, Any]]
    blocks: tuple[int, int]
    """Blocks of the sample, and those of them that are done."""

    def to_json(self) -> dict[str, Any]:
        """Return the result of ``--json`` and reviews.json; undefined values are None."""
        labels = ["(nothing)", *self.names[1:]]
        return {
            "found": str(self.found),
            "reviews": str(self.reviews),
            "caution": CAUTION,
            "detections": int(self.detections.sum()),
            "not_yet": self.not_yet,
            "classes": [
                {**entry.to_json(), **self._missed(class_id)}
                for class_id, entry in zip(self._class_ids, self.classes, strict=True)
            ],
            "origins": {
                origin: [entry.to_json() for entry in entries]
                for origin, entries in self.by_origin.items()
            },
            "confusion": {
                label: dict(zip(labels, row, strict=True))
                for label, row in zip(labels, self.confusion.tolist(), strict=True)
            },
            "sample": {"blocks": self.blocks[0], "done": self.blocks[1]},
            "unmatched": self.unmatched,
            "disputed": self.disputed,
        }

    @property
    def _class_ids(self) -> tuple[int, ...]:
        return (*range(1, len(self.names)), 0)

    def _missed(self, class_id: int) -> dict[str, Any]:
        """Return what is missing of a class; class 0 means all."""
        own = self.missed[(self.missed["class_id"] == class_id) | (class_id == 0)]
        still = own[~own["found_since"]]
        return {
            "detections": int(self.detections[class_id] if class_id else self.detections.sum()),
            "missed": len(still),
            "missed_m2": float(still["m2"].sum()),
            "found_since": int(own["found_since"].sum()),
        }

    def to_text(self) -> str:
        """Return the result as text."""
        table = pd.DataFrame([
            _row(entry, self._missed(class_id))
            for class_id, entry in zip(self._class_ids, self.classes, strict=True)
        ])  # fmt: skip
        labels = ["(nothing)", *self.names[1:]]
        confusion = pd.DataFrame(self.confusion, labels, labels)
        blocks, done = self.blocks
        lines = [
            f"{self.reviews}: {self.classes[-1].looked_at} of {self.detections.sum()} detections "
            f"looked at, {self.not_yet} in the file without a verdict"
            + (f"; {done} of {blocks} blocks of the sample done" if blocks else ""),
            table.to_string(index=False),
            *(_of_origin(name, entries[-1]) for name, entries in self.by_origin.items()),
            "in brackets: 95 % intervals, for detections that are chosen alike",
            "",
            "what they are (rows), by the class of the detection (columns):",
            confusion.to_string(),
            *_listed("verdicts without a detection, which stay in the file", self.unmatched,
                     "reason"),
            *_listed("verdicts that contradict each other, and do not count", self.disputed,
                     "verdict"),
            "",
            CAUTION,
        ]  # fmt: skip
        return "\n".join(lines)


def _row(entry: ClassVerdicts, missed: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "class": entry.name,
        "detections": missed["detections"],
        "looked at": entry.looked_at,
        "right": entry.right,
        "other class": entry.other_class,
        "no object": entry.no_object,
        "share right": _share(entry),
        "missed": missed["missed"],
        "missed m²": f"{missed['missed_m2']:,.1f}",
        "found since": missed["found_since"],
    }


def _share(entry: ClassVerdicts) -> str:
    if entry.precision is None or entry.interval is None:
        return "-"
    low, high = entry.interval
    return f"{entry.precision:.3f} [{low:.3f} {high:.3f}]"


def _of_origin(origin: str, entry: ClassVerdicts) -> str:
    return f"{origin}: {entry.right} of {entry.looked_at} right, {_share(entry)}"


def _listed(title: str, rows: Sequence[Mapping[str, Any]], what: str) -> list[str]:
    """Return lines about the first rows of a list; none if it is empty."""
    if not rows:
        return []
    lines = [
        f"  row {row['row']}, {row['id'] or row['class']} at {row['lon']},{row['lat']}: {row[what]}"
        for row in rows[:SHOWN]
    ]
    rest = len(rows) - len(lines)
    return ["", f"{len(rows)} {title}:", *lines, *([f"  and {rest} more (--json)"] if rest else [])]


def evaluate_reviews(out: Path, path: Path | None = None, to: Path | None = None) -> ReviewScores:
    """Count what the verdicts of people say about a run; the result is also saved as a file.

    Args:
        out: folder of the run.
        path: review file; None: ``review.gpkg`` in that folder.
        to: folder for ``reviews.json``; None: that of the run, if it can be written.

    Raises:
        OutputError: the folder holds no run.
        UsageError: the review file cannot be used.
    """
    run = RunFolder.open_finished(out)
    review = ReviewFile.of(run, path).read()
    scores = review_scores(out, review, detections_of(run), run.names)
    with result_folder(out, to) as folder:
        write_json(folder / REVIEWS_JSON, scores.to_json())
    return scores


def review_scores(
    out: Path, review: Review, detections: gpd.GeoDataFrame, names: tuple[str, ...]
) -> ReviewScores:
    """Count the verdicts of a review file.

    Args:
        out: folder of the run, for the result.
        review: content of the file.
        detections: detections of the run (:func:`detections_of`).
        names: classes, 0 first.
    """
    found = match_verdicts(review.verdicts, detections)
    distinct = one_per_detection(found.looked_at)
    since = found_since(review.missed, detections)
    missed = pd.DataFrame({
        "class_id": review.missed["class_id"].to_numpy(np.int64),
        "m2": areas_m2(review.missed, "m2"),
        "found_since": since,
    })  # fmt: skip
    class_ids = detections["class_id"].to_numpy(np.int64)
    confusion = np.zeros((len(names), len(names)), np.int64)
    now = class_ids[distinct.rows["detection"].to_numpy(np.intp)]
    np.add.at(confusion, (distinct.rows["truth_id"].to_numpy(np.intp), now), 1)
    np.add.at(confusion, (missed["class_id"][~since].to_numpy(np.intp), 0), 1)
    return ReviewScores(
        out,
        review.path,
        names,
        np.bincount(class_ids, minlength=len(names)),
        int((review.verdicts["verdict"] == "").sum()),
        _by_class(distinct.rows, class_ids, names),
        _by_origin(found, class_ids, names),
        missed,
        confusion,
        brief(found.unmatched, UNMATCHED),
        brief(distinct.disputed, DISPUTED),
        (len(review.sample), len(review.done_blocks())),
    )


def _by_origin(
    found: MatchedVerdicts, class_ids: NDArray[np.int64], names: Sequence[str]
) -> dict[str, tuple[ClassVerdicts, ...]]:
    rows = found.looked_at
    is_sampled = rows["block"] != ""
    parts = {QUEUE: rows[~is_sampled], SAMPLE: rows[is_sampled]}
    return {
        origin: _by_class(one_per_detection(part).rows, class_ids, names)
        for origin, part in parts.items()
    }


def _by_class(
    rows: gpd.GeoDataFrame, class_ids: NDArray[np.int64], names: Sequence[str]
) -> tuple[ClassVerdicts, ...]:
    """Return counts by the class of the detections, with those of all classes at the end."""
    now = class_ids[rows["detection"].to_numpy(np.intp)]
    right = rows["is_right"].to_numpy(np.bool_)
    other = ~right & (rows["truth_id"].to_numpy() > 0)
    counts = []
    for k in (*range(1, len(names)), 0):
        own = (now == k) | (k == 0)
        parts = (right & own, other & own, ~right & ~other & own)
        counts.append(ClassVerdicts(names[k] if k else ALL, *map(int, map(np.sum, parts))))
    return tuple(counts)
