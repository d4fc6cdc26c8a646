"""Calibrated probabilities that detections are right (docs/method.md#right-or-wrong): ``p_right``.

A logistic model, which ``capecam calibrate`` fits and a run applies. The file is small JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy.special import expit, logit

from capecam.detections.object_columns import OBJECT_COLUMNS
from capecam.detections.signals import SIGNALS
from capecam.errors import UsageError
from capecam.store.records import JsonTree, Record, read_record

Floats = NDArray[np.float64]

P_RIGHT = "p_right"
"""Column of detections."""

VERSION: Literal[1] = 1
"""Version of the file, and of the features below."""

CANDIDATES = (*SIGNALS, *OBJECT_COLUMNS)
"""Columns that may be signals beside confidence, area and class."""

LOGIT_CONFIDENCE, LN_AREA, CLASS = "logit(confidence)", "ln(area_m2)", "class "
"""Names of the base features; that of a class begins with the last one."""

CERTAIN = 0.001
"""Confidences below it, and above 1 minus it, count as it: one level of the raster is 0.004."""

LEAST = 1 / 254
"""Added to probabilities before their logarithm is taken: one level of the raster."""

LOGARITHMS = ("soft_edge", "near_probability")
"""Signals whose logarithm is the feature: probabilities near 0 that differ by factors."""

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Term(Record):
    """One feature of the model: adds ``weight * (x - mean) / scale`` to the log-odds."""

    feature: str
    mean: Finite
    """Also taken where the feature is missing."""
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    weight: Finite


class Origin(Record):
    """The labelled detections that a calibration was fitted to."""

    run: str
    """Name of the run's folder."""
    checkpoint: str
    """sha256 of the network."""
    crs: str
    """Name of the CRS of the imagery."""
    bounds: tuple[float, float, float, float]
    """Left, bottom, right, top of the run in longitude and latitude."""
    labels: Literal["truth", "reviews"]
    iou: float | None = None
    """Minimum overlap of a match with the truth; None for reviews."""
    right: int
    wrong: int


class ConfidenceCalibration(Record):
    """A fitted model, as it is in the file."""

    capecam: str = ""
    """Version of capecam that fitted it."""
    version: Literal[1]
    classes: tuple[str, ...]
    """Names of the foreground classes, in order."""
    signals: tuple[str, ...]
    """Columns that it needs beside confidence, area and class."""
    intercept: Finite
    terms: tuple[Term, ...]
    origin: Origin
    scores: JsonTree = Field(default_factory=dict)
    """Held-out scores, as ``capecam calibrate --json`` has them."""

    @model_validator(mode="after")
    def _features_fit(self) -> Self:
        expected = feature_names(self.classes, self.signals)
        found = [term.feature for term in self.terms]
        if found != expected:
            raise ValueError(f"terms must be {', '.join(expected)}, found {', '.join(found)}")
        return self

    @property
    def needs_explanations(self) -> bool:
        """Whether it uses columns that only explained detections have."""
        return not set(self.signals).isdisjoint(OBJECT_COLUMNS)

    def p_right(self, table: pd.DataFrame) -> Floats:
        """Return (N,) probabilities of being right.

        Args:
            table: N detections, with ``class``, ``confidence``, ``area_m2`` and the signals.
        """
        mean, scale, weight = (
            np.array([getattr(term, name) for term in self.terms])
            for name in ("mean", "scale", "weight")
        )
        x = features(table, self.classes, self.signals)
        standard = np.where(np.isnan(x), 0.0, (x - mean) / scale)
        return np.asarray(expit(self.intercept + standard @ weight), np.float64)

    def check_classes(self, classes: Sequence[str], path: Path) -> None:
        """Check that a run has the same classes.

        Args:
            classes: names of the run's foreground classes, in order.
            path: file of the calibration, for the message.

        Raises:
            UsageError: it has others.
        """
        if tuple(classes) != self.classes:
            raise UsageError(
                f"{path}: was made for the classes {', '.join(self.classes)}, and the run has "
                f"{', '.join(classes)}; make one for this run with capecam calibrate"
            )

    def check_signals(self, columns: Sequence[str], path: Path) -> None:
        """Check that a run has the signals.

        Args:
            columns: that its detections have.
            path: file of the calibration, for the message.

        Raises:
            UsageError: some are missing.
        """
        missing = [name for name in self.signals if name not in columns]
        if missing:
            raise UsageError(
                f"{path}: needs {', '.join(missing)}, which the run does not measure for every "
                "detection; set objects.explain to all, or make another with capecam calibrate"
            )

    def difference(self, checkpoint: str, bounds: tuple[float, float, float, float]) -> str | None:
        """Return how a run differs from the one that it was fitted to, or None.

        Args:
            checkpoint: sha256 of the run's network.
            bounds: left, bottom, right, top of the run in longitude and latitude.
        """
        left, bottom, right, top = self.origin.bounds
        elsewhere = bounds[0] > right or bounds[2] < left or bounds[1] > top or bounds[3] < bottom
        parts = ["with another network"] if checkpoint != self.origin.checkpoint else []
        parts += ["in another place"] if elsewhere else []
        return " and ".join(parts) or None


def feature_names(classes: Sequence[str], signals: Sequence[str]) -> list[str]:
    """Return the names of the columns of :func:`features`."""
    return [LOGIT_CONFIDENCE, LN_AREA, *(f"{CLASS}{name}" for name in classes), *signals]


def features(table: pd.DataFrame, classes: Sequence[str], signals: Sequence[str]) -> Floats:
    """Return (N, F) features of detections, NaN where a signal is missing.

    Args:
        table: N detections, with ``class``, ``confidence``, ``area_m2`` and the signals.
        classes: names of the foreground classes.
        signals: columns, of ``CANDIDATES``.
    """
    confidence = table["confidence"].to_numpy(np.float64)
    columns = [
        logit(np.clip(confidence, CERTAIN, 1 - CERTAIN)),
        np.log(table["area_m2"].to_numpy(np.float64)),
        *((table["class"] == name).to_numpy(np.float64) for name in classes),
    ]
    for name in signals:
        values = table[name].to_numpy(np.float64)
        columns.append(np.log(values + LEAST) if name in LOGARITHMS else values)
    return np.stack(columns, axis=1)


def read_calibration(path: Path) -> ConfidenceCalibration:
    """Read a file of ``capecam calibrate``.

    Raises:
        UsageError: it cannot be read, or is none.
    """
    try:
        return read_record(path, ConfidenceCalibration)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path}: is no calibration of confidence ({str(error)[:200]}); make one with capecam "
            "calibrate"
        ) from error
