"""Progress of a run: a bar on a terminal, plain lines in a log, and a closing summary."""

from __future__ import annotations

import sys
from typing import Never

from tqdm import tqdm

from capecam.detections.filters import REASONS
from capecam.run.outcome import RunOutcome
from capecam.run.unusual_images import pixel_warnings
from capecam.store.records import RunRecord, TotalsRecord
from capecam.store.run_folder import stage_seconds


class Progress:
    """Hears how far a run is; this one shows nothing, for notebooks and tests."""

    def start(self, tiles: int, cells: int) -> None:
        """Begin with a number of cells, and the largest possible number of their tiles."""

    def tiles(self, count: int) -> None:
        """Count more finished tiles."""

    def cell(self, name: str, outcome: str) -> None:
        """Note that a cell has ended."""


class ProgressBar(Progress):
    """Progress by tiles on a terminal, elsewhere a line a cell."""

    def __init__(self) -> None:
        self._bar: tqdm[Never] | None = None
        self._cells = self._ended = 0

    def start(self, tiles: int, cells: int) -> None:
        """Draw the bar. Tiles without imagery are skipped, so the total is an upper bound."""
        self._cells = cells
        if sys.stderr.isatty():
            self._bar = tqdm(total=tiles, unit="tile", smoothing=0.1, dynamic_ncols=True)
        else:
            print(f"{cells} cell(s), at most {tiles} tiles", file=sys.stderr, flush=True)

    def tiles(self, count: int) -> None:
        """Advance the bar."""
        if self._bar is not None:
            self._bar.update(count)

    def cell(self, name: str, outcome: str) -> None:
        """Print a line."""
        self._ended += 1
        line = f"[{self._ended}/{self._cells}] {name}: {outcome}"
        if self._bar is None:
            print(line, file=sys.stderr, flush=True)
            return
        self._bar.write(line, file=sys.stderr)
        if self._ended == self._cells:
            self._bar.close()


class Counter:
    """Bar of something that is counted; on a terminal only."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._bar: tqdm[Never] | None = None

    def __call__(self, done: int, of: int) -> None:
        """Show how many are done."""
        if self._bar is None:
            # disable=None: show it only where standard error is a terminal.
            self._bar = tqdm(total=of, unit=self._unit, dynamic_ncols=True, disable=None)
        self._bar.update(done - self._bar.n)
        if done == of:
            self._bar.close()


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
