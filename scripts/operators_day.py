"""A day of the person who runs a city: every command as it is typed, and what it leaves checked.

Usage: operators_day.py DIR [--size PX] [--seed N] [--core]

DIR is new. A sample city of ten small images is delivered and explained in a first night. Then two
images are new, one has changed, and one is broken; the machine dies in mid-run; the next night
finishes but for the broken one; it is delivered again and mended. What has come out is verified,
scored, counted, audited, drawn, exported, opened in QGIS, compared with the year before, and at the
end with an undisturbed run over the same images: the products are the same, byte for byte.

A line a step: seconds, CPU-seconds, what was seen. The first check that fails ends it with exit
code 1. ``--core`` is the runs and the comparison alone, with one heatmap of what is detected, and
without worker processes. Python only arranges files and looks at results.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import yaml
from rasterio.windows import Window
from shapely import box

SCRIPTS = Path(__file__).resolve().parent
COLUMNS = "ABCDE"
"""Of images, from the west; two rows each. D and E follow in the second delivery: what is between A
and them is far enough from both to stay as it is."""
SEED = 9
"""Of a city in which small images show all three classes."""
LEAST_SIZE = 480
"""Of the demo: a column has to be wider than a tile of 160 px reaches."""
NEW, UNTOUCHED = ("E1", "E2"), ("C1", "C2")
WEST = "A1", "A2"
"""One of them changes, and one breaks: that which shows more, and the other."""
SAME = (".tif", ".vrt", ".qml", ".parquet", ".csv")
"""Products that depend on the images and settings alone."""
PATIENCE_S = 300
QGIS_PYTHON = "/usr/bin/python3"


class UnlikeError(Exception):
    """Something is not as an operator should see it."""


def expect(holds: object, what: str) -> None:
    if not holds:
        raise UnlikeError(what)


@dataclass
class Day:
    """The folder of a day, and what every step needs of it."""

    folder: Path
    size: int
    seed: int
    core: bool
    changed: str = field(default=WEST[0], init=False)
    """The image that was delivered wrong at first."""
    broken: str = field(default=WEST[1], init=False)
    """The image that is cut off in the second delivery."""
    half_made: int = field(default=0, init=False)
    """Cells that the dead machine has left so."""
    night_began: float = field(default=0.0, init=False)

    @property
    def config(self) -> Path:
        return self.folder / "city.yaml"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def truth(self) -> Path:
        return self.folder / "demo" / "truth.gpkg"

    def capecam(self, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        """A command of the contract; its exit code is the first thing that is looked at."""
        command = [sys.executable, "-m", "capecam", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        told = f"capecam {words[0]} ended with {done.returncode}, not {code}"
        expect(done.returncode == code, f"{told}:\n{done.stdout}{done.stderr}")
        expect("Traceback" not in done.stderr, f"capecam {words[0]} shows a traceback")
        return done

    def night(self) -> subprocess.Popen[bytes]:
        """``make nightly``, as a timer starts it, or its first step: in a session of its own."""
        self.night_began = time.time()
        words = [SCRIPTS / "nightly.py", self.config]
        if self.core:
            words = ["-m", "capecam", "run", "--config", self.config]
        with (self.folder / "night.log").open("w") as log:
            return subprocess.Popen(
                [sys.executable, *map(str, words)],
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def log(self) -> list[str]:
        """Of the last night."""
        path = self.folder / "night.log"
        if not self.core:
            expect(not path.read_text(), f"a night without a terminal prints:\n{path.read_text()}")
            path = max((self.out / "logs").glob("*.log"))
        return path.read_text().splitlines()

    def cells(self) -> list[str]:
        """Those that are done."""
        found = [path.parent.name for path in self.out.glob("cells/*/cell.json")]
        return [name for name in found if not name.startswith(".")]  # .work-* are in the making

    def made(self, name: str) -> float:
        """When a cell was made, in seconds; 0 if it is not."""
        record = self.out / "cells" / name / "cell.json"
        return record.stat().st_mtime if record.exists() else 0.0

    def deliver(self, *names: str) -> None:
        """What the survey company copies."""
        for name in names:
            shutil.copyfile(self.folder / "survey" / f"{name}.tif", self.image(name))

    def image(self, name: str) -> Path:
        return self.folder / "images" / f"{name}.tif"


def arrives(day: Day) -> str:
    """A survey in small images, of which a part is delivered, one under another's name."""
    day.capecam("demo", day.folder / "demo", "--size", day.size, "--seed", day.seed)
    (day.folder / "images").mkdir()
    (day.folder / "survey").mkdir()
    _cut(day)
    first = [f"{column}{row}" for column in COLUMNS[:-1] for row in (1, 2)]
    day.deliver(*first)
    objects = {name: _objects(day, name) for name in first}
    day.broken, day.changed = sorted(WEST, key=objects.__getitem__)
    wrong = max(set(first) - set(WEST), key=lambda name: (objects[name], name))
    enough = objects[day.changed] and objects[wrong]
    expect(enough, f"too little to see in {objects}; give another --seed, or a larger --size")
    _show(day, wrong, in_place_of=day.changed)
    settings = yaml.safe_load((day.folder / "demo" / "demo.yaml").read_text())
    settings |= {
        "checkpoint": "demo/model.safetensors",
        "tiling": {"size": 160, "overlap": 40, "anchor": [0, 0]},
    }
    settings["explain"]["calibration_tiles"] = 16
    if day.core:
        settings["tiling"]["overlap"] = 0
        settings["explain"] |= {"methods": ["gradcam"], "where": "detected"}
        settings["run"] = {"in_process": True}
    day.config.write_text(yaml.safe_dump(settings))
    return f"{len(first)} images of {len(COLUMNS) * 2}; {day.changed} shows {wrong}"


def _cut(day: Day) -> None:
    """The four images of the demo as ten, west to east and north to south."""
    whole = 2 * day.size - 60
    pixels, valid, profile = _sewn(day.folder / "demo" / "images", whole)
    edges = np.linspace(0, whole, len(COLUMNS) + 1).astype(int)
    for column, left, right in zip(COLUMNS, edges[:-1], edges[1:], strict=True):
        for number, (top, bottom) in enumerate(((0, whole // 2), (whole // 2, whole)), start=1):
            part = np.s_[top:bottom, left:right]
            place = {
                "height": bottom - top, "width": right - left,
                "transform": profile["transform"] @ rasterio.Affine.translation(left, top),
            }  # fmt: skip
            path = day.folder / "survey" / f"{column}{number}.tif"
            with (
                rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
                rasterio.open(path, "w", **profile | place) as target,
            ):
                target.write(pixels[:, *part])
                if not valid[part].all():
                    target.write_mask(valid[part])


def _sewn(folder: Path, whole: int) -> tuple[np.ndarray, np.ndarray, dict]:
    """Images that abut: pixels (3, whole, whole), validity, and how to write the like of them."""
    pixels, valid = np.zeros((3, whole, whole), np.uint8), np.zeros((whole, whole), np.uint8)
    profile = {
        "driver": "GTiff", "count": 3, "dtype": "uint8", "compress": "deflate", "tiled": True,
        "blockxsize": 128, "blockysize": 128,
    }  # fmt: skip
    for path in sorted(folder.glob("*.tif")):  # the first is that in the north-west
        with rasterio.open(path) as dataset:
            profile = {"crs": dataset.crs, "transform": dataset.transform} | profile
            left, top = dataset.bounds.left, dataset.bounds.top
            col, row = (round(x) for x in ~profile["transform"] @ (left, top))
            place = np.s_[row : row + dataset.height, col : col + dataset.width]
            pixels[:, *place], valid[place] = dataset.read(), dataset.dataset_mask()
    return pixels, valid, profile


def _objects(day: Day, name: str) -> int:
    """How many an image shows that do not reach its edge."""
    with rasterio.open(day.image(name)) as dataset:
        whole = box(*dataset.bounds)
    return int(gpd.read_file(day.truth).within(whole).sum())


def _show(day: Day, other: str, *, in_place_of: str) -> None:
    """An error of the first delivery: the pixels of another image, which may be a little larger."""
    with (
        rasterio.open(day.image(other)) as source,
        rasterio.open(day.image(in_place_of), "r+") as target,
    ):
        common = Window(0, 0, min(source.width, target.width), min(source.height, target.height))
        target.write(source.read(window=common), window=common)


def first_plan(day: Day) -> str:
    text = day.capecam("plan", "--config", day.config).stdout
    expect("cells     8, of which 8 are to be made" in text, f"the plan says:\n{text}")
    expect("time      unknown" in text, "the plan knows a speed that nobody has measured")
    expect(not day.out.exists(), "a plan has made the output folder")
    return "8 cells to be made"


def first_night(day: Day) -> str:
    code = day.night().wait()
    expect(code == 0, f"the night ended with {code}:\n" + "\n".join(day.log()))
    expect(day.core or day.log()[-1].endswith("exit 0: done"), f"the log ends: {day.log()[-1]}")
    wanted = ("capecam.qgz", "report.html", "classes.vrt", "gradcam.vrt", "detections.gpkg",
              "summary.csv", "run.json", "cells.gpkg")  # fmt: skip
    missing = [name for name in wanted if not (day.out / name).exists()]
    expect(not missing, f"not there: {', '.join(missing)}")
    expect(_count(day.out) > 0, "nothing was found in the city")
    shutil.copytree(day.out, day.folder / "last-year")
    return f"exit 0; {_count(day.out)} objects"


def second_delivery(day: Day) -> str:
    """Two images are new, one is now the right one, of one the copy was cut off."""
    day.deliver(*NEW, day.changed)
    whole = day.image(day.broken).read_bytes()
    day.image(day.broken).write_bytes(whole[: len(whole) // 2])
    return f"{' and '.join(NEW)} are new, {day.changed} has changed, {day.broken} is cut off"


def second_plan(day: Day) -> str:
    text = day.capecam("plan", "--config", day.config).stdout
    for name in (*NEW, day.changed):
        expect(f"make      {name}: " in text, f"the plan leaves {name} out:\n{text}")
    expect("is shorter than its own" in text, f"the plan does not see what is cut off:\n{text}")
    for name in UNTOUCHED:
        expect(f"make      {name}: " not in text, f"the plan makes {name} again:\n{text}")
    return next(line for line in text.splitlines() if "to be made" in line)


def machine_dies(day: Day) -> str:
    """Everything that belongs to the night is gone from one moment to the next."""
    night = day.night()
    deadline = time.monotonic() + PATIENCE_S
    while not (_new_cells(day) and list((day.out / "cells").glob(".work-*"))):
        expect(night.poll() is None, f"the night ended before it could be killed: {night.poll()}")
        expect(time.monotonic() < deadline, "no cell was in the making")
        time.sleep(0.01)
    for process in (night.pid, *_descendants(night.pid)):
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:  # a worker ends when its supervisor does
            continue
    night.wait()
    done = _new_cells(day)
    day.half_made = len(list((day.out / "cells").glob(".work-*/")))
    expect(not set(NEW) <= set(done), "the night had made all that is new")
    return f"killed in mid-run; of this night {', '.join(done)} are done"


def _new_cells(day: Day) -> list[str]:
    """Made since the last night began."""
    return sorted(name for name in day.cells() if day.made(name) > day.night_began)


def _descendants(pid: int) -> list[int]:
    """Processes that it started, and these."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            found += [child, *_descendants(child)]
    return found


def next_night(day: Day) -> str:
    before = {name: day.made(name) for name in UNTOUCHED}
    survived = day.cells()
    code = day.night().wait()
    log = day.log()
    expect(code == 3, f"the night ended with {code}, not 3:\n" + "\n".join(log))
    expect(day.core or "exit 3: done, but for" in log[-1], f"the log ends with {log[-1]}")
    (said,) = [line for line in log if ": cells: " in line]
    known = not day.half_made or f"; {day.half_made} cut off in the making" in said
    expect(known and " done before, " in said, f"the night begins as if it were the first: {said}")
    named = [line for line in log if line.startswith(f"capecam: {day.broken} failed: ")]
    expect(len(named) == 1, f"the broken image is not named once: {named}")
    expect("it was not copied whole" in named[0], f"the log does not say what is wrong: {named[0]}")
    content = any("0 of them bad" in line for line in log)
    expect(day.core or content, "verify was not content")
    expect(
        before == {name: day.made(name) for name in UNTOUCHED}, "untouched cells were made again"
    )
    expect(not list((day.out / "cells").glob(".work-*")), "something half-made was left")
    report = (day.out / "report.html").read_text()
    expect(f"{day.broken}" in report, "the report does not name the broken image")
    return f"exit 3; {len(survived)} cells were there; {named[0].partition('failed: ')[2]}"


def mended(day: Day) -> str:
    day.deliver(day.broken)
    done = day.capecam("run", "--config", day.config, "--retry-failed")
    expect(" failed" not in done.stdout, f"something failed:\n{done.stdout}")
    said = done.stdout.rstrip()
    expect(said.endswith("in a browser"), f"the run does not say what next:\n{said}")
    expect(not json.loads((day.out / "run.json").read_text())["failures"], "failures are left")
    return done.stdout.splitlines()[0]


def nothing_to_do(day: Day) -> str:
    text = day.capecam("plan", "--config", day.config).stdout
    expect("cells     10, of which 0 are to be made" in text, f"not all is done:\n{text}")
    return next(line for line in text.splitlines() if "to be made" in line)


def verify(day: Day) -> str:
    text = day.capecam("verify", day.out).stdout.strip()
    expect(text.endswith("0 of them bad"), text)
    return text


def audit(day: Day) -> str:
    text = day.capecam("audit", day.out, "--sample", 2).stdout
    expect((day.out / "audit.json").exists(), "there is no audit.json")
    return text.splitlines()[0]


def zones(day: Day) -> str:
    text = day.capecam("summarize", day.out, "--zones", _suburbs(day)).stdout
    expect("West" in text and "East" in text, f"a suburb is not named:\n{text}")
    expect((day.out / "zones.gpkg").exists(), "there is no zones.gpkg")
    return text.splitlines()[-1]


def _suburbs(day: Day) -> Path:
    """Two halves of the city."""
    path = day.folder / "suburbs.gpkg"
    if not path.exists():
        with rasterio.open(day.out / "classes.vrt") as dataset:
            (left, bottom, right, top), crs = dataset.bounds, dataset.crs
        middle = (left + right) / 2
        halves = [box(left, bottom, middle, top), box(middle, bottom, right, top)]
        gpd.GeoDataFrame({"name": ["West", "East"]}, geometry=halves, crs=crs).to_file(path)
    return path


def evaluate(day: Day) -> str:
    text = day.capecam("evaluate", day.out, "--truth", day.truth).stdout
    (row,) = [line for line in text.splitlines() if line.strip().startswith("all classes")]
    found, matched = json.loads((day.out / "evaluation.json").read_text()), row.split()
    expect(found, "evaluation.json is empty")
    expect(float(matched[4]) > 0.5, f"the sample network finds little that is there:\n{text}")
    return row.strip()


def report(day: Day) -> str:
    text = day.capecam("report", day.out, "--panels", 1).stdout.strip()
    expect(text == str(day.out / "report.html"), f"report prints {text}")
    page = Path(text).read_text()
    expect("http://" not in page.replace("http://www.w3.org", ""), "the report needs a network")
    return f"{len(page) / 1e6:.1f} MB"


def panel(day: Day) -> str:
    day.capecam("panel", day.out, "--top", 1)
    (picture,) = (day.out / "panels").glob("*.png")
    return picture.name


def export(day: Day) -> str:
    path = Path(day.capecam("export", day.out, "--format", "geojson").stdout.strip())
    count = len(json.loads(path.read_text())["features"])
    expect(count == _count(day.out), f"{path} has {count} objects, not {_count(day.out)}")
    return f"{path.name}, {count} objects"


def qgis(day: Day) -> str:
    probe = [QGIS_PYTHON, "-c", "import qgis.core"]
    try:
        found = subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        found = False
    if not found:
        return f"skipped: {QGIS_PYTHON} has no QGIS"
    command = [QGIS_PYTHON, SCRIPTS / "qgis_check.py", day.out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    expect(done.returncode == 0, f"QGIS is not content:\n{done.stdout}{done.stderr}")
    return done.stdout.strip().splitlines()[0]


def years(day: Day) -> str:
    before = day.folder / "last-year"
    text = day.capecam("summarize", before, day.out, "--zones", _suburbs(day)).stdout
    changes = gpd.read_parquet(day.out / "changes.parquet")
    counts = changes["status"].value_counts()
    expect(counts.get("kept"), f"nothing is as it was last year:\n{text}")
    for status in ("new", "gone"):
        expect(counts.get(status), f"of the image that has changed nothing is {status}:\n{text}")
    expect(counts.get("unseen"), f"what last year's survey did not cover is not unseen:\n{text}")
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def undisturbed(day: Day) -> str:
    """The same images in one go, on the same colour scale."""
    other = day.folder / "undisturbed"
    day.capecam(
        "run", "--config", day.config, "--out", other, "--in-process",
        "--calibration", day.out / "run.json",
    )  # fmt: skip
    products = [p.relative_to(other) for p in sorted(other.rglob("*")) if p.suffix in SAME]
    expect(len(products) > len(COLUMNS) * 2 * 5, f"only {len(products)} products")
    unlike = [
        str(path)
        for path in products
        if (day.out / path).read_bytes() != (other / path).read_bytes()
    ]
    expect(not unlike, f"{len(unlike)} products differ: {', '.join(unlike[:5])}")
    return f"{len(products)} products, the same byte for byte"


def _count(out: Path) -> int:
    return len(gpd.read_parquet(out / "detections.parquet", columns=["id", "geometry"]))


Step = Callable[[Day], str]
STEPS: tuple[Step, ...] = (
    arrives, first_plan, first_night, second_delivery, second_plan, machine_dies, next_night,
    mended, nothing_to_do, verify, audit, zones, evaluate, report, panel, export, qgis, years,
    undisturbed,
)  # fmt: skip
CORE: tuple[Step, ...] = (
    arrives, first_night, second_delivery, machine_dies, next_night, mended, undisturbed,
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--size", type=int, default=LEAST_SIZE, metavar="PX", help="as of capecam demo"
    )
    parser.add_argument("--core", action="store_true", help="the nights and the comparison alone")
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help="as of capecam demo")
    given = parser.parse_args()
    if given.size < LEAST_SIZE:
        parser.error(f"--size must be at least {LEAST_SIZE}")
    if given.folder.exists():
        parser.error(f"{given.folder} is there already; name a new folder")
    given.folder.mkdir(parents=True)
    day = Day(given.folder.resolve(), given.size, given.seed, given.core)
    for step in CORE if given.core else STEPS:
        began, cpu = time.monotonic(), _cpu()
        name = step.__name__.replace("_", " ")
        try:
            verdict = step(day)
        except UnlikeError as failure:
            print(f"operators_day: {name}: {failure}", flush=True)
            return 1
        spent = f"{time.monotonic() - began:6.1f} s  {_cpu() - cpu:6.1f} CPU-s"
        print(f"{name:<16} {spent}  {verdict}", flush=True)
    print(f"the day went well; {_cpu():.0f} CPU-s")
    return 0


def _cpu() -> float:
    """Seconds of this process and its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    sys.exit(main())
