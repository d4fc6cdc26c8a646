"""Figure of an audit: a summary, then one row per kind of map."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from capecam.analysis.audit.block_maps import Heat
from capecam.analysis.audit.deletion_insertion import MARGINS_M
from capecam.analysis.audit.estimate import Estimate
from capecam.analysis.audit.measure import BASELINES, AuditMeasurement
from capecam.analysis.audit.summary import Audit, MethodAudit

DELETION, INSERTION, GREY, TRUE = "#d55e00", "#0072b2", "#777777", "#009e73"
"""Colours of Okabe and Ito 2008, distinguishable with colour blindness."""
LINES = dict(zip(BASELINES, ("--", ":"), strict=True))
BASELINE_TITLES = {"distance": "distance to the object", "random": "random order"}
VERDICTS = {True: (TRUE, "can be believed"), False: (DELETION, "cannot"), None: (GREY, "unclear")}
DPI = 150
QUARTILES = (25, 75)


def draw_figure(path: Path, audit: Audit, measurements: Sequence[AuditMeasurement]) -> None:
    """Draw the means with their intervals, curves with quartiles, and correlations as dots."""
    # Slow to import. Figure instead of pyplot, which keeps state and may need a display.
    from matplotlib.figure import Figure  # noqa: PLC0415

    rows = len(audit.methods)
    figure = Figure(figsize=(13, 4.6 + 2.9 * rows), layout="constrained")
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=(3.8, 2.9 * rows))[:, 0]
    summary, kept = top.subplots(1, 2, width_ratios=(1.7, 1))
    _summary(summary, audit)
    _kept(kept, measurements)
    axes = bottom.subplots(rows, 3, squeeze=False, width_ratios=(1.5, 1, 0.7))
    for m, method in enumerate(audit.methods):
        _curves(axes[m, 0], measurements, m, method)
        _randomization(axes[m, 1], method, np.stack([f.randomized[:, m] for f in measurements]))
        _shift(axes[m, 2], audit, m, measurements)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=3, fontsize=9)
    figure.suptitle(fill(f"{audit.conclusion} ({audit.detections} detections)", 110), fontsize=12)
    figure.savefig(path, dpi=DPI)


def _summary(axis: Any, audit: Audit) -> None:
    """Draw insertion minus deletion of every map and baseline with its interval."""
    orders = [*audit.methods, *audit.baselines]
    labels = [m.title for m in audit.methods] + [BASELINE_TITLES[b.method] for b in audit.baselines]
    for y, order in enumerate(orders):
        colour = VERDICTS[order.believed][0] if isinstance(order, MethodAudit) else "black"
        _interval(axis, y, order.insertion_minus_deletion, colour)
    for believed, (colour, label) in VERDICTS.items():
        if any(method.believed is believed for method in audit.methods):
            axis.plot([], [], "o", color=colour, label=label)
    axis.set_yticks(range(len(orders)), labels, fontsize=9)
    axis.set_ylim(len(orders) - 0.4, -0.8)
    axis.set_xlim(-1.02, 1.02)
    axis.axvline(0, color="black", linewidth=0.5)
    axis.grid(axis="x", color="#dddddd", linewidth=0.5)
    axis.set_xlabel("insertion minus deletion of the object's probability", fontsize=9)
    axis.set_title("Does the map find what the object's probability rests on?", fontsize=10)
    axis.legend(loc="best", fontsize=8)


def _interval(axis: Any, y: int, estimate: Estimate, colour: str) -> None:
    """Draw a mean as a dot with its interval."""
    if estimate.mean is None:
        return
    axis.plot(estimate.mean, y, "o", color=colour)
    if estimate.low is not None:
        axis.hlines(y, estimate.low, estimate.high, color=colour, linewidth=2)
    axis.annotate(f"{estimate.mean:+.2f}", (estimate.mean, y), (0, 5), fontsize=8, ha="center",
                  textcoords="offset points")  # fmt: skip


def _kept(axis: Any, measurements: Sequence[AuditMeasurement]) -> None:
    """Draw the object-kept curve, one line a detection and their mean."""
    kept = np.stack([m.kept for m in measurements])
    steps = np.arange(len(MARGINS_M))
    axis.plot(steps, kept.T, color=GREY, alpha=0.25, linewidth=0.8)
    axis.plot(steps, np.nanmean(kept, axis=0), "o-", color=INSERTION, linewidth=2)
    axis.set_xticks(steps, [f"{margin:g}" for margin in MARGINS_M])
    axis.set(ylim=(-0.02, max(1.1, min(2.0, float(np.nanmax(kept)) + 0.05))))
    axis.axhline(1, color="black", linewidth=0.5)
    axis.set_xlabel("metres around the object that are kept", fontsize=9)
    axis.set_ylabel("its probability (1: in the whole tile)", fontsize=9)
    axis.set_title("The object and a margin alone", fontsize=10)


def _curves(
    axis: Any, measurements: Sequence[AuditMeasurement], m: int, method: MethodAudit
) -> None:
    """Draw deletion and insertion by one map, and by the baselines in grey."""
    shares = np.mean([f.shares for f in measurements], axis=0) * 100
    count = measurements[0].deletion.shape[0] - len(BASELINES)
    for which, colour in (("deletion", DELETION), ("insertion", INSERTION)):
        values = np.stack([getattr(f, which) for f in measurements])  # (D, M + B, T)
        for b, name in enumerate(BASELINES):
            mean = np.nanmean(values[:, count + b], axis=0)
            axis.plot(shares, mean, LINES[name], color=colour, alpha=0.7, linewidth=1.2,
                      label=f"{which}, {BASELINE_TITLES[name]}")  # fmt: skip
        defined = values[~np.isnan(values[:, m]).any(axis=1), m]
        if not len(defined):
            continue
        lower, upper = np.percentile(defined, QUARTILES, axis=0)
        axis.fill_between(shares, lower, upper, color=colour, alpha=0.15, linewidth=0)
        axis.plot(shares, defined.mean(axis=0), color=colour, linewidth=2, label=which)
    axis.set(xlim=(0, shares[-1]), ylim=(-0.02, 1.02))
    axis.set_xlabel("removed, or inserted, share of the tile (%)", fontsize=9)
    axis.set_ylabel("probability (1: whole tile)", fontsize=9)
    title = f"{method.title}: insertion minus deletion {method.insertion_minus_deletion}"
    axis.set_title(f"{title}\ncompared with distance {method.above_distance}", fontsize=10)


def _randomization(axis: Any, method: MethodAudit, correlations: Heat) -> None:
    """Draw (D, stages) rank correlations."""
    _dots(axis, correlations)
    names = [fill(re.sub(r"[._]", " ", stage), width=12) for stage in method.randomised]
    axis.set_xticks(range(len(names)), names, fontsize=8)
    axis.set(ylim=(-1.05, 1.05))
    axis.set_ylabel("rank correlation", fontsize=9)
    axis.axhline(0, color="black", linewidth=0.5)
    axis.set_title("random weights from the top\ndown to ... (1: unchanged map)", fontsize=10)


def _shift(axis: Any, audit: Audit, m: int, measurements: Sequence[AuditMeasurement]) -> None:
    _dots(axis, np.array([(f.shift_correlation[m], f.shift_ratio[m]) for f in measurements]))
    axis.set_xticks((0, 1), ("correlation", "ratio of means\ninside"), fontsize=8)
    axis.set(ylim=(-1.05, 1.05))
    axis.axhline(0, color="black", linewidth=0.5)
    axis.set_title(f"tile shifted by {audit.shift_px} px\n(1: equal maps)", fontsize=10)


def _dots(axis: Any, points: Heat) -> None:
    """Draw each column of (D, N) as dots, spread sideways, with their mean."""
    count, columns = points.shape
    spread = np.linspace(-0.2, 0.2, count) if count > 1 else np.zeros(1)
    for k in range(columns):
        values = points[:, k]
        axis.plot(k + spread, values, "o", color=GREY, alpha=0.5, markersize=4)
        if not np.isnan(values).all():
            axis.hlines(np.nanmean(values), k - 0.3, k + 0.3, color=DELETION, linewidth=2)
    axis.set_xlim(-0.6, columns - 0.4)
