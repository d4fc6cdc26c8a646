"""Closing summary of a run."""

from __future__ import annotations

from capecam.detections.filters import REASONS
from capecam.run.outcome import RunOutcome
from capecam.run.unusual_images import pixel_warnings
from capecam.store.records import RunRecord, TotalsRecord
from capecam.store.run_folder import stage_seconds


def summary(outcome: RunOutcome) -> str:
    """Return the last lines of a run: what was done and found, and where to look at it."""
    seconds = outcome.stages.get("cells", 0.0)
    rate = f" ({outcome.tiles / seconds:.1f} tiles/s)" if outcome.tiles and seconds else ""
    cells = f"{outcome.done} cell(s) done"
    cells += f", {outcome.kept} kept" if outcome.kept else ""
    cells += f", {len(outcome.failures)} failed" if outcome.failures else ""
    lines = [f"stopped: {outcome.stopped}"] if outcome.stopped else []
    lines += [f"{cells}; {outcome.tiles} tiles in {seconds:.0f} s{rate}"]
    lines += _times(outcome)
    if outcome.city:
        lines += [
            totals_table(outcome.totals),
            _dropped(outcome.city),
            *pixel_warnings(outcome.city),
            f"open {outcome.out}/capecam.qgz in QGIS, {outcome.out}/report.html in a browser",
        ]
    return "\n".join(lines)


def _times(outcome: RunOutcome) -> list[str]:
    """Return shares of the cells' wall time, which overlap, and seconds before and after them."""
    if outcome.engine_waited is None:
        return []
    wall = outcome.stages["cells"]
    work = stage_seconds(outcome.work)
    shares = ", ".join(f"{stage} {value / wall:.0%}" for stage, value in work.items())
    around = ", ".join(f"{n} {s:.0f} s" for n, s in outcome.stages.items() if n != "cells")
    waited = f"the engine waited {outcome.engine_waited:.0%}"
    return [f"time in the cells: {shares}; {waited}; around them: {around}"]


def _dropped(record: RunRecord) -> str:
    """Return how many pieces became how many objects, and why others were dropped."""
    counts = {step: sum(by_class.values()) for step, by_class in record.detections.items()}
    reasons = [f"{n:,} {step}" for step, n in counts.items() if step in REASONS and n]
    dropped = f"; dropped: {', '.join(reasons)}" if reasons else ""
    return f"{counts['traced']:,} pieces joined to {counts['joined']:,} objects{dropped}"


def totals_table(totals: TotalsRecord) -> str:
    """Return a table of detections and m² by class, and how many of them are right to expect."""
    width = max(len("class"), *map(len, totals.by_class))
    rows = [f"{'class':<{width}}  {'count':>8}  {'area m²':>12}"]
    rows += [f"{n:<{width}}  {c:>8,}  {a:>12,.1f}" for n, (c, a) in totals.by_class.items()]
    if totals.expected:
        right = ["expected", *(f"{totals.expected[name]:,.1f}" for name in totals.by_class)]
        rows = [f"{row}  {number:>10}" for row, number in zip(rows, right, strict=True)]
        rows.append(expected_line(totals))
    return "\n".join(rows)


def expected_line(totals: TotalsRecord) -> str:
    """Return a sentence on the expected count, for a run with a calibration."""
    found = sum(count for count, _ in totals.by_class.values())
    expected = sum(totals.expected.values())
    return f"of {found:,} detections, {expected:,.0f} are expected to be right (sum of p_right)"
