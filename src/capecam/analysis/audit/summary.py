"""Summary of an audit by method: estimates, rows and tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from capecam.analysis.audit.block_maps import INTEGRATED_GRADIENTS, MAP_TITLES
from capecam.analysis.audit.conclusion import RULE, Rule, Verdict, conclude, judge
from capecam.analysis.audit.deletion_insertion import MARGINS_M, areas
from capecam.analysis.audit.estimate import Estimate
from capecam.analysis.audit.measure import BASELINES, AuditMeasurement


@dataclass(frozen=True, slots=True)
class OrderAudit:
    """Share of the object's probability that is left as blocks of its tile go, or come."""

    method: str
    deletion: Estimate
    """With the first blocks of the order removed; low if it is right."""
    insertion: Estimate
    """With these blocks alone; high if it is right."""
    insertion_minus_deletion: Estimate


@dataclass(frozen=True, slots=True)
class MethodAudit(OrderAudit):
    """Results of one kind of map in all tests."""

    title: str
    above_random: Estimate
    """Insertion minus deletion, minus that of random order at the same detections."""
    above_distance: Estimate
    randomised: dict[str, Estimate]
    """Rank correlation of the maps before and after randomization, by stage."""
    shift_correlation: Estimate
    shift_ratio: Estimate
    leak: Estimate
    """Share of the energy on other objects of the class, where there are any in the tile."""
    empty: int
    """Number of detections whose map is 0 everywhere, which cannot be tested."""
    seconds: float = field(compare=False)
    """Median time of one map on the machine of the audit."""
    believed: bool | None
    """True if the map can be believed about objects; None: the sample is too small to tell."""
    reason: str
    """A sentence on this."""


@dataclass(frozen=True, slots=True)
class Audit:
    """Result of an audit."""

    conclusion: str
    """Which maps can be believed about objects: one sentence."""
    by_class: dict[str, int]
    """Number of measured detections by name of the class."""
    skipped: dict[str, str]
    """Reasons why detections were skipped, by id."""
    seed: int
    score: str
    """Score that the maps of tiles explain: mean or predicted."""
    device: str
    precision: str
    tile_px: int
    block_px: int
    shift_px: int
    methods: tuple[MethodAudit, ...]
    baselines: tuple[OrderAudit, ...]
    kept: dict[str, Estimate]
    """Share of the object's probability that is left of it and a margin alone, by metres."""
    rule: Rule = RULE

    @property
    def detections(self) -> int:
        """Number of measured detections."""
        return sum(self.by_class.values())

    def to_json(self) -> dict[str, Any]:
        """Return the entry of run.json."""
        return asdict(self)

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of audit.csv, one per method and baseline."""
        entries = (*self.methods, *self.baselines)
        return [_flat({"detections": self.detections, **asdict(entry)}) for entry in entries]

    def to_text(self) -> str:
        """Return the conclusion, and tables for the terminal."""
        by_class = ", ".join(f"{count} {name}" for name, count in self.by_class.items() if count)
        kept = ", ".join(f"{margin} m: {left}" for margin, left in self.kept.items())
        tables = {
            title: {method.method: row(method) for method in self.methods}
            for title, row in TABLES.items()
        }
        tables[EFFECTS] |= {order.method: _effect(order) for order in self.baselines}
        lines = [
            self.conclusion,
            "",
            f"{self.detections} detections ({by_class}), score {self.score}; "
            "means [95 % intervals over detections]",
            *(f"{name} was left out: {why}" for name, why in self.skipped.items()),
        ]
        for title, rows in tables.items():
            lines += ["", title, pd.DataFrame.from_dict(rows, orient="index").to_string(na_rep="")]
        return "\n".join([*lines, "", f"probability left of the object and a margin alone: {kept}"])


def _effect(order: OrderAudit) -> dict[str, str]:
    return {
        "deletion": str(order.deletion),
        "insertion": str(order.insertion),
        "insertion - deletion": str(order.insertion_minus_deletion),
    }


EFFECTS = "probability of the object with the first tenth of the blocks removed, or alone"

TABLES: dict[str, Callable[[MethodAudit], dict[str, str]]] = {
    EFFECTS: lambda method: (
        _effect(method)
        | {
            "above random order": str(method.above_random),
            "above distance": str(method.above_distance),
        }
    ),
    "rank correlation with the map of a network randomized from the top down to": (
        lambda method: {stage: str(estimate) for stage, estimate in method.randomised.items()}
    ),
    "the same object in shifted tiles (1: equal maps), and the maps themselves": lambda method: {
        "correlation": str(method.shift_correlation),
        "ratio of means inside": str(method.shift_ratio),
        "on other objects": str(method.leak),
        "empty maps": str(method.empty),
        "seconds a map": f"{method.seconds:.2g}",
    },
}
"""Rows of a method by title of the table."""


def summarize(
    measurements: Sequence[AuditMeasurement], methods: Sequence[str], stages: Sequence[str]
) -> tuple[tuple[MethodAudit, ...], tuple[OrderAudit, ...]]:
    """Summarize the measurements of at least one detection by method, and by baseline."""
    deletion = np.stack([areas(m.shares, m.deletion) for m in measurements], axis=1)  # (M + B, D)
    insertion = np.stack([areas(m.shares, m.insertion) for m in measurements], axis=1)
    names = (*methods, *BASELINES)
    values = {n: (d, i, i - d) for n, d, i in zip(names, deletion, insertion, strict=True)}
    orders = {name: OrderAudit(name, *map(Estimate.of, values[name])) for name in names}
    random, distance = values["random"][2], values["distance"][2]
    audited = []
    for m, name in enumerate(methods):
        better = values[name][2]
        above = Estimate.of(better - random), Estimate.of(better - distance)
        audited.append(_summarize_method(measurements, m, orders[name], above, stages))
    return tuple(audited), tuple(orders[name] for name in BASELINES)


def _summarize_method(
    measurements: Sequence[AuditMeasurement],
    m: int,
    order: OrderAudit,
    above: tuple[Estimate, Estimate],
    stages: Sequence[str],
) -> MethodAudit:
    """Summarize the method of index m, given its curves and what it is above the baselines."""
    randomized = np.stack([each.randomized[:, m] for each in measurements], axis=1)
    by_stage = {s: Estimate.of(values) for s, values in zip(stages, randomized, strict=True)}
    verdict = judge(*above, next(iter(by_stage.values()), None))
    return MethodAudit(
        order.method,
        order.deletion,
        order.insertion,
        order.insertion_minus_deletion,
        MAP_TITLES[order.method],
        *above,
        by_stage,
        Estimate.of(np.array([each.shift_correlation[m] for each in measurements])),
        Estimate.of(np.array([each.shift_ratio[m] for each in measurements])),
        Estimate.of(np.array([each.leak[m] for each in measurements])),
        int(sum(each.empty[m] for each in measurements)),
        float(np.median([each.seconds[m] for each in measurements])),
        verdict.believed,
        verdict.reason,
    )


def summarize_kept(measurements: Sequence[AuditMeasurement]) -> dict[str, Estimate]:
    """Summarize the object-kept curve by margin in metres."""
    kept = np.stack([m.kept for m in measurements], axis=1)
    return {f"{m:g}": Estimate.of(values) for m, values in zip(MARGINS_M, kept, strict=True)}


def conclusion(methods: Sequence[MethodAudit], detections: int) -> str:
    """Return one sentence on which of a run's maps can be believed about objects.

    Integrated gradients are no map of a run, but a reference.
    """
    verdicts = {
        method.title: Verdict(method.believed, method.reason)
        for method in methods
        if method.method != INTEGRATED_GRADIENTS
    }
    return conclude(verdicts, detections)


def detection_results(
    audit: Audit, measurements: Sequence[AuditMeasurement]
) -> list[dict[str, object]]:
    """Return the results of every detection by method and baseline, as in audit.json."""
    results = []
    for each in measurements:
        methods = [_method_result(each, m, method) for m, method in enumerate(audit.methods)]
        rest = [_curve_result(each, len(methods) + b) for b in range(len(audit.baselines))]
        entries = zip((*audit.methods, *audit.baselines), methods + rest, strict=True)
        results.append(
            {"id": each.id, "class_id": each.class_id}
            | {"kept": dict(zip(audit.kept, map(_number, each.kept), strict=True))}
            | {entry.method: result for entry, result in entries}
        )
    return results


def _curve_result(measurement: AuditMeasurement, k: int) -> dict[str, float | None]:
    deletion, insertion = (
        float(areas(measurement.shares, curves[k]))
        for curves in (measurement.deletion, measurement.insertion)
    )
    return {
        "deletion": _number(deletion),
        "insertion": _number(insertion),
        "insertion_minus_deletion": _number(insertion - deletion),
    }


def _method_result(
    measurement: AuditMeasurement, m: int, method: MethodAudit
) -> dict[str, float | None]:
    randomized = zip(method.randomised, measurement.randomized[:, m], strict=True)
    return (
        _curve_result(measurement, m)
        | {f"randomised_{stage}": _number(similarity) for stage, similarity in randomized}
        | {
            "shift_correlation": _number(measurement.shift_correlation[m]),
            "shift_ratio": _number(measurement.shift_ratio[m]),
            "leak": _number(measurement.leak[m]),
        }
    )


def _number(value: float) -> float | None:
    """Return a number for JSON; None if it is undefined."""
    return None if np.isnan(value) else float(value)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings in their order; keys are joined with _."""
    row: dict[str, Any] = {}
    for key, value in tree.items():
        row |= _flat(value, f"{prefix}{key}_") if isinstance(value, dict) else {prefix + key: value}
    return row
