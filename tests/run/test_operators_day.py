"""A day of an operator: every command as it is typed, with its results checked.

A sample city of ten small images is delivered and explained in a first nightly run. Then two images
are new, one has changed, and one is broken; the machine is switched off during the run; the next
run finishes all but the broken image; it is delivered again. The result is verified, scored,
counted, audited, drawn, exported, opened in QGIS, compared with the year before, and at the end
with an uninterrupted run over the same images: the products are the same, byte for byte.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import yaml
from rasterio.windows import Window
from shapely import box
from support.commands import capecam, in_the_making, same_products, wait_for

ROOT = Path(__file__).parents[2]
COLUMNS = "ABCDE"
"""Columns of images from west to east, of two rows. E follows in the second delivery; the images
between A and E are far enough from both to stay unchanged."""
SEED = 9
"""Seed of a city in which small images show all three classes."""
SIZE = 480
"""Size of the demo: a column has to be wider than a tile of 160 px reaches."""
NEW, UNTOUCHED = ("E1", "E2"), ("C1", "C2")
WEST = "A1", "A2"
"""Two images: the one that shows more objects changes, the other one breaks."""
QGIS_PYTHON = "/usr/bin/python3"


@dataclass
class Day:
    """Folder of the day, and the state that its steps share."""

    folder: Path
    core: bool
    """Only the runs and the comparison, with one heatmap of what is detected, in one process."""
    changed: str = field(default=WEST[0], init=False)
    """The image that was delivered wrong at first."""
    broken: str = field(default=WEST[1], init=False)
    """The image that is cut off in the second delivery."""
    interrupted: int = field(default=0, init=False)
    """Number of cells that were in progress when the machine was switched off."""
    began: float = field(default=0.0, init=False)

    @property
    def config(self) -> Path:
        return self.folder / "city.yaml"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def truth(self) -> Path:
        return self.folder / "demo" / "truth.gpkg"

    def nightly_run(self) -> subprocess.Popen[bytes]:
        """Start ``make nightly`` as a timer does, or its first step, in a session of its own."""
        self.began = time.time()
        words = [ROOT / "scripts" / "nightly.py", self.config]
        if self.core:
            words = ["-m", "capecam", "run", "--config", self.config]
        with (self.folder / "nightly.log").open("w") as log:
            return subprocess.Popen(
                [sys.executable, *map(str, words)],
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def log(self) -> list[str]:
        """Return the log of the last run."""
        path = self.folder / "nightly.log"
        if not self.core:
            assert not path.read_text(), f"printed without a terminal:\n{path.read_text()}"
            path = max((self.out / "logs").glob("*.log"))
        return path.read_text().splitlines()

    def cells(self) -> list[str]:
        """Return the names of finished cells."""
        found = [path.parent.name for path in self.out.glob("cells/*/cell.json")]
        return [name for name in found if not name.startswith(".")]

    def finished_at(self, name: str) -> float:
        """Return the time at which a cell was finished; 0 if it is not."""
        record = self.out / "cells" / name / "cell.json"
        return record.stat().st_mtime if record.exists() else 0.0

    def deliver(self, *names: str) -> None:
        """Copy images of the survey to the folder of the run."""
        for name in names:
            shutil.copyfile(self.folder / "survey" / f"{name}.tif", self.image(name))

    def image(self, name: str) -> Path:
        return self.folder / "images" / f"{name}.tif"


def arrives(day: Day) -> None:
    """Draw a survey in small images and deliver a part, one image under another's name."""
    capecam("demo", day.folder / "demo", "--size", SIZE, "--seed", SEED)
    (day.folder / "images").mkdir()
    (day.folder / "survey").mkdir()
    _cut(day)
    first = [f"{column}{row}" for column in COLUMNS[:-1] for row in (1, 2)]
    day.deliver(*first)
    objects = {name: _objects(day, name) for name in first}
    day.broken, day.changed = sorted(WEST, key=objects.__getitem__)
    wrong = max(set(first) - set(WEST), key=lambda name: (objects[name], name))
    enough = objects[day.changed] and objects[wrong]
    assert enough, f"too little to see in {objects}; give another --seed, or a larger --size"
    _show(day, wrong, in_place_of=day.changed)
    settings = yaml.safe_load((day.folder / "demo" / "demo.yaml").read_text())
    settings |= {
        "checkpoint": "demo/model.safetensors",
        "tiling": {"size": 160, "overlap": 40, "anchor": [0, 0]},
    }
    settings["explain"]["calibration_tiles"] = 16
    settings["objects"] = {"explain": 20}
    if day.core:
        settings["tiling"]["overlap"] = 0
        settings["explain"] |= {"methods": ["gradcam"], "where": "detected"}
        settings["run"] = {"in_process": True}
    day.config.write_text(yaml.safe_dump(settings))


def _cut(day: Day) -> None:
    """Cut the four images of the demo into ten."""
    whole = 2 * SIZE - 60
    pixels, valid, profile = _joined(day.folder / "demo" / "images", whole)
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


def _joined(folder: Path, whole: int) -> tuple[np.ndarray, np.ndarray, dict]:
    """Return the images as one: pixels (3, whole, whole), validity, and a rasterio profile."""
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
    """Return the number of objects that lie inside an image."""
    with rasterio.open(day.image(name)) as dataset:
        whole = box(*dataset.bounds)
    return int(gpd.read_file(day.truth).within(whole).sum())


def _show(day: Day, other: str, *, in_place_of: str) -> None:
    """Write the pixels of another image, as an error of the first delivery."""
    with (
        rasterio.open(day.image(other)) as source,
        rasterio.open(day.image(in_place_of), "r+") as target,
    ):
        common = Window(0, 0, min(source.width, target.width), min(source.height, target.height))
        target.write(source.read(window=common), window=common)


def first_plan(day: Day) -> None:
    text = capecam("plan", "--config", day.config).stdout
    assert "cells     8, of which 8 are to be made" in text, f"the plan says:\n{text}"
    assert "time      unknown" in text, "the plan knows a speed that nobody has measured"
    assert not day.out.exists(), "a plan has made the output folder"


def first_run(day: Day) -> None:
    code = day.nightly_run().wait()
    assert code == 0, f"the run ended with {code}:\n" + "\n".join(day.log())
    assert day.core or day.log()[-1].endswith("exit 0: done"), f"the log ends: {day.log()[-1]}"
    wanted = ("capecam.qgz", "report.html", "classes.vrt", "gradcam.vrt", "detections.gpkg",
              "summary.csv", "run.json", "cells.gpkg")  # fmt: skip
    missing = [name for name in wanted if not (day.out / name).exists()]
    assert not missing, f"not there: {', '.join(missing)}"
    assert _count(day.out) > 0, "nothing was found in the city"
    shutil.copytree(day.out, day.folder / "last-year")


def second_delivery(day: Day) -> None:
    """Deliver two new images, the right one in place of the wrong one, and half of another."""
    day.deliver(*NEW, day.changed)
    whole = day.image(day.broken).read_bytes()
    day.image(day.broken).write_bytes(whole[: len(whole) // 2])


def second_plan(day: Day) -> None:
    text = capecam("plan", "--config", day.config).stdout
    for name in (*NEW, day.changed):
        assert f"make      {name}: " in text, f"the plan leaves {name} out:\n{text}"
    assert "is shorter than its own" in text, f"the plan does not see what is cut off:\n{text}"
    for name in UNTOUCHED:
        assert f"make      {name}: " not in text, f"the plan makes {name} again:\n{text}"


def machine_dies(day: Day) -> None:
    """Kill all processes of a run at once."""
    run = day.nightly_run()
    wait_for(lambda: _new_cells(day) and in_the_making(day.out))
    assert run.poll() is None, f"the run ended before it could be killed: {run.poll()}"
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    day.interrupted = len(in_the_making(day.out))
    assert not set(NEW) <= set(_new_cells(day)), "the run had finished all new images"


def _new_cells(day: Day) -> list[str]:
    """Return the cells that the last run has finished."""
    return sorted(name for name in day.cells() if day.finished_at(name) > day.began)


def next_run(day: Day) -> None:
    before = {name: day.finished_at(name) for name in UNTOUCHED}
    code = day.nightly_run().wait()
    log = day.log()
    assert code == 3, f"the run ended with {code}, not 3:\n" + "\n".join(log)
    assert day.core or "exit 3: done, but for" in log[-1], f"the log ends with {log[-1]}"
    (said,) = [line for line in log if ": cells: " in line]
    known = not day.interrupted or f"; {day.interrupted} interrupted" in said
    assert known, said
    assert " done before, " in said, f"the run starts as if it were the first: {said}"
    named = [line for line in log if line.startswith(f"capecam: {day.broken} failed: ")]
    assert len(named) == 1, f"the broken image is not named once: {named}"
    assert "it was not copied whole" in named[0], f"the log does not say what is wrong: {named[0]}"
    content = any("0 of them bad" in line for line in log)
    assert day.core or content, "verify was not content"
    assert before == {name: day.finished_at(name) for name in UNTOUCHED}, (
        "untouched cells were made again"
    )
    assert not list((day.out / "cells").glob(".work-*")), "something half-made was left"
    report = (day.out / "report.html").read_text()
    assert f"{day.broken}" in report, "the report does not name the broken image"


def repaired(day: Day) -> None:
    day.deliver(day.broken)
    done = capecam("run", "--config", day.config, "--retry-failed")
    assert " failed" not in done.stdout, f"something failed:\n{done.stdout}"
    said = done.stdout.rstrip()
    assert said.endswith("in a browser"), f"the run does not say what next:\n{said}"
    assert not json.loads((day.out / "run.json").read_text())["failures"], "failures are left"


def nothing_to_do(day: Day) -> None:
    text = capecam("plan", "--config", day.config).stdout
    assert "cells     10, of which 0 are to be made" in text, f"not all is done:\n{text}"


def verify(day: Day) -> None:
    text = capecam("verify", day.out).stdout.strip()
    assert text.endswith("0 of them bad"), text


def audit(day: Day) -> None:
    capecam("audit", day.out, "--sample", 2)
    assert (day.out / "audit.json").exists(), "there is no audit.json"


def zones(day: Day) -> None:
    text = capecam("summarize", day.out, "--zones", _suburbs(day)).stdout
    assert {"West", "East"} <= set(text.split()), f"a suburb is not named:\n{text}"
    assert (day.out / "zones.gpkg").exists(), "there is no zones.gpkg"


def _suburbs(day: Day) -> Path:
    """Write two halves of the city as zones."""
    path = day.folder / "suburbs.gpkg"
    if not path.exists():
        with rasterio.open(day.out / "classes.vrt") as dataset:
            (left, bottom, right, top), crs = dataset.bounds, dataset.crs
        middle = (left + right) / 2
        halves = [box(left, bottom, middle, top), box(middle, bottom, right, top)]
        gpd.GeoDataFrame({"name": ["West", "East"]}, geometry=halves, crs=crs).to_file(path)
    return path


def evaluate(day: Day) -> None:
    text = capecam("evaluate", day.out, "--truth", day.truth).stdout
    (row,) = [line for line in text.splitlines() if line.strip().startswith("all classes")]
    found, matched = json.loads((day.out / "evaluation.json").read_text()), row.split()
    assert found, "evaluation.json is empty"
    assert float(matched[4]) > 0.5, f"the sample network finds little that is there:\n{text}"


def report(day: Day) -> None:
    text = capecam("report", day.out, "--panels", 1).stdout.strip()
    assert text == str(day.out / "report.html"), f"report prints {text}"
    page = Path(text).read_text()
    assert "http://" not in page.replace("http://www.w3.org", ""), "the report needs a network"


def panel(day: Day) -> None:
    capecam("panel", day.out, "--top", 1)
    assert len(list((day.out / "panels").glob("*.png"))) == 1


def export(day: Day) -> None:
    path = Path(capecam("export", day.out, "--format", "geojson").stdout.strip())
    count = len(json.loads(path.read_text())["features"])
    assert count == _count(day.out), f"{path} has {count} objects, not {_count(day.out)}"


def qgis(day: Day) -> None:
    probe = [QGIS_PYTHON, "-c", "import qgis.core"]
    try:
        found = subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        found = False
    if not found:
        return  # the other tests of QGIS say that they are skipped
    command = [QGIS_PYTHON, ROOT / "scripts" / "qgis_check.py", day.out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"QGIS is not content:\n{done.stdout}{done.stderr}"


def years(day: Day) -> None:
    before = day.folder / "last-year"
    text = capecam("summarize", before, day.out, "--zones", _suburbs(day)).stdout
    changes = gpd.read_parquet(day.out / "changes.parquet")
    counts = changes["status"].value_counts()
    assert counts.get("kept"), f"nothing is as it was last year:\n{text}"
    for status in ("new", "gone"):
        assert counts.get(status), f"of the image that has changed nothing is {status}:\n{text}"
    assert counts.get("unseen"), f"what last year's survey did not cover is not unseen:\n{text}"


def undisturbed(day: Day) -> None:
    """Run the same images once more without interruption, on the same colour scale."""
    other = day.folder / "undisturbed"
    capecam(
        "run", "--config", day.config, "--out", other, "--in-process",
        "--calibration", day.out / "run.json",
    )  # fmt: skip
    same_products(day.out, other)


def _count(out: Path) -> int:
    return len(gpd.read_parquet(out / "detections.parquet", columns=["id", "geometry"]))


CORE = arrives, first_run, second_delivery, machine_dies, next_run, repaired, undisturbed
ALL = (
    arrives, first_plan, first_run, second_delivery, second_plan, machine_dies, next_run,
    repaired, nothing_to_do, verify, audit, zones, evaluate, report, panel, export, qgis, years,
    undisturbed,
)  # fmt: skip


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_a_city_survives_a_dead_machine_and_a_broken_image(tmp_path: Path) -> None:
    day = Day(tmp_path, core=True)
    for step in CORE:
        step(day)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_of_the_day(tmp_path: Path) -> None:
    day = Day(tmp_path, core=False)
    for step in ALL:
        step(day)
