"""Figure of an audit, with one row per method."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from capecam.analysis.audit.block_maps import Heat
from capecam.analysis.audit.deletion_insertion import MEASURES, ORDERS
from capecam.analysis.audit.measure import AuditMeasurement
from capecam.analysis.audit.summary import Audit, Effect, MethodAudit

COLOURS = {"highest": "#d55e00", "random": "#777777", "lowest": "#0072b2"}
"""Colours of Okabe and Ito 2008, distinguishable with colour blindness and in grey."""
LINES = {"highest": "-", "random": ":", "lowest": "--"}
LABELS = {
    "highest": "highest first (deletion)",
    "random": "random order",
    "lowest": "lowest first (insertion, reversed)",
}
AXES = {
    "score": "explained score, scaled to its range (0..1)",
    "confidence": "mean probability inside the object (0..1)",
}
DPI = 150
QUARTILES = (25, 75)


def draw_figure(path: Path, audit: Audit, measurements: Sequence[AuditMeasurement]) -> None:
    """Draw curves with their quartiles, and the correlations of every detection as dots."""
    # Slow to import. Figure instead of pyplot, which keeps state and may need a display.
    from matplotlib.figure import Figure  # noqa: PLC0415

    rows = len(audit.methods)
    figure = Figure(figsize=(15, 0.9 + 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, 4, squeeze=False, width_ratios=(1.15, 1.15, 1, 0.8))
    for m, method in enumerate(audit.methods):
        for k, measure in enumerate(MEASURES):
            _curves(axes[m, k], measurements, m, measure)
            axes[m, k].set_title(_title(method, measure), fontsize=10)
        _randomization(axes[m, 2], method, np.stack([f.randomized[:, m] for f in measurements]))
        _shift(axes[m, 3], audit, m, measurements)
    lines, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower left", ncols=3, fontsize=9)
    total = sum(audit.by_class.values())
    figure.suptitle(
        f"Faithfulness of the maps: {total} detections, score {audit.score}, tiles of "
        f"{audit.tile_px} px; lines are means, bands are interquartile ranges over detections",
        fontsize=12,
    )
    figure.savefig(path, dpi=DPI)


def _title(method: MethodAudit, measure: str) -> str:
    effect: Effect = getattr(method, measure)
    return f"{method.method}: {measure}\nbelow random by {effect.below_random}"


def _curves(axis: Any, measurements: Sequence[AuditMeasurement], m: int, measure: str) -> None:
    k = MEASURES.index(measure)
    defined = [f for f in measurements if not np.isnan(f.curves[m, ..., k]).any()]
    for n, order in enumerate(ORDERS if defined else ()):
        shares = np.mean([f.shares for f in defined], axis=0) * 100
        heights = np.stack([f.curves[m, n, :, k] for f in defined])
        lower, upper = np.percentile(heights, QUARTILES, axis=0)
        axis.fill_between(shares, lower, upper, color=COLOURS[order], alpha=0.15, linewidth=0)
        axis.plot(
            shares, heights.mean(axis=0), LINES[order], color=COLOURS[order], label=LABELS[order]
        )
    axis.set(xlim=(0, 100), ylim=(-0.02, 1.02))
    axis.set(xlabel="removed share of the tile (%)", ylabel=AXES[measure])


def _randomization(axis: Any, method: MethodAudit, correlations: Heat) -> None:
    """Draw (D, stages) rank correlations."""
    _dots(axis, correlations)
    names = [fill(re.sub(r"[._]", " ", stage), width=12) for stage in method.randomised]
    axis.set_xticks(range(len(names)), names, fontsize=8)
    axis.set(ylim=(-1.05, 1.05), ylabel="rank correlation with the map")
    axis.axhline(0, color="black", linewidth=0.5)
    axis.set_title("random weights from the top\ndown to ... (1: unchanged map)", fontsize=10)


def _shift(axis: Any, audit: Audit, m: int, measurements: Sequence[AuditMeasurement]) -> None:
    _dots(axis, np.array([(f.shift_correlation[m], f.shift_ratio[m]) for f in measurements]))
    axis.set_xticks((0, 1), ("correlation", "ratio of means\ninside"), fontsize=8)
    axis.set(ylim=(-1.05, 1.05), ylabel="agreement (1: equal maps)")
    axis.axhline(0, color="black", linewidth=0.5)
    axis.set_title(f"tile shifted diagonally by\n{audit.shift_px} px", fontsize=10)


def _dots(axis: Any, points: Heat) -> None:
    """Draw each column of (D, N) as dots, spread sideways, with their mean."""
    count, columns = points.shape
    spread = np.linspace(-0.2, 0.2, count) if count > 1 else np.zeros(1)
    for k in range(columns):
        values = points[:, k]
        axis.plot(k + spread, values, "o", color="#777777", alpha=0.5, markersize=4)
        if not np.isnan(values).all():
            axis.hlines(np.nanmean(values), k - 0.3, k + 0.3, color="#d55e00", linewidth=2)
    axis.set_xlim(-0.6, columns - 0.4)
