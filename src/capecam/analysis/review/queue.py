"""``capecam review OUT``: detections and places to look at, as rows of the review file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from capecam.analysis.review.review_file import ReviewFile
from capecam.analysis.review.verdicts import detections_of, match_verdicts
from capecam.detections.misses import find_misses
from capecam.store.file_names import MISSED, VERDICTS
from capecam.store.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class ReviewRows:
    """Result of ``capecam review``."""

    path: Path
    added: int
    not_yet: int
    """Rows without a verdict, with those that were added."""
    looked_at: int
    """Rows with a verdict."""
    top: int
    """Length of the part of the queue that was asked for."""
    queue: int
    """Length of the whole queue."""
    what: str = "detection(s)"

    def to_json(self) -> dict[str, Any]:
        """Return the numbers."""
        return {
            "file": str(self.path),
            "added": self.added,
            "not_yet": self.not_yet,
            "looked_at": self.looked_at,
            "queue": self.queue,
        }

    def to_text(self) -> str:
        """Return a sentence, and what to do next."""
        text = (
            f"{self.path}: {self.added} {self.what} added; {self.not_yet} to be looked at, "
            f"{self.looked_at} looked at"
        )
        if self.added or self.top >= self.queue:
            return text
        return f"{text}; --top {2 * self.top} adds the next of the queue"


def add_queue(out: Path, top: int, path: Path | None = None) -> ReviewRows:
    """Add the first detections of the review queue that have no row yet to the review file.

    Args:
        out: folder of the run.
        top: number of detections at the head of the queue.
        path: review file, which is made if need be; None: ``review.gpkg`` in the folder.

    Raises:
        OutputError: the folder holds no run, or the file cannot be written.
        UsageError: the file is something else, or something in it is wrong.
    """
    run = RunFolder.open_finished(out)
    file, detections = ReviewFile.of(run, path), detections_of(run)
    review = file.read(if_any=True)
    ranks = pd.read_parquet(run.detections(), columns=["review"])["review"].to_numpy()
    taken = set(match_verdicts(review.verdicts, detections).matched["detection"])
    head = np.argsort(ranks, kind="stable")[:top]
    new = detections.iloc[[row for row in head.tolist() if row not in taken]]
    file.add({VERDICTS: rows_of(new)})
    filled = len(review.looked_at)
    not_yet = len(review.verdicts) - filled + len(new)
    return ReviewRows(file.path, len(new), not_yet, filled, top, len(detections))


def add_misses(out: Path, top: int, path: Path | None = None) -> ReviewRows:
    """Add the places where an object is most likely missed to the review file.

    Those that are in it, or touch what people drew there, are not added again.

    Args:
        out: folder of the run.
        top: number of places at the head of the queue.
        path: review file, which is made if need be; None: ``review.gpkg`` in the folder.

    Raises:
        OutputError: the folder holds no run, or the file cannot be written.
        UsageError: the file is something else, or something in it is wrong.
    """
    run = RunFolder.open_finished(out)
    file = ReviewFile.of(run, path)
    review, places = file.read(if_any=True), find_misses(run)
    there = pd.concat([review.missed.geometry, review.proposed.geometry]).to_numpy()
    taken, _ = shapely.STRtree(there).query(places.geometry, "intersects")
    head = places.drop(index=places.index[np.unique(taken)])
    new = head[head["review"] <= top].rename(columns={"area_m2": "m2"}).reset_index(drop=True)
    file.add({MISSED: new[["id", "class", "m2", "probability", "geometry"]]})
    is_open = review.proposed["verdict"] == ""
    not_yet, filled = int(is_open.sum()) + len(new), int((~is_open).sum())
    return ReviewRows(file.path, len(new), not_yet, filled, top, len(places), "place(s)")


def rows_of(detections: gpd.GeoDataFrame, block: str | None = None) -> gpd.GeoDataFrame:
    """Return detections as rows of the layer ``verdicts`` that are not yet looked at."""
    rows = detections[["id", "class", "geometry"]].reset_index(drop=True)
    return rows if block is None else rows.assign(block=block)
