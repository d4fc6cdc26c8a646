"""Measure ``capecam finish`` of a city at full size: virtual rasters, overviews, detections.

Usage: finish.py BOUNDS --like OUT [--detections N] [--images N] [--csv FILE]

BOUNDS is the file that ``city.py`` reads. OUT is a finished run, whose first cell's rasters are
repeated over every image at full size (``make demo`` leaves one in demo/out). Images of one size
share their files by hard links; each has its own detections. The photographs are black. Each step
runs in a child process: ``capecam finish`` from nothing; with one image changed; and after a run,
which has measured the evidence of one cell after the other beside them.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import shapely
from city import GSD, LINE
from memory import append_rows, environment
from rasterio.transform import from_origin

from capecam.detections.evidence_cache import EVIDENCE_CACHE
from capecam.detections.measurement import write_pieces
from capecam.detections.regions import Pieces
from capecam.grid import Cell, Grid, Tiling
from capecam.io.cog import CogSet, Product
from capecam.mosaic.city import open_city
from capecam.runtime.files import write_json
from capecam.store.file_names import PIECES, RUN_JSON
from capecam.store.ledger import CELL_JSON, Ledger
from capecam.store.provenance import settings_of
from capecam.store.records import FileFacts, GridRecord
from capecam.store.run_folder import known_run

TILING = Tiling()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bounds", type=Path)
    parser.add_argument("--like", type=Path, required=True, help="a finished run")
    parser.add_argument("--detections", type=int, default=30, help="pieces per image")
    parser.add_argument("--images", type=int, default=None, help="only the first N")
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/finish.csv"))
    arguments = parser.parse_args()
    lines = LINE.findall(arguments.bounds.read_text())[: arguments.images]
    with tempfile.TemporaryDirectory(dir=arguments.like.parent) as folder:
        out = Path(folder)
        build(out, draw(out / "in", lines), arguments.like, arguments.detections)
        rows = [measure(out, "finish, from nothing")]
        change_first_image(out)
        rows.append(measure(out, "finish, one image changed"))
        for path in (*out.glob("*.overview.tif"), out / EVIDENCE_CACHE):
            path.unlink()
        rows.append(measure(out, "evidence beside the run", BESIDE))
        rows.append(measure(out, "finish, after the last cell"))
    for row in rows:
        print(row, flush=True)
    append_rows(arguments.csv, rows)


def draw(folder: Path, lines: list[tuple[str, ...]]) -> Path:
    """Write the layout as sparse images, which take no disk space."""
    folder.mkdir()
    for name, *bounds in lines:
        left, bottom, right, top = map(float, bounds)
        profile = {
            "driver": "GTiff", "count": 3, "dtype": "uint8", "crs": "ESRI:102562",
            "width": round((right - left) / GSD), "height": round((top - bottom) / GSD),
            "transform": from_origin(left, top, GSD, GSD),
            "tiled": True, "blockxsize": 512, "blockysize": 512, "SPARSE_OK": True,
        }  # fmt: skip
        with rasterio.open(folder / f"{name}.tif", "w", **profile):
            pass
    return folder


def build(out: Path, images: Path, like: Path, detections: int) -> None:
    """Write an output folder as ``run`` leaves it, without the city products."""
    run = known_run(like)
    mosaic = open_city([str(images)], (0.0, 0.0)).mosaic
    cells = mosaic.cells(TILING, 12_500)
    changed = {
        "settings": {
            **run.settings,
            "sources": [str(images)],
            "out": str(out),
            "objects": {"explain": "none"},  # there is no network that found these
        },
        "objects": {},
        "anchor": mosaic.grid.anchor,
        "grid": GridRecord.of(mosaic.grid),
        "cells": tuple(cell.name for cell in cells),
    }
    run.model_copy(update=changed).write(out / RUN_JSON)
    names = [entry.name for entry in settings_of(like, run).model.classes]
    template = min(path.parent for path in like.glob(f"cells/*/{CELL_JSON}"))
    folders: dict[tuple[int, int], Path] = {}
    for cell in cells:
        folder = Ledger.of(out).folder / cell.name
        folder.mkdir(parents=True)
        first = folders.setdefault(cell.core.shape, folder)
        if first is folder:
            write_rasters(folder, mosaic.grid.crop(cell.core), template)
            (folder / "objects.tif").unlink(missing_ok=True)
        else:
            for path in first.glob("*.tif"):
                (folder / path.name).hardlink_to(path)
        write_pieces(draw_pieces(cell, detections), mosaic.grid, names, folder / PIECES)
        linked = first != folder
        files = json.loads((first / CELL_JSON).read_text())["files"] if linked else {}
        write_record(cell, folder, files, template)


def write_rasters(folder: Path, grid: Grid, template: Path) -> None:
    """Write the rasters of the template, repeated to fill the grid."""
    patterns, products = {}, []
    for path in sorted(template.glob("*.tif")):
        with rasterio.open(path) as dataset:
            patterns[path.stem] = dataset.read()
            index = path.stem == "classes"
            palette = {k: dataset.colormap(1)[k][:3] for k in range(4)} if index else None
            products.append(
                Product(
                    path.stem, dataset.descriptions, dataset.dtypes[0], dataset.nodata,
                    dataset.scales[0], palette, coarse=dataset.res[0] > grid.pixel[0] * 2,
                )
            )  # fmt: skip
    with CogSet(folder, grid, grid.coarsen(TILING.stride), products) as cogs:
        for product in products:
            if product.name in cogs.writers:
                writer, pattern = cogs.writers[product.name], patterns[product.name]
                size = (grid.coarsen(TILING.stride) if product.coarse else grid).window
                cols = np.arange(size.width) % pattern.shape[2]
                for row in range(0, size.height, 512):
                    rows = np.arange(row, min(row + 512, size.height)) % pattern.shape[1]
                    writer.write(pattern[:, rows][:, :, cols])
        cogs.finish()


def draw_pieces(cell: Cell, count: int) -> Pieces:
    """Draw rectangles of about the annotated sizes; a tenth of them touch the core's edges."""
    core, rng = cell.core, np.random.default_rng(abs(hash(cell.core)) % 2**32)
    count = max(1, count * core.width * core.height // 12_500**2)
    width, height = rng.integers(4, 60, (2, count))
    width, height = np.minimum(width, core.width), np.minimum(height, core.height)
    left = core.col + (rng.random(count) * (core.width - width + 1)).astype(int)
    top = core.row + (rng.random(count) * (core.height - height + 1)).astype(int)
    left[rng.random(count) < 0.05] = core.col
    top[rng.random(count) < 0.05] = core.row
    shapes = shapely.box(left, top, left + width, top + height)
    levels = (width * height * 200).astype(np.int64)
    return Pieces(rng.integers(1, 4, count), shapes, levels, (frozenset([cell.image]),) * count)


def write_record(cell: Cell, folder: Path, known: dict[str, object], template: Path) -> None:
    """Write ``cell.json``: the template's, with the entries of this cell."""
    w = cell.core
    core = {"row": w.row, "col": w.col, "height": w.height, "width": w.width}
    files = {p.name: known.get(p.name) or FileFacts.of(p).to_json() for p in folder.glob("*.tif")}
    record = json.loads((template / CELL_JSON).read_text())
    changed = {
        "cell": cell.name, "image": cell.image, "tiles": TILING.count(w), "images": {},
        "basis": record["basis"] | {"core": core}, "files": files,
    }  # fmt: skip
    write_json(folder / CELL_JSON, record | changed)


def change_first_image(out: Path) -> None:
    """Change the hashes of the first cell, as if its image had been processed again."""
    path = min(out.glob(f"cells/*/{CELL_JSON}"))
    write_json(path, json.loads(re.sub(r'"sha256": "\w{4}', '"sha256": "0000', path.read_text())))


def measure(out: Path, step: str, program: str | None = None) -> dict[str, object]:
    """Return time and peak memory of a step in a process of its own, ``capecam finish`` if no other
    program is given; CPU-seconds are those of its children, too."""
    command = [sys.executable, "-c", program or FINISH, str(out)]
    started, before = time.perf_counter(), cpu_s()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row = json.loads(done.stdout.splitlines()[-1])
    seconds = {
        "seconds": round(time.perf_counter() - started, 1), "cpu_s": round(cpu_s() - before, 1),
    }  # fmt: skip
    return {"step": step, **seconds, **row, **environment()}


def cpu_s() -> float:
    """Return the CPU time of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


FINISH = """
import json, sys
from pathlib import Path
from capecam.analysis.benchmark.measure import peak_resident_mb
from capecam.run.city_products import finish
totals = finish(Path(sys.argv[1])).totals
count = sum(count for count, _ in totals.by_class.values())
print(json.dumps({"cells": totals.cells, "detections": count, "peak_mb": peak_resident_mb()}))
"""

BESIDE = """
import json, re, sys
from pathlib import Path
from capecam.detections.early_evidence import EarlyEvidence
from capecam.io.gdal import gdal_settings
from capecam.store.run_folder import RunFolder
run = RunFolder.open(Path(sys.argv[1]))
cores = {name: run.core(name) for name in run.cells}
with gdal_settings():
    early = EarlyEvidence(run.out, cores, set(cores))
    count = sum(early.settle(name) for name in cores)
    early.save()
status = Path("/proc/self/status").read_text()  # without torch, unlike peak_resident_mb
peak_mb = int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) // 1024
print(json.dumps({"cells": len(cores), "detections": count, "peak_mb": peak_mb}))
"""


if __name__ == "__main__":
    main()
