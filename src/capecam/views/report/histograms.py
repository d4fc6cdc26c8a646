"""Histograms as bars in shares of the chart's width and height, for the template to draw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PER_DECADE = 8
"""Number of bars per power of ten of m²."""

STEPS = 20
"""Number of bars of confidence, from 0 to 1."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class HistogramBar:
    """Bar of a histogram."""

    x: float
    """Left edge, as a share of the axis."""
    width: float
    height: float
    """Height as a share of the highest bar."""
    count: int
    label: str
    """Range of its values."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Distribution of values."""

    bars: tuple[HistogramBar, ...]
    ticks: tuple[tuple[float, str], ...]
    """Position as a share of the axis, and label."""
    top: int
    """Count of the highest bar."""
    quartiles: tuple[float, float, float] | None
    """25th, 50th and 75th percentile; None without values."""
    median: float | None
    """Position of the median as a share of the axis."""


def sizes(values: Floats, low: float, high: float) -> Histogram:
    """Return the histogram of areas on a logarithmic axis.

    Args:
        values: (N,) m².
        low: minimum over all classes, so that their charts can be compared.
        high: maximum over all classes.
    """
    first = np.floor(np.log10(max(low, 1e-3)) * PER_DECADE + 1e-9)
    last = np.floor(np.log10(max(high, low, 1e-3)) * PER_DECADE + 1e-9) + 1
    edges = 10 ** (np.arange(first, last + 1) / PER_DECADE)
    axis = np.log10(edges[[0, -1]])
    ticks = [
        (float((np.log10(value) - axis[0]) / (axis[1] - axis[0])), f"{value:g}")
        for power in range(-3, 7)
        for value in (10.0**power, 2 * 10.0**power, 5 * 10.0**power)
        if edges[0] <= value <= edges[-1]
    ]
    return _histogram(values, edges, np.log10(edges), ticks, "{:.3g} to {:.3g} m²")


def confidences(values: Floats) -> Histogram:
    """Return the histogram of confidences, from 0 to 1."""
    edges = np.linspace(0, 1, STEPS + 1)
    ticks = [(value, f"{value:g}") for value in (0.0, 0.25, 0.5, 0.75, 1.0)]
    return _histogram(values, edges, edges, ticks, "{:.2f} to {:.2f}")


def _histogram(
    values: Floats, edges: Floats, positions: Floats, ticks: list[tuple[float, str]], label: str
) -> Histogram:
    """Return the histogram with bars between edges, which are drawn at positions on the axis."""
    counts, _ = np.histogram(values, edges)
    top = int(counts.max(initial=0))
    shares = (positions - positions[0]) / (positions[-1] - positions[0])
    bars = [
        HistogramBar(
            float(shares[n]),
            float(shares[n + 1] - shares[n]),
            int(count) / top,
            int(count),
            label.format(edges[n], edges[n + 1]),
        )
        for n, count in enumerate(counts)
        if count
    ]
    if not len(values):
        return Histogram((), tuple(ticks), 0, None, None)
    low, middle, high = np.percentile(values, (25, 50, 75)).tolist()
    median = float(np.interp(middle, edges, shares))
    return Histogram(tuple(bars), tuple(ticks), top, (low, middle, high), median)
