"""What a person sees of a run: a bar on a terminal, plain lines in a log, a closing summary."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from capecam.detections.filters import REASONS
from capecam.run.city_products import Totals
from capecam.run.run_record import RunOutcome
from capecam.store.run_folder import stage_seconds


class ProgressBar:
    """Progress by tiles; on a terminal a bar, elsewhere a line a cell."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._cells = self._ended = 0

    def start(self, tiles: int, cells: int) -> None:
        """Windows without imagery are found on the way, so the total is an upper bound."""
        self._cells = cells
        if sys.stderr.isatty():
            self._bar = tqdm(total=tiles, unit="tile", smoothing=0.1, dynamic_ncols=True)
        else:
            print(f"{cells} cell(s), at most {tiles} tiles", file=sys.stderr, flush=True)

    def tiles(self, count: int) -> None:
        """So many more are done."""
        if self._bar is not None:
            self._bar.update(count)

    def cell(self, name: str, outcome: str) -> None:
        """A cell has ended."""
        self._ended += 1
        line = f"[{self._ended}/{self._cells}] {name}: {outcome}"
        if self._bar is None:
            print(line, file=sys.stderr, flush=True)
            return
        self._bar.write(line, file=sys.stderr)
        if self._ended == self._cells:
            self._bar.close()


class Counter:
    """Progress of something that is counted; on a terminal alone."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._bar: tqdm[Any] | None = None

    def __call__(self, done: int, of: int) -> None:
        """So many of them are done."""
        if self._bar is None:
            # None: only where standard error is a terminal.
            self._bar = tqdm(total=of, unit=self._unit, dynamic_ncols=True, disable=None)
        self._bar.update(done - self._bar.n)
        if done == of:
            self._bar.close()


def summary(outcome: RunOutcome) -> str:
    """The last lines of a run: what was done, what was found, where to look."""
    seconds = outcome.stages.get("cells", 0.0)
    rate = f" ({outcome.tiles / seconds:.1f} tiles/s)" if outcome.tiles and seconds else ""
    cells = f"{outcome.done} cell(s) done"
    cells += f", {outcome.kept} kept" if outcome.kept else ""
    cells += f", {len(outcome.failures)} failed" if outcome.failures else ""
    lines = [f"stopped: {outcome.stopped}"] if outcome.stopped else []
    lines += [f"{cells}; {outcome.tiles} tiles in {seconds:.0f} s{rate}"]
    lines += _where_time_went(outcome)
    if outcome.totals:
        lines += [
            totals_table(outcome.totals),
            _dropped(outcome.totals),
            f"open {outcome.out}/capecam.qgz in QGIS, {outcome.out}/report.html in a browser",
        ]
    return "\n".join(lines)


def _where_time_went(outcome: RunOutcome) -> list[str]:
    """Shares of the cells' wall time, which overlap; and seconds before and after them."""
    if outcome.waited is None:
        return []
    wall = outcome.stages["cells"]
    work = stage_seconds(outcome.work)
    shares = ", ".join(f"{stage} {value / wall:.0%}" for stage, value in work.items())
    around = ", ".join(f"{n} {s:.0f} s" for n, s in outcome.stages.items() if n != "cells")
    waited = f"the engine waited {outcome.waited:.0%}"
    return [f"time in the cells: {shares}; {waited}; around them: {around}"]


def _dropped(totals: Totals) -> str:
    """What became of all that was traced."""
    left = {step: sum(counts.values()) for step, counts in totals.steps.items()}
    reasons = [f"{count:,} {step}" for step, count in left.items() if step in REASONS and count]
    dropped = f"; dropped: {', '.join(reasons)}" if reasons else ""
    return f"{left['traced']:,} pieces joined to {left['joined']:,} objects{dropped}"


def totals_table(totals: Totals) -> str:
    """Detections and m² by class."""
    width = max(len("class"), *map(len, totals.by_class))
    rows = [f"{'class':<{width}}  {'count':>8}  {'area m²':>12}"]
    rows += [f"{n:<{width}}  {c:>8,}  {a:>12,.1f}" for n, (c, a) in totals.by_class.items()]
    return "\n".join(rows)
