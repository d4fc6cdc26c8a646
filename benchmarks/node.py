"""Measure everything around the network: whole runs with a pretend GPU of a given speed.

Usage: node.py [--rates R,R] [--workers N,N] [--objects many,few] [--score mean|predicted]
               [--images N] [--size PX] [--products FOLDER] [--csv FILE]

The run is the real one: worker processes, readers, batches, writers, tracing, ledger. Only the
engine and the stitching, which are a GPU's work, are replaced: a batch of B tiles takes B / rate
seconds on a GPU that all workers share, and the finished rows are those that the sample network
gave for the same drawn scene, which is repeated over each image. As on a GPU, one batch is queued
while another is run, and rows can be used when their batch is done.

The table has tiles/s from the first pixel to the last record; CPU-seconds of one core an image, in
total and by stage; the share of time in which the GPU waits between its batches; how long a thread
waits for Python's lock; and peak memory. A second table, node_model.csv, says what other numbers of
cores and GPUs would reach if CPU-seconds were the only limit beside the GPUs.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import resource
import struct
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import rasterio
import torch
from memory import append_rows, environment
from rasterio.transform import from_origin

from capecam.api import load_model, load_settings, run
from capecam.attribution.engine import Engine
from capecam.demo.scene import draw_scene
from capecam.grid import Cell, Tiling
from capecam.mosaic.reader import Reader
from capecam.pipeline import cell as cell_module
from capecam.pipeline import cell_runner
from capecam.pipeline.stage_timer import StageTimer
from capecam.pipeline.stitching import FinishedRows
from capecam.run import worker_process
from capecam.store.ledger import Ledger
from capecam.store.staleness import ImageHashes

DATA = Path(str(files("capecam.demo"))) / "data"
TILING = Tiling()
MARGIN = 250
BATCH = 64
ENVIRONMENT = "CAPECAM_NODE"
"""Variable with the folder of a measurement, for workers."""
KNOCK_S = 0.005
FEW = 6
"""Regions of a scene with few objects: 150 on an image of 12,500 x 12,500 px."""

serve = worker_process._serve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", default="183,716,1245,2000,inf", help="tiles/s of the GPU")
    parser.add_argument("--workers", default="1,2", help="worker processes that share it")
    parser.add_argument("--objects", default="many", help="many, few")
    parser.add_argument("--score", default="mean", help="mean, predicted: noise in the maps")
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--size", type=int, default=12_500)
    parser.add_argument(
        "--period", type=int, default=2500, help="edge of the scene, a multiple of the tiles' step"
    )
    parser.add_argument("--products", type=Path, help="where to keep what the network gave")
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/node.csv"))
    arguments = parser.parse_args()
    worker_process._serve = pretend  # named here, so that workers import this file
    sys.modules["node"] = sys.modules["__main__"]
    pretend.__module__ = "node"
    paths = [str(Path(__file__).parent.resolve()), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments.products = arguments.products or folder / "products"
        if not arguments.products.exists():
            record_products(arguments.products, arguments.period, arguments.score)
        scene = np.load(arguments.products / "scene.npy")
        draw(folder / "in", scene, arguments.images, arguments.size)
        for objects in arguments.objects.split(","):
            for workers in map(int, arguments.workers.split(",")):
                for rate in map(float, arguments.rates.split(",")):
                    row = measure(folder, arguments, objects, workers, rate)
                    print(row, flush=True)
                    append_rows(arguments.csv, [row])
            append_rows(arguments.csv.with_stem("node_model"), model(row))


def model(row: dict[str, Any]) -> list[dict[str, object]]:
    """Return the tiles/s that cores feed, and GPUs reach with them, from a measurement."""
    tiles = row["tiles"] / row["images"]
    rows = []
    for cores in (4, 8, 16, 32):
        fed = cores * tiles / row["cpu_s"]
        for rate in (183, 716, 1245, 2000):
            reached = {f"gpus_{n}": round(min(n * rate, fed)) for n in (1, 2, 4, 8)}
            keys = ("objects", "score", "cpu_s", "machine", "torch", "commit")
            rows.append(
                {"cores": cores, "fed": round(fed), "rate": rate, **reached}
                | {key: row[key] for key in keys}
            )
    return rows


def record_products(folder: Path, period: int, score: str) -> None:
    """Run the sample network on one scene, and keep the rows of its products.

    The scene repeats after a multiple of the tiles' step, and so do its maps.
    """
    folder.mkdir(parents=True)
    scene = np.moveaxis(draw_scene(0, period, period).pixels, -1, 0)
    np.save(folder / "scene.npy", scene)
    whole = np.pad(scene, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)), mode="wrap")
    write_image(folder / "in" / "scene.tif", whole, col=0)
    settings = load_settings(
        DATA / "demo.yaml",
        {
            "sources": [str(folder / "in")],
            "out": str(folder / "out"),
            "explain.score": score,
            "objects.explain": "none",
        },
    )
    model = load_model(DATA / "sample_model.safetensors", settings.model)
    run(settings, model=model)
    (cell,) = (folder / "out" / "cells").iterdir()
    for path in cell.glob("*.tif"):
        with rasterio.open(path) as dataset:
            unit = round(dataset.transform.a / 0.08)
            n, start = period // unit, MARGIN // unit
            rows = dataset.read()[:, start : start + n, start : start + n]
        np.save(folder / f"{path.stem}.npy", rows)


def draw(folder: Path, scene: np.ndarray, count: int, size: int) -> None:
    """Write images side by side, each with the scene repeated over it."""
    repeats = -(-size // scene.shape[1])
    pixels = np.tile(scene, (1, repeats, repeats))[:, :size, :size]
    for n in range(count):
        write_image(folder / f"{n}.tif", pixels, col=n * size)


def write_image(path: Path, pixels: np.ndarray, col: int) -> None:
    """Write (3, H, W) as a tiled JPEG, ``col`` pixels right of the city's corner."""
    path.parent.mkdir(exist_ok=True)
    profile = {
        "driver": "GTiff", "count": 3, "dtype": "uint8", "crs": "ESRI:102562",
        "height": pixels.shape[1], "width": pixels.shape[2], "tiled": True, "blockxsize": 512,
        "blockysize": 512, "compress": "JPEG", "photometric": "YCBCR",
        "transform": from_origin(-51000 + 0.08 * col, -3763000, 0.08, 0.08),
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(pixels)


def measure(
    folder: Path, arguments: argparse.Namespace, objects: str, workers: int, rate: float
) -> dict[str, object]:
    """Run all images in workers with a pretend GPU, and return the measurements."""
    products = arguments.products
    with tempfile.TemporaryDirectory(dir=folder) as name:
        stats = Path(name)
        options = {"rate": rate, "few": objects == "few", "products": str(products.resolve())}
        (stats / "options.json").write_text(json.dumps(options))
        os.environ[ENVIRONMENT] = name
        settings = load_settings(
            DATA / "demo.yaml",
            {
                "sources": [str(folder / "in")],
                "out": str(stats / "out"),
                "checkpoint": str(DATA / "sample_model.safetensors"),
                "explain.score": arguments.score,
                "explain.calibration": str(products / "out" / "run.json"),
                "compute.batch_size": BATCH,
                "compute.workers": workers,
                "compute.device": "cpu",
                "run.shard": "1/1",  # cells alone, without the city's layers
            },
        )
        outcome = run(settings)
        if outcome.exit_code:
            raise SystemExit(str(outcome.failures))
        found = [json.loads(path.read_text()) for path in sorted(stats.glob("worker-*.json"))]
        gpu = Gpu.read(stats / "gpu")
        disk = sum(path.stat().st_size for path in (stats / "out" / "cells").rglob("*.tif"))
    cpu: defaultdict[str, float] = defaultdict(float)
    for worker in found:
        for stage, seconds in worker["cpu"].items():
            cpu[stage.split()[0]] += seconds / arguments.images
    stages = ("decode", "batch", "write", "trace", "finish", "checksums", "rest")
    wall = max(w["ended"] for w in found) - min(w["began"] for w in found)
    return {
        "objects": objects,
        "score": arguments.score,
        "workers": workers,
        "rate": rate,
        "wall_s": round(wall, 1),
        "gpu_s": round(outcome.tiles / rate, 1),
        "tiles_per_s": round(outcome.tiles / wall, 1),
        "gpu_waited": round(gpu["idle"] / (gpu["end"] - gpu["start"]), 3),
        "cpu_s": round(sum(cpu[stage] for stage in stages), 2),
        **{f"{stage}_cpu_s": round(cpu[stage], 2) for stage in stages},
        "read_s": round(outcome.work["read"], 1),
        "wait_s": round(outcome.work["wait"], 1),
        "lock_share": round(max(w["late"] / w["knocking"] for w in found), 3),
        "lock_max_s": round(max(w["latest"] for w in found), 3),
        "peak_mb": max(w["peak_mb"] for w in found),
        "mb_an_image": round(disk / arguments.images / 1e6, 1),
        "images": arguments.images,
        "tiles": outcome.tiles,
        "size": arguments.size,
        "regions": found[0]["regions"],
        **environment("cpu"),
    }


class Gpu:
    """A pretend GPU, whose timeline is in a file that all workers lock."""

    FIELDS = struct.Struct("ddd")

    def __init__(self, path: Path, rate: float) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT)
        self._rate, self._own_end = rate, 0.0

    def queue(self, tiles: int) -> float:
        """Queue a batch, when the last one of this worker is done; return when it will be done."""
        sleep_until(self._own_end)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        now = time.monotonic()
        start, end, idle = self._load() or (now, now, 0.0)
        begin = max(now, end)
        self._own_end = begin + tiles / self._rate
        fields = start, self._own_end, idle + begin - end
        os.pwrite(self._file, self.FIELDS.pack(*fields), 0)
        fcntl.flock(self._file, fcntl.LOCK_UN)
        return self._own_end

    def _load(self) -> tuple[float, ...] | None:
        data = os.pread(self._file, self.FIELDS.size, 0)
        return self.FIELDS.unpack(data) if data else None

    @classmethod
    def read(cls, path: Path) -> dict[str, float]:
        """Return start and end of the timeline, and idle seconds between."""
        start, end, idle = cls.FIELDS.unpack(path.read_bytes())
        return {"start": start, "end": end, "idle": idle}


def sleep_until(moment: float) -> None:
    """Sleep, without Python's lock, until a time of the monotonic clock."""
    time.sleep(max(0.0, moment - time.monotonic()))


class Done:
    """In place of a CUDA event: the batch is done at a time."""

    def __init__(self, moment: float) -> None:
        self._moment = moment

    def synchronize(self) -> None:
        """Wait for the batch."""
        sleep_until(self._moment)


def pretend(parent: Any, settings: Any, level: int) -> None:
    """Be a worker with a pretend GPU, which notes what the work around it costs."""
    folder = Path(os.environ[ENVIRONMENT])
    options = json.loads((folder / "options.json").read_text())
    gpu, costs = Gpu(folder / "gpu", options["rate"]), Costs(folder)
    products = {
        path.stem: np.load(path, mmap_mode="r")
        for path in Path(options["products"]).glob("*.npy")
        if path.stem != "scene"
    }
    if options["few"]:
        products["classes"] = few_regions(np.array(products["classes"]))
    wide: dict[tuple[str, int], torch.Tensor] = {}
    done = threading.local()

    def explain(_: Engine, pixels: torch.Tensor, _valid: torch.Tensor) -> Any:
        done.moment = gpu.queue(len(pixels))
        zero = torch.zeros((), dtype=torch.int64)
        return SimpleNamespace(singular=zero, broken=zero)

    class Stitcher:
        """Yields the rows of stored products when the real one would."""

        def __init__(self, _plan: Any, cell: Cell, _device: torch.device) -> None:
            self._core, self._row = cell.core, TILING.window_read(cell.core).row
            self.valid_px = cell.core.height * cell.core.width

        def add(self, batch: Any, _maps: Any) -> Iterator[FinishedRows]:
            for window in batch.windows:
                yield from self._advance(window.row)

        def finish(self) -> Iterator[FinishedRows]:
            yield from self._advance(self._core.bottom)

        def _advance(self, until: int) -> Iterator[FinishedRows]:
            while self._row < until:
                bottom = min(self._row + TILING.step, until)
                top = max(self._row, self._core.row)
                if top < bottom:
                    rows = {name: self._rows(name, top, bottom) for name in products}
                    yield FinishedRows(top, rows, Done(done.moment))  # type: ignore[arg-type]
                self._row = bottom

        def _rows(self, name: str, top: int, bottom: int) -> torch.Tensor:
            unit = products["classes"].shape[1] // products[name].shape[1]
            width = -(-self._core.width // unit)
            if (name, width) not in wide:
                repeats = -(-width // products[name].shape[2])
                across = np.tile(products[name], (1, 1, repeats))[:, :, :width]
                wide[name, width] = torch.from_numpy(np.concatenate([across, across], axis=1))
            first = -(-top // unit) % products[name].shape[1]
            return wide[name, width][:, first : first + -(-bottom // unit) - -(-top // unit)]

    Engine.__call__ = explain  # type: ignore[method-assign]
    cell_module.Stitcher = Stitcher  # type: ignore[misc, assignment]
    costs.charge()
    serve(parent, settings, level)


def few_regions(classes: np.ndarray) -> np.ndarray:
    """Keep only some regions of a scene."""
    from scipy.ndimage import label  # noqa: PLC0415

    regions, _ = label(classes[0] > 0)
    numbers = np.linspace(1, regions.max(), FEW).astype(int)
    return np.where(np.isin(regions, numbers), classes, 0)


class Costs:
    """Adds up CPU-seconds by stage, and writes them after each cell."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"worker-{os.getpid()}.json"
        self._lock = threading.Lock()
        self._cpu: defaultdict[str, float] = defaultdict(float)
        self._late = self._latest = self._knocking = 0.0
        self._regions = 0
        self._before = self._began = 0.0

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Charge the body's CPU-seconds, in this thread, to a stage."""
        started = time.thread_time()
        try:
            yield
        finally:
            seconds = time.thread_time() - started
            with self._lock:
                self._cpu[stage] += seconds

    def charge(self) -> None:
        """Charge what this process does from now on."""
        costs = self

        class Timer(StageTimer):
            @contextmanager
            def __call__(self, stage: str, device: torch.device | None = None) -> Iterator[None]:
                with costs("batch" if stage == "read" else stage), super().__call__(stage, device):
                    yield

        cell_module.StageTimer = Timer  # type: ignore[misc]
        Reader.read = self._charged("decode", Reader.read)  # type: ignore[method-assign]
        ImageHashes.of = self._charged("checksums", ImageHashes.of)  # type: ignore[method-assign]
        cell_runner.products_in = self._charged("checksums", cell_runner.products_in)
        Ledger.commit = self._noted(Ledger.commit)  # type: ignore[method-assign]
        CellRunner = cell_runner.CellRunner
        load_city = CellRunner.load_city

        def ready(runner: Any, *arguments: Any) -> None:
            load_city(runner, *arguments)
            # Libraries and the network are loaded.
            self._before, self._began = cpu_s(), time.monotonic()
            threading.Thread(target=self._knock, daemon=True).start()

        CellRunner.load_city = ready  # type: ignore[method-assign]

    def _charged(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def charged(*arguments: Any) -> Any:
            with self(stage):
                return function(*arguments)

        return charged

    def _noted(self, commit: Callable[..., None]) -> Callable[..., None]:
        def noted(ledger: Ledger, cell: Cell, work: Path, record: Any) -> None:
            commit(ledger, cell, work, record)
            self._regions = record.detections
            self._write()

        return noted

    def _knock(self) -> None:
        """Measure how late this thread gets Python's lock."""
        while True:
            started = time.perf_counter()
            time.sleep(KNOCK_S)
            late = time.perf_counter() - started - KNOCK_S
            self._late += late
            self._knocking += late + KNOCK_S
            self._latest = max(self._latest, late)

    def _write(self) -> None:
        with self._lock:
            cpu = dict(self._cpu)
        total = cpu_s() - self._before
        result = {
            "cpu": cpu | {"rest": total - sum(cpu.values())},
            "began": self._began,
            "ended": time.monotonic(),
            "late": self._late,
            "latest": self._latest,
            "knocking": self._knocking,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "regions": self._regions,
        }
        self._path.write_text(json.dumps(result))


def cpu_s() -> float:
    """Return the CPU-seconds of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
