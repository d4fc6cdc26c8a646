"""Compare two workers on this machine with one, in processes and on Ray, in alternation.

Usage: workers.py CONFIG [--kind processes|Ray ...] [--rounds N] [--csv FILE]

CONFIG names sources and checkpoint; ``make demo`` leaves demo/demo.yaml. Every run processes all
cells into its own folder with the calibration of the first run. The time is that of the cells,
including the start of the workers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from itertools import product
from pathlib import Path

from memory import append_rows, environment

from capecam.api import load_settings, run

KINDS = ("processes", "Ray")
COUNTS = (1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--kind", action="append", choices=KINDS, help="default: all")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/workers.csv"))
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a cluster of this machine alone
    setups = list(product(arguments.kind or KINDS, COUNTS))
    seconds: dict[tuple[str, int], list[float]] = {setup: [] for setup in setups}
    tiles = 0
    with tempfile.TemporaryDirectory() as folder:
        calibrated = run_once(arguments.config, Path(folder) / "first", ("processes", 1), None)
        for number in range(arguments.rounds):
            for setup in setups:
                out = Path(folder) / f"{number}-{setup[0]}-{setup[1]}"
                outcome = run_once(arguments.config, out, setup, calibrated.out / "run.json")
                tiles = outcome.tiles
                seconds[setup].append(outcome.stages["cells"])
                print(setup, round(seconds[setup][-1], 1), flush=True)
    alone = statistics.median(seconds[setups[0]])
    rows = []
    for (kind, count), times in seconds.items():
        median = statistics.median(times)
        rows.append(
            {
                "workers": count, "kind": kind, "tiles": tiles, "seconds": round(median, 1),
                "tiles_s": round(tiles / median, 2), "ratio": round(alone / median, 3),
                **environment(),
            }
        )  # fmt: skip
        print(rows[-1])
    append_rows(arguments.csv, rows)


def run_once(config: Path, out: Path, setup: tuple[str, int], calibration: Path | None):
    """Process all cells of the city."""
    kind, count = setup
    options = {
        "out": str(out), "explain.calibration": calibration and str(calibration),
        "compute.workers": count, "compute.cluster": "local-ray" if kind == "Ray" else None,
    }  # fmt: skip
    return run(load_settings(config, {k: v for k, v in options.items() if v is not None}))


if __name__ == "__main__":
    main()
