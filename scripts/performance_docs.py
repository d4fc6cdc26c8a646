"""Write the tables of docs/performance.md, and the short one of README.md, from benchmarks/results.
A test compares them.

A table stands between ``<!-- NAME -->`` and ``<!-- end -->``; what it shows is a function of that
name here. Under it are the machine and the commit that the numbers are of, from the same file.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE, README = ROOT / "docs" / "performance.md", ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"

CITY_IMAGES, CITY_TILES = 2_799, 7_020_540
"""A year of Cape Town in its real layout, as ``capecam plan`` counts it."""

Row = Mapping[str, str]


def read(name: str, **where: str) -> list[Row]:
    """Rows of a result, those with these values."""
    with (RESULTS / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return [row for row in rows if all(row[key] == value for key, value in where.items())]


def table(columns: Mapping[str, Callable[[Row], str]], rows: Sequence[Row]) -> str:
    """In Markdown, with the origin of its numbers; by row, where they are of several commits."""
    if len({row["commit"] for row in rows}) > 1:
        columns = {**columns, "commit": plain("commit")}
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[show(row) for show in columns.values()] for row in rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{text}\n\n{origin(rows)}"


def origin(rows: Sequence[Row]) -> str:
    """Where, with what and at which commit it was measured."""
    found = {
        f"commit {row['commit']}"
        + (f", {row['machine']}" if "machine" in row else "")
        + (f", PyTorch {row['torch']}" if "torch" in row else "")
        for row in rows
    }
    return f"*{'; '.join(sorted(found))}*"


def plain(key: str) -> Callable[[Row], str]:
    """As it stands in the file."""
    return lambda row: row[key]


def number(key: str, form: str = "", unit: str = "") -> Callable[[Row], str]:
    """In a format; empty where there is none."""
    return lambda row: f"{float(row[key]):{form}}{unit}" if row[key] else ""


def significant(key: str, digits: int = 3) -> Callable[[Row], str]:
    """So many digits, without an exponent where there need be none."""

    def show(row: Row) -> str:
        text = f"{float(row[key]):#.{digits}g}"
        return f"{float(text):.0f}" if abs(float(text)) >= 100 else text.rstrip(".")

    return show


def engine() -> str:
    """Every way to nine maps of a tile."""
    head = {
        "task": plain("task"),
        "way": lambda row: row["way"] + ("" if all_of(row) else f" ({row['maps']} maps)"),
        "batch": plain("batch"),
    }
    speed = {
        "tiles/s": significant("tiles_per_s"),
        "x notebook": number("times_notebook", ".2f"),
        "GFLOP a tile": number("gflop_per_tile", ".0f"),
        "GFLOP/s (share)": lambda row: (
            f"{float(row['gflops']):.0f} ({float(row['matrix_share']):.0%})"
        ),
        "peak MB": number("peak_mb", ".0f"),
    }
    accuracy = {
        "r Grad-CAM": number("corr_gradcam", ".4f"),
        "r ++": number("corr_gradcampp", ".4f"),
        "r guided": number("corr_guided", ".4f"),
        "max / mean difference": lambda row: (
            f"{float(row['max_difference']):.1e} / {float(row['mean_difference']):.1e}"
            if float(row["compared"] or 0)
            else ""
        ),
        "argmax": number("argmax_agreement", ".5f"),
    }
    rows = [row for task in MAPS for row in read("engine-cpu", task=task)]
    return table(head | speed | accuracy, rows)


MAPS = {"forward": 0, "six CAMs": 6, "nine maps": 9}
"""How many each task of the bench is about."""


def all_of(row: Row) -> bool:
    """Whether a way gives all the maps of its task."""
    return int(row["maps"]) == MAPS[row["task"]]


TECHNIQUE = {
    "technique": lambda row: code(row["technique"]),
    "s a tile": number("seconds_per_tile", ".3f"),
}
CORRELATIONS = {
    "r Grad-CAM": plain("r_gradcam"),
    "r ++": plain("r_gradcampp"),
    "r guided": plain("r_guided_gradcam"),
}


def code(technique: str) -> str:
    """Options stand out."""
    return re.sub(r"(--[a-z]+ \w+)", r"`\1`", technique)


def techniques() -> tuple[list[Row], list[Row], list[Row]]:
    """The waterfall, what is compared with its end, and what is not explained everywhere."""
    rows = read("techniques")
    detected = [row for row in rows if row["technique"].startswith("--where")]
    end = next(n for n, row in enumerate(rows) if row["technique"] == "4 tiles together") + 1
    return rows[:end], rows[end : len(rows) - len(detected)], detected


def waterfall() -> str:
    """What each technique brings."""
    steps = {
        "x the row before": plain("times_the_row_before"),
        "x notebook": plain("times_the_notebook"),
    }
    return table(TECHNIQUE | steps | CORRELATIONS, techniques()[0])


def choices() -> str:
    """What is a choice, or was not taken."""
    steps = {"x the waterfall's end": plain("times_the_row_before")}
    return table(TECHNIQUE | steps | CORRELATIONS, techniques()[1])


def detected() -> str:
    """Explaining only what is detected."""
    steps = {"x `--where all`": plain("times_the_row_before")}
    return table(TECHNIQUE | steps, techniques()[2])


def image() -> str:
    """A whole image beside the engine alone."""
    columns = {
        "image": lambda row: f"{row['size']} x {row['size']} px, {row['tiles']} tiles",
        "engine alone, s": plain("engine_alone_s"),
        "the whole run of the cell, s": plain("run_s"),
        "rate, of the engine's own": number("share", ".0%"),
        "engine waited": number("engine_waited", ".0%"),
    }
    return table(columns, read("image"))


def workers() -> str:
    """One and two workers."""
    columns = {
        "workers": plain("workers"),
        "in": plain("kind"),
        "s": plain("seconds"),
        "tiles/s": plain("tiles_s"),
        "x one process": number("ratio", ".2f"),
    }
    return table(columns, read("workers"))


SAMPLE = "FPN (tu-resnet18d)"
"""The network that comes with the package, in a table's words."""


def products() -> str:
    """What a whole image takes on a disk and to write."""
    columns = {
        "product": lambda row: f"`{row['product']}`",
        "MB an image": plain("mb"),
        "CPU-seconds to write": plain("write_s"),
    }
    return table(columns, read("products", network=SAMPLE))


def stages() -> str:
    """Where the time of that image went."""
    columns = {
        "engine, s": plain("engine_s"),
        "stitching, s": plain("stitch_s"),
        "waiting for pixels, s": plain("read_s"),
        "finishing the COGs, s": plain("finish_s"),
        "tracing, behind, s": plain("trace_s"),
        "all, s": plain("seconds"),
    }
    return table(columns, read("memory", network=SAMPLE))


def best(task: str, way: str = "capecam") -> Row:
    """The batch size at which a way is fastest."""
    rows = [row for row in read("engine-cpu", task=task) if row["way"].startswith(way)]
    return max(rows, key=lambda row: float(row["tiles_per_s"]))


def days(row: Row) -> float:
    """That a year of the city takes at this rate."""
    return CITY_TILES / float(row["tiles_per_s"]) / 86_400


def year() -> str:
    """What a year of the city would cost here."""
    images = read("products", network=SAMPLE)
    megabytes = {row["product"]: float(row["mb"]) for row in images}
    total = sum(megabytes.values())
    guided = megabytes["guided_gradcam"] / total
    lines = [
        f"- **disk**: {total:.0f} MB an image, {total * CITY_IMAGES / 1e3:.0f} GB a year for all "
        f"five products, of which Guided Grad-CAM is {guided:.0%};"
    ]
    for task in ("nine maps", "six CAMs"):
        ours = best(task)
        lines.append(
            f"- **time, {task}**: at {float(ours['tiles_per_s']):.2f} tiles/s (the original "
            f"architecture, this CPU) {days(ours):.0f} days."
        )
    return "\n".join(lines)


def speed() -> str:
    """Nine maps, for the README."""
    notebook, peer, ours = (
        best("nine maps", way) for way in ("notebook", "pytorch-grad-cam", "capecam")
    )
    rows = [
        ("the notebook's way: forward and backward per class and method", notebook),
        (f"pytorch-grad-cam, batch {peer['batch']}", peer),
        (f"**capecam**, batch {ours['batch']}", ours),
    ]
    lines = ["| | tiles/s | Grad-CAM++ and the paper's formula |", "|---|---|---|"]
    lines += [
        f"| {name} | {significant('tiles_per_s')(row)} | r = {float(row['corr_gradcampp']):.4f} |"
        for name, row in rows
    ]
    ratio, apart = float(ours["times_notebook"]), float(ours["max_difference"])
    words = [
        f"That is {ratio:.1f} times the notebook's way, in float32, with maps that differ from the",
        f"formulas at most by {apart:.0e}; and {days(ours):.0f} days for a year of Cape Town.",
    ]
    return "\n".join([*lines, "", *words, "", origin([ours])])


def memory() -> str:
    """Whole runs at full size."""
    columns = {
        "width x height, px": lambda row: row["size"].replace("x", " x "),
        "network": plain("network"),
        "tiles": plain("tiles"),
        "peak resident MB": plain("peak_mb"),
        "seconds": plain("seconds"),
        "engine waited": number("engine_waited", ".0%"),
    }
    return table(columns, read("memory"))


def city() -> str:
    """Everything around the engine."""
    columns = {
        "step": plain("step"),
        "seconds": plain("seconds"),
        "cells": plain("cells"),
        "failures": plain("failures"),
        "peak resident MB so far": plain("peak_mb"),
    }
    return table(columns, read("city"))


def finish() -> str:
    """Finishing a city at its true size."""
    columns = {
        "step": plain("step"),
        "seconds": plain("seconds"),
        "cells": plain("cells"),
        "detections": number("detections", ",.0f"),
        "peak resident MB": plain("peak_mb"),
    }
    return table(columns, read("finish"))


def specks() -> str:
    """Very many objects on one image."""
    columns = {
        "objects": number("specks", ",.0f"),
        "found": number("kept", ",.0f"),
        "run, s": lambda row: row.get("seconds", ""),
        "run, CPU-s": plain("cpu_s"),
        "evidence, CPU-s": plain("evidence_cpu_s"),
        "CPU-ms of it an object": lambda row: (
            f"{1e3 * float(row['evidence_cpu_s']) / float(row['kept']):.1f}"
        ),
        "peak resident MB": plain("peak_mb"),
    }
    return table(columns, read("specks"))


TABLES: Mapping[Path, Iterable[Callable[[], str]]] = {
    README: (speed,),
    PAGE: (
        engine, waterfall, choices, detected, image, workers, products, stages, year, memory,
        city, finish, specks,
    ),
}  # fmt: skip


def page(path: Path = PAGE) -> str:
    """A page, its tables made anew."""
    text = path.read_text(encoding="utf-8")
    for made in TABLES[path]:
        region = re.compile(rf"(?<=<!-- {made.__name__} -->\n).*?(?=<!-- end -->)", re.DOTALL)
        text, count = region.subn(lambda _, made=made: f"{made()}\n", text)
        if count != 1:
            raise ValueError(f"{path}: has {count} places for the table {made.__name__}")
    return text


if __name__ == "__main__":
    for path in TABLES:
        path.write_text(page(path), encoding="utf-8")
        print(path)
