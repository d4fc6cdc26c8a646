"""Summary of an audit by method: estimates, rows and tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy.stats import t as student

from capecam.analysis.audit.block_maps import Heat
from capecam.analysis.audit.deletion_insertion import MEASURES, areas
from capecam.analysis.audit.measure import AuditMeasurement

CONFIDENCE = 0.95
"""Confidence level of the intervals (Student's t over detections)."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Mean over detections with its confidence interval; None is undefined."""

    count: int
    """Number of detections with a defined value."""
    mean: float | None
    low: float | None
    high: float | None
    """Upper end of the 95 % interval of the mean; None for fewer than two detections."""

    @classmethod
    def of(cls, values: Heat) -> Self:
        """Estimate the mean of (D,) values; NaN is undefined."""
        defined = values[~np.isnan(values)]
        if not len(defined):
            return cls(0, None, None, None)
        mean = float(defined.mean())
        if len(defined) == 1:
            return cls(1, mean, None, None)
        error = float(defined.std(ddof=1)) / sqrt(len(defined))
        half = float(student.ppf((1 + CONFIDENCE) / 2, len(defined) - 1)) * error
        return cls(len(defined), mean, mean - half, mean + half)

    def __str__(self) -> str:
        if self.mean is None:
            return "-"
        if self.low is None or self.high is None:
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True, slots=True)
class Margin:
    """Amount by which a curve is lower when the highest ranks are removed first."""

    area: Estimate
    """Mean difference between the two areas."""
    share: float | None
    """Share of the detections where the curve is lower."""

    @classmethod
    def of(cls, differences: Heat) -> Self:
        """Summarize (D,) differences; NaN is undefined."""
        defined = differences[~np.isnan(differences)]
        return cls(Estimate.of(differences), float((defined > 0).mean()) if len(defined) else None)

    def __str__(self) -> str:
        return str(self.area) if self.share is None else f"{self.area}, in {100 * self.share:.0f} %"


@dataclass(frozen=True, slots=True)
class Effect:
    """Effect of removing parts of tiles on one measure."""

    highest: Estimate
    """Area under the curve with the highest ranks removed first (deletion)."""
    random: Estimate
    lowest: Estimate
    """Area with the lowest ranks removed first (insertion read from its end)."""
    below_random: Margin
    below_lowest: Margin

    @classmethod
    def of(cls, areas: Heat) -> Self:
        """Summarize (D, 3) areas by detection and ``ORDERS``."""
        highest, random, lowest = areas.T
        return cls(
            Estimate.of(highest),
            Estimate.of(random),
            Estimate.of(lowest),
            Margin.of(random - highest),
            Margin.of(lowest - highest),
        )


@dataclass(frozen=True, slots=True)
class MethodAudit:
    """Results of one method in the three tests."""

    method: str
    empty: int
    """Number of detections whose map is 0 everywhere, which cannot be tested."""
    score: Effect
    """Effect on the score, scaled by its range at each detection."""
    confidence: Effect
    """Effect on the mean probability of the class inside the object."""
    randomised: dict[str, Estimate]
    """Rank correlation of the maps before and after randomization, by stage."""
    shift_correlation: Estimate
    shift_ratio: Estimate


@dataclass(frozen=True, slots=True)
class Audit:
    """Result of an audit."""

    by_class: dict[str, int]
    """Number of measured detections by name of the class."""
    skipped: dict[str, str]
    """Reasons why detections were skipped, by id."""
    seed: int
    score: str
    """Explained score: mean or predicted."""
    device: str
    precision: str
    tile_px: int
    block_px: int
    shift_px: int
    methods: tuple[MethodAudit, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the entry of run.json."""
        return asdict(self)

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of audit.csv, one per method."""
        total = sum(self.by_class.values())
        return [_flat({"detections": total, **asdict(method)}) for method in self.methods]

    def to_text(self) -> str:
        """Return tables for the terminal."""
        by_class = ", ".join(f"{count} {name}" for name, count in self.by_class.items() if count)
        lines = [
            f"{sum(self.by_class.values())} detections ({by_class}), score {self.score}",
            *(f"{name} was left out: {why}" for name, why in self.skipped.items()),
            "means [95 % intervals]; share of the detections where the curve is lower",
        ]
        for title, row in TABLES.items():
            rows = {method.method: row(method) for method in self.methods}
            lines += ["", title, pd.DataFrame.from_dict(rows, orient="index").to_string()]
        return "\n".join(lines)


def _margins(effect: Effect) -> dict[str, str]:
    return {
        "than in random order": str(effect.below_random),
        "than lowest first": str(effect.below_lowest),
    }


TABLES: dict[str, Callable[[MethodAudit], dict[str, str]]] = {
    "highest ranks removed first: decrease of the score (in parts of its range)": (
        lambda method: _margins(method.score)
    ),
    "highest ranks removed first: decrease of the object's confidence": (
        lambda method: _margins(method.confidence)
    ),
    "rank correlation with the map of a network randomized from the top down to": (
        lambda method: {stage: str(estimate) for stage, estimate in method.randomised.items()}
    ),
    "the same object in shifted tiles (1: equal maps)": lambda method: {
        "correlation": str(method.shift_correlation),
        "ratio of means inside": str(method.shift_ratio),
        "empty maps": str(method.empty),
    },
}
"""Rows of a method by title of the table."""


def summarize_methods(
    measurements: Sequence[AuditMeasurement], methods: Sequence[str], stages: Sequence[str]
) -> tuple[MethodAudit, ...]:
    """Summarize the measurements of at least one detection by method."""
    area = np.stack([areas(m.shares, m.curves) for m in measurements])  # (D, M, 3, 2)
    randomized = np.stack([m.randomized for m in measurements])  # (D, stages, M)
    correlation = np.stack([m.shift_correlation for m in measurements])  # (D, M)
    ratio = np.stack([m.shift_ratio for m in measurements])
    empty = np.stack([m.empty for m in measurements]).sum(axis=0)
    return tuple(
        MethodAudit(
            method,
            int(empty[m]),
            Effect.of(area[:, m, :, 0]),
            Effect.of(area[:, m, :, 1]),
            {stage: Estimate.of(randomized[:, k, m]) for k, stage in enumerate(stages)},
            Estimate.of(correlation[:, m]),
            Estimate.of(ratio[:, m]),
        )
        for m, method in enumerate(methods)
    )


def detection_results(
    audit: Audit, measurements: Sequence[AuditMeasurement]
) -> list[dict[str, object]]:
    """Return the results of every detection by method, as in audit.json."""
    return [
        {"id": measurement.id, "class_id": measurement.class_id}
        | {
            each.method: _method_result(measurement, m, each)
            for m, each in enumerate(audit.methods)
        }
        for measurement in measurements
    ]


def _method_result(
    measurement: AuditMeasurement, m: int, method: MethodAudit
) -> dict[str, float | None]:
    highest, random, lowest = areas(measurement.shares, measurement.curves[m])
    values: dict[str, float] = {}
    for k, name in enumerate(MEASURES):
        values[f"{name}_below_random"] = random[k] - highest[k]
        values[f"{name}_below_lowest"] = lowest[k] - highest[k]
    for stage, similarity in zip(method.randomised, measurement.randomized[:, m], strict=True):
        values[f"randomised_{stage}"] = similarity
    values["shift_correlation"] = measurement.shift_correlation[m]
    values["shift_ratio"] = measurement.shift_ratio[m]
    return {key: None if np.isnan(value) else float(value) for key, value in values.items()}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings in their order; keys are joined with _."""
    row: dict[str, Any] = {}
    for key, value in tree.items():
        row |= _flat(value, f"{prefix}{key}_") if isinstance(value, dict) else {prefix + key: value}
    return row
