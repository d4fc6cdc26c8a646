"""``capecam calibrate``: how likely a detection is right, fitted to truth or reviews.

The numbers that are printed are of blocks that the fit has not seen; docs/method.md#right-or-wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyproj
from numpy.typing import NDArray

from capecam import __version__
from capecam.analysis.held_out import (
    BINS,
    MEASURES,
    Estimate,
    chance_error,
    scores,
)
from capecam.analysis.result_folder import result_folder
from capecam.analysis.review.fitting import (
    FOLDS,
    Ablation,
    Choice,
    Labelled,
    Trial,
    ablate,
    choose,
    fit,
    folds,
)
from capecam.analysis.review.labelled import (
    labelled_by_reviews,
    labelled_by_truth,
    labelled_data,
)
from capecam.analysis.scoring import Rules
from capecam.detections.confidence_calibration import (
    P_RIGHT,
    VERSION,
    ConfidenceCalibration,
    Origin,
    feature_names,
)
from capecam.detections.measurement import lonlat_bounds
from capecam.detections.object_columns import OBJECT_COLUMNS
from capecam.detections.signals import SIGNALS
from capecam.errors import UsageError
from capecam.run.text_table import text_table
from capecam.settings import Settings
from capecam.store.file_names import P_RIGHT_JSON
from capecam.store.run_folder import RunFolder

MIN_OBJECTS = 100
"""About what a calibration takes where image and network are the same."""

MIN_OF_A_KIND = 10
"""Fewest right ones, and fewest wrong ones: two in each fold."""

FEWEST_BLOCKS = 10
"""Two in each fold; a place with fewer cannot say how it is elsewhere."""


@dataclass(frozen=True, slots=True)
class CalibrationRequest:
    """Labels, and where the result goes."""

    out: Path
    """Folder of a run."""
    truth: Path | None = None
    """Vector file of annotated polygons; None: reviews are read."""
    area: Path | None = None
    """Vector file of the annotated area; None: all that was mapped."""
    reviews: Path | None = None
    """File of verdicts; None: that of the run."""
    rules: Rules = field(default_factory=Rules)
    settings: Settings = field(default_factory=Settings)
    """``truth`` names the columns of annotations."""
    to: Path | None = None
    """File to write; None: ``p_right.json`` in the folder of the run, if it can be written."""


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A calibration and what it is worth on blocks that it has not seen."""

    calibration: ConfidenceCalibration
    path: Path | None
    """File that it was written to."""
    block_m: float
    blocks: int
    before: dict[str, Estimate]
    """Scores of the confidence as it is."""
    base: dict[str, Estimate]
    """Held-out scores with confidence, area and class."""
    after: dict[str, Estimate]
    """Held-out scores of what the file has."""
    choice: Choice
    ablations: tuple[Ablation, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the result of ``--json``."""
        tree = self.calibration.to_json()
        return {"file": None if self.path is None else str(self.path), **tree}

    def to_text(self) -> str:
        """Return the result as text."""
        origin, signals = self.calibration.origin, self.calibration.signals
        tables = (self.before, self.base, self.after)
        worth = [
            (a.signal, str(a.added), str(a.removed), "used" if a.signal in signals else "left out")
            for a in self.ablations
        ]
        lines = [
            f"{origin.right + origin.wrong} labelled detections: {origin.right} right, "
            f"{origin.wrong} wrong; {FOLDS} folds of {self.blocks} blocks of {self.block_m:g} m",
            "",
            "scores of blocks that are held out, in brackets 95 % intervals (bootstrap of blocks):",
            text_table(
                ("", "confidence", "base", P_RIGHT),
                [(TITLES[name], *(str(table[name]) for table in tables)) for name in MEASURES],
            ),
            f"base: confidence, area and class; ECE: {BINS} bins of equal width, "
            f"{chance_error(self.choice.p):.3f} by chance if p_right were true",
            "",
            "gain of each signal in held-out log-loss, above 0 is better:",
            text_table(("signal", "added to the base", "added to all others", ""), worth),
            *map(_trial, self.choice.trials),
        ]
        if self.path is not None:
            lines.append(f"capecam run ... --calibrate-with {self.path} gives detections p_right")
        return "\n".join(lines)


def _trial(trial: Trial) -> str:
    """Return a sentence on candidates that were tried together."""
    if not trial.signals:
        return "no signal lowers the held-out log-loss by a standard error"
    verb = "used" if trial.pays else "not used"
    return f"{', '.join(trial.signals)}: {verb} (held-out gain in log-loss {trial.gain})"


TITLES = {
    "ece": "ECE",
    "brier": "Brier score",
    "log_loss": "log-loss",
    "auc": "AUC",
    "errors_first_tenth": "errors in the first tenth",
}


def calibrate(request: CalibrationRequest) -> Calibrated:
    """Fit the probability that a detection is right, judge it on held-out blocks, and write it.

    Raises:
        UsageError: a file cannot be used, or there are too few labelled detections.
        OutputError: the folder holds no run.
    """
    run = RunFolder.open_finished(request.out)
    if request.truth is None:
        iou, (table, right) = None, labelled_by_reviews(run, request.reviews)
    else:
        iou, rules = request.rules.min_iou, request.rules
        table, right = labelled_by_truth(run, request.truth, request.area, rules, request.settings)
    _check_number(right)
    return _save(calibration_of(run, table, right, iou=iou), run, request.to)


def calibration_of(
    run: RunFolder, table: gpd.GeoDataFrame, right: NDArray[np.bool_], *, iou: float | None
) -> Calibrated:
    """Fit and judge a calibration.

    Args:
        run: that has found the detections.
        table: N labelled detections, in metres.
        right: (N,)
        iou: minimum overlap with the truth; None for reviews.

    Raises:
        UsageError: they lie in too few blocks.
    """
    data, block_m = labelled_data(run, table, right)
    count = len(np.unique(data.block))
    if count < FEWEST_BLOCKS:
        raise UsageError(
            f"the labelled detections lie in only {count} blocks of {block_m:g} m, and at least "
            f"{FEWEST_BLOCKS} are needed; label some in other places"
        )
    choice = choose(data, groups(data))
    before, base, after = (
        scores(p, right, data.block)
        for p in (table["confidence"].to_numpy(np.float64), choice.base, choice.p)
    )
    ablations, signals = tuple(ablate(data, folds(data))), choice.signals
    fitted = fit(data, signals, choice.strength)
    calibration = ConfidenceCalibration(
        capecam=__version__,
        version=VERSION,
        classes=run.names[1:],
        signals=signals,
        intercept=fitted.intercept,
        terms=fitted.terms(feature_names(run.names[1:], signals)),
        origin=_origin(run, right, iou),
        scores={
            "block_m": block_m,
            "blocks": count,
            "confidence": _tree(before),
            "base": _tree(base),
            "p_right": _tree(after),
            "ece_by_chance": chance_error(choice.p),
            "trials": [
                {"signals": list(t.signals), "gain": t.gain.to_json(), "pays": t.pays}
                for t in choice.trials
            ],
            "signals": {
                a.signal: {"added": a.added.to_json(), "removed": a.removed.to_json()}
                for a in ablations
            },
        },
    )
    return Calibrated(calibration, None, block_m, count, before, base, after, choice, ablations)


def _tree(estimates: dict[str, Estimate]) -> dict[str, Any]:
    return {name: estimate.to_json() for name, estimate in estimates.items()}


def _check_number(right: NDArray[np.bool_]) -> None:
    count, correct = len(right), int(right.sum())
    if count < MIN_OBJECTS:
        raise UsageError(
            f"only {count} detections are labelled, and at least {MIN_OBJECTS} are needed; label "
            "more of them"
        )
    for kind, number in (("right", correct), ("wrong", count - correct)):
        if number < MIN_OF_A_KIND:
            raise UsageError(
                f"only {number} of {count} labelled detections are {kind}, and at least "
                f"{MIN_OF_A_KIND} are needed; label more of them"
            )


def groups(data: Labelled) -> list[list[str]]:
    """Return the candidates in the order in which they are tried: explanations last, since they
    take the network."""
    return [[n for n in names if n in data.candidates] for names in (SIGNALS, OBJECT_COLUMNS)]


def _origin(run: RunFolder, right: NDArray[np.bool_], iou: float | None) -> Origin:
    correct = int(right.sum())
    return Origin(
        run=run.out.resolve().name,
        checkpoint=run.record.checkpoint.sha256,
        crs=pyproj.CRS.from_wkt(run.grid.crs).name,
        bounds=lonlat_bounds(run.grid),
        labels="reviews" if iou is None else "truth",
        iou=iou,
        right=correct,
        wrong=len(right) - correct,
    )


def _save(found: Calibrated, run: RunFolder, to: Path | None) -> Calibrated:
    """Write the file, and return the result with its path."""
    folder, name = (None, P_RIGHT_JSON) if to is None else (to.parent, to.name)
    path = None
    with result_folder(run.out, folder) as target:
        found.calibration.write(target / name)
        path = target / name
    return replace(found, path=path)
