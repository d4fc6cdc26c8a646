"""Detections that are known to be right or wrong: from annotations, or from verdicts of people."""

from __future__ import annotations

import logging
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from capecam.analysis.annotations import read_objects
from capecam.analysis.duplicates import without_repeated
from capecam.analysis.evaluation import compared_area, mapped_area, objects_within
from capecam.analysis.held_out import Floats, Integers, block_numbers
from capecam.analysis.review.fitting import Labelled
from capecam.analysis.review.review_file import ReviewFile
from capecam.analysis.review.verdicts import match_verdicts, one_per_detection
from capecam.analysis.scoring import BLOCK_M, Rules, is_right
from capecam.detections.confidence_calibration import CANDIDATES
from capecam.detections.measurement import metric_crs
from capecam.io.reprojection import reproject_table
from capecam.settings import Settings
from capecam.store.run_folder import RunFolder

log = logging.getLogger(__name__)

KNOWN = 0.5
"""Share of detections that must have a signal: explanations are often of a part of them."""

MIN_BLOCKS = 20
"""Blocks for which the intervals mean something. A place with fewer gets blocks of half the edge,
down to ``MIN_BLOCK_M``."""

MIN_BLOCK_M = 25.0
"""About a plot: what is on one roof stays in one block."""

Known = tuple[gpd.GeoDataFrame, NDArray[np.bool_]]
"""Detections of a run in a CRS in metres, and (N,) True for right ones."""


def labelled_by_truth(
    run: RunFolder, truth: Path, area: Path | None, rules: Rules, settings: Settings
) -> Known:
    """Match the detections in an area with annotations, as ``capecam evaluate`` does.

    Args:
        run: that has found the detections.
        truth: vector file of annotated polygons.
        area: vector file of the annotated area; None: all that was mapped.
        rules: minimum IoU of a match.
        settings: ``truth`` names the columns of annotations.

    Raises:
        UsageError: a file cannot be used.
    """
    found = gpd.read_parquet(run.detections())
    crs = metric_crs(found)
    found, mapped = reproject_table(found, crs), mapped_area(run, crs)
    true = read_objects(truth, run.names, settings.truth, crs, mapped)
    true = without_repeated(true, truth, "true objects")
    annotated = compared_area(area, mapped, crs, mapped)
    true, found = objects_within(true, annotated), objects_within(found, annotated)
    return found, is_right(true, found, rules.min_iou)


def labelled_by_reviews(run: RunFolder, path: Path | None) -> Known:
    """Match the detections with verdicts, of the queue and of samples alike.

    Args:
        run: that has found the detections.
        path: file of verdicts; None: that of the run.

    Raises:
        UsageError: it cannot be used.
    """
    found = gpd.read_parquet(run.detections())
    verdicts = match_verdicts(ReviewFile.of(run, path).read().verdicts, found)
    distinct = one_per_detection(verdicts.looked_at)
    for count, problem in (
        (len(verdicts.unmatched), "have no detection any more"),
        (len(distinct.disputed), "contradict each other"),
    ):
        if count:
            log.warning("%d verdict(s) %s and are left out", count, problem)
    rows = distinct.rows
    labelled = found.iloc[rows["detection"].to_numpy()]
    return reproject_table(labelled, metric_crs(found)), rows["is_right"].to_numpy(np.bool_)


def labelled_data(
    run: RunFolder, table: gpd.GeoDataFrame, right: NDArray[np.bool_]
) -> tuple[Labelled, float]:
    """Return labelled detections as a fit wants them, and the edge of their blocks in metres.

    Columns that most of the detections do not have are no candidates.
    """
    block_m, block = blocks(
        shapely.get_coordinates(shapely.point_on_surface(table.geometry.to_numpy()))
    )
    names = [name for name in CANDIDATES if name in table and table[name].notna().mean() > KNOWN]
    if not names:
        log.warning("%s: has no signals, which capecam finish measures", run.out)
    plain = pd.DataFrame(table.drop(columns="geometry"))
    return Labelled.of(plain, right, block, run.names[1:], names), block_m


def blocks(points: Floats) -> tuple[float, Integers]:
    """Return the edge of blocks in metres, and the (N,) block of (N, 2) points in metres."""
    edge = BLOCK_M
    while True:
        block = block_numbers(points, edge)
        if len(np.unique(block)) >= MIN_BLOCKS or edge <= MIN_BLOCK_M:
            return edge, block
        edge /= 2
