"""Two workers on the cores of this machine against one, in processes and on Ray, in turns.

Usage: workers.py CONFIG [--rounds N] [--csv FILE]

CONFIG names sources and checkpoint; ``make demo`` leaves demo/demo.yaml. Every run makes all cells,
into a folder of its own, by the colour scale of the first: what is timed is the cells alone, the
workers' start included.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from memory import append, facts

from capecam.api import load_settings, run

WAYS = (("processes", 1), ("processes", 2), ("Ray", 1), ("Ray", 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/workers.csv"))
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a cluster of this machine alone
    seconds: dict[tuple[str, int], list[float]] = {way: [] for way in WAYS}
    tiles = 0
    with tempfile.TemporaryDirectory() as folder:
        calibrated = once(arguments.config, Path(folder) / "first", ("processes", 1), None)
        for number in range(arguments.rounds):
            for way in WAYS:
                out = Path(folder) / f"{number}-{way[0]}-{way[1]}"
                made = once(arguments.config, out, way, calibrated.out / "run.json")
                tiles = made.tiles
                seconds[way].append(made.stages["cells"])
                print(way, round(seconds[way][-1], 1), flush=True)
    alone = statistics.median(seconds["processes", 1])
    rows = []
    for (kind, count), found in seconds.items():
        median = statistics.median(found)
        rows.append(
            {
                "workers": count, "kind": kind, "tiles": tiles, "seconds": round(median, 1),
                "tiles_s": round(tiles / median, 2), "ratio": round(alone / median, 3), **facts(),
            }
        )  # fmt: skip
        print(rows[-1])
    append(arguments.csv, rows)


def once(config: Path, out: Path, way: tuple[str, int], calibration: Path | None):
    """All cells of the city."""
    kind, count = way
    options = {
        "out": str(out), "explain.calibration": calibration and str(calibration),
        "compute.workers": count, "compute.cluster": "local-ray" if kind == "Ray" else None,
    }  # fmt: skip
    return run(load_settings(config, {k: v for k, v in options.items() if v is not None}))


if __name__ == "__main__":
    main()
