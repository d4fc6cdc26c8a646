"""Spoil files by the thousand and see what capecam makes of them.

    python scripts/fuzz.py --cases 5000 --seed 1 --kinds raster,checkpoint --jobs 2

Each case is a process of its own with 4 GB and a minute. Findings are kept in a folder, with their
seed: --only KIND-SEED makes one again. Exit code 1 if there is any.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.fuzzing import KINDS, Verdict, judge, make_case, warm_up


def share(task: tuple[str, range, Path, Path, float]) -> list[tuple[int, Verdict]]:
    """The verdicts of some seeds, while there is time; files of findings go to ``keep``."""
    kind, seeds, folder, keep, end = task
    verdicts = []
    for seed in seeds:
        if time.monotonic() > end:
            break
        case = make_case(kind, seed, folder)
        verdict = judge(case)
        if verdict.finding:
            place = keep / f"{kind}-{seed}"
            shutil.copytree(case.path.parent, place, dirs_exist_ok=True)
            (place / "finding.txt").write_text(f"{verdict}\n\n{verdict.detail}\n")
        shutil.rmtree(case.path.parent)
        verdicts.append((seed, verdict))
    return verdicts


def table(verdicts: list[Verdict]) -> str:
    """Counts by kind of file and outcome."""
    outcomes = sorted({verdict.outcome for verdict in verdicts})
    counts = Counter((verdict.kind, verdict.outcome) for verdict in verdicts)
    rows = [["file", *outcomes, "cases"]]
    for kind in sorted({verdict.kind for verdict in verdicts}):
        numbers = [counts[kind, outcome] for outcome in outcomes]
        rows.append([kind, *map(str, numbers), str(sum(numbers))])
    totals = [sum(counts[k, o] for k, _ in {(r[0], 0) for r in rows[1:]}) for o in outcomes]
    rows.append(["all", *map(str, totals), str(len(verdicts))])
    return "\n".join(f"{row[0]:<36}" + "".join(f"{cell:>11}" for cell in row[1:]) for row in rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--kinds", default=",".join(KINDS), help="comma-separated")
    parser.add_argument("--minutes", type=float, default=600, help="then no case is begun")
    parser.add_argument("--jobs", type=int, default=2, help="processes that hand out cases")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="for findings")
    parser.add_argument("--only", metavar="KIND-SEED", help="make one case again and say more")
    return parser.parse_args()


def main() -> int:
    """Run and print."""
    wanted, started = parse(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if wanted.only:
            kind, seed = wanted.only.split("-")
            case = make_case(kind, int(seed), place)
            verdict = judge(case)
            print(f"{verdict}\n{verdict.detail}")
            return int(verdict.finding)
        warm_up(place)
        last, end = wanted.seed + wanted.cases, started + 60 * wanted.minutes
        tasks = [
            (kind, range(seed, min(seed + 50, last)), place, wanted.keep, end)
            for seed in range(wanted.seed, last, 50)
            for kind in wanted.kinds.split(",")
        ]
        with multiprocessing.get_context("fork").Pool(wanted.jobs) as pool:
            found = [pair for part in pool.imap_unordered(share, tasks) for pair in part]
    findings = sorted((v.kind, seed, v) for seed, v in found if v.finding)
    print(table([verdict for _, verdict in found]))
    for _, seed, verdict in findings:
        last_line = verdict.detail.strip().splitlines()[-1:] or [""]
        print(f"{verdict.kind} {seed} {verdict.mutation}: {verdict.outcome}: {last_line[0][:150]}")
    print(f"{len(found)} cases in {time.monotonic() - started:.0f} s, {len(findings)} findings")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
