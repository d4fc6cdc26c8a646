"""What the findings amount to, by method: numbers, a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any, Self

import numpy as np
from scipy.stats import t as student

from capecam.analysis.audit.block_maps import Heat
from capecam.analysis.audit.deletion_insertion import MEASURES, areas
from capecam.analysis.audit.measure import AuditMeasurement

CONFIDENCE = 0.95
"""Of the intervals: Student's t over detections."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over detections, and how well it is known. None: not defined."""

    count: int
    """Detections at which it is defined."""
    mean: float | None
    low: float | None
    high: float | None
    """The 95 % interval of the mean; None for fewer than two."""

    @classmethod
    def of(cls, values: Heat) -> Self:
        """Of (D,) values; NaN is not defined."""
        defined = values[~np.isnan(values)]
        if not len(defined):
            return cls(0, None, None, None)
        middle = float(defined.mean())
        if len(defined) == 1:
            return cls(1, middle, None, None)
        error = float(defined.std(ddof=1)) / sqrt(len(defined))
        reach = float(student.ppf((1 + CONFIDENCE) / 2, len(defined) - 1)) * error
        return cls(len(defined), middle, middle - reach, middle + reach)

    def __str__(self) -> str:
        """As in the table."""
        if self.mean is None:
            return "-"
        if self.low is None or self.high is None:
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True, slots=True)
class Lead:
    """By how much the curve lies lower when the map's top goes first."""

    area: Estimate
    """Of the differences between the two areas."""
    share: float | None
    """Of the detections, those where it is lower at all."""

    @classmethod
    def of(cls, differences: Heat) -> Self:
        """Of (D,) differences; NaN is not defined."""
        defined = differences[~np.isnan(differences)]
        return cls(Estimate.of(differences), float((defined > 0).mean()) if len(defined) else None)

    def __str__(self) -> str:
        """As in the table."""
        return str(self.area) if self.share is None else f"{self.area}, in {100 * self.share:.0f} %"


@dataclass(frozen=True, slots=True)
class Effect:
    """What removing parts of tiles does to one measure."""

    highest: Estimate
    """Area under the curve, the map's top removed first (deletion)."""
    random: Estimate
    lowest: Estimate
    """Its bottom first, which is insertion read from its end."""
    below_random: Lead
    below_lowest: Lead

    @classmethod
    def of(cls, found: Heat) -> Self:
        """Of (D, 3) areas by detection and ``curves.ORDERS``."""
        highest, random, lowest = found.T
        return cls(
            Estimate.of(highest),
            Estimate.of(random),
            Estimate.of(lowest),
            Lead.of(random - highest),
            Lead.of(lowest - highest),
        )


@dataclass(frozen=True, slots=True)
class MethodAudit:
    """The three tests of one method."""

    method: str
    empty: int
    """Detections whose map is 0 everywhere: nothing can be tested there."""
    score: Effect
    """In parts of the range that the score takes at a detection."""
    confidence: Effect
    """Mean probability of the class inside the object."""
    randomised: dict[str, Estimate]
    """By stage: rank correlation of the maps before and after."""
    shift_correlation: Estimate
    shift_ratio: Estimate


@dataclass(frozen=True, slots=True)
class Audit:
    """Whether a run's explanations can be believed."""

    by_class: dict[str, int]
    """Detections that were examined."""
    skipped: dict[str, str]
    """By id of a detection: why it could not be."""
    seed: int
    score: str
    """What is explained: mean or predicted."""
    device: str
    precision: str
    tile_px: int
    block_px: int
    shift_px: int
    methods: tuple[MethodAudit, ...]

    def to_json(self) -> dict[str, Any]:
        """As kept in run.json."""
        return asdict(self)

    def rows(self) -> list[dict[str, Any]]:
        """A flat row a method, as in audit.csv."""
        total = sum(self.by_class.values())
        return [_flat({"detections": total, **asdict(method)}) for method in self.methods]

    def to_text(self) -> str:
        """Tables for people."""
        by_class = ", ".join(f"{count} {name}" for name, count in self.by_class.items() if count)
        left_out = [f"{name} was left out: {why}" for name, why in self.skipped.items()]
        head = f"{sum(self.by_class.values())} detections ({by_class}), score {self.score}"
        key = "means [95 % intervals]; in how many of the detections the curve is lower at all"
        return "\n".join([head, *left_out, key, *map(self._table, COLUMNS)])

    def _table(self, title: str) -> str:
        rows = [(m.method, COLUMNS[title](m)) for m in self.methods]
        first = max(len(name) for name, _ in rows)
        widths = {
            column: max(len(column), *(len(cells[column]) for _, cells in rows))
            for column in rows[0][1]
        }
        headed = [("", {column: column for column in widths}), *rows]
        lines = (
            f"{name:<{first}}" + "".join(f"  {cells[c]:<{w}}" for c, w in widths.items())
            for name, cells in headed
        )
        return "\n".join(["", title, *map(str.rstrip, lines)])


COLUMNS: dict[str, Callable[[MethodAudit], dict[str, str]]] = {
    "what the map ranks highest goes first: how much lower the score (in parts of its range)": (
        lambda method: _leads(method.score)
    ),
    "the same for the object's confidence": lambda method: _leads(method.confidence),
    "rank correlation with the map of a network randomised from the top down to": (
        lambda method: {stage: str(found) for stage, found in method.randomised.items()}
    ),
    "the same object in shifted tiles (1: the same map)": lambda method: {
        "correlation": str(method.shift_correlation),
        "ratio of means inside": str(method.shift_ratio),
        "empty maps": str(method.empty),
    },
}
"""By title of a table, what is in the row of a method."""


def _leads(effect: Effect) -> dict[str, str]:
    return {
        "than in random order": str(effect.below_random),
        "than lowest first": str(effect.below_lowest),
    }


def summarise(
    findings: Sequence[AuditMeasurement], methods: Sequence[str], stages: Sequence[str]
) -> tuple[MethodAudit, ...]:
    """The findings of at least one detection, by method."""
    area = np.stack([areas(f.shares, f.curves) for f in findings])  # (D, M, 3, 2)
    randomised = np.stack([f.randomised for f in findings])  # (D, stages, M)
    correlation = np.stack([f.shift_correlation for f in findings])  # (D, M)
    ratio = np.stack([f.shift_ratio for f in findings])
    empty = np.stack([f.empty for f in findings]).sum(axis=0)
    return tuple(
        MethodAudit(
            method,
            int(empty[m]),
            Effect.of(area[:, m, :, 0]),
            Effect.of(area[:, m, :, 1]),
            {stage: Estimate.of(randomised[:, k, m]) for k, stage in enumerate(stages)},
            Estimate.of(correlation[:, m]),
            Estimate.of(ratio[:, m]),
        )
        for m, method in enumerate(methods)
    )


def details(audit: Audit, findings: Sequence[AuditMeasurement]) -> list[dict[str, Any]]:
    """What was found at each detection, by method, as in audit.json."""
    return [
        {"id": finding.id, "class_id": finding.class_id}
        | {method.method: _detail(finding, m, method) for m, method in enumerate(audit.methods)}
        for finding in findings
    ]


def _detail(finding: AuditMeasurement, m: int, method: MethodAudit) -> dict[str, Any]:
    highest, random, lowest = areas(finding.shares, finding.curves[m])
    found: dict[str, float] = {}
    for k, name in enumerate(MEASURES):
        found[f"{name}_below_random"] = random[k] - highest[k]
        found[f"{name}_below_lowest"] = lowest[k] - highest[k]
    for stage, likeness in zip(method.randomised, finding.randomised[:, m], strict=True):
        found[f"randomised_{stage}"] = likeness
    found["shift_correlation"] = finding.shift_correlation[m]
    found["shift_ratio"] = finding.shift_ratio[m]
    return {key: None if np.isnan(value) else float(value) for key, value in found.items()}


def _flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """A tree as one row; names of columns are joined with _."""
    row: dict[str, Any] = {}
    for key, value in tree.items():
        row |= _flat(value, f"{before}{key}_") if isinstance(value, dict) else {before + key: value}
    return row
