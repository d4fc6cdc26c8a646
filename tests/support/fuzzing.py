"""Files that broke on the way, by a seed, each judged in a process of its own.

A case is a number: it draws a good file from a table, how to spoil it, and where. The process that
reads it may take 4 GB and so many seconds, may not end by itself, and says what came of it.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import random
import resource
import select
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
import shapely
import torch
import yaml
from safetensors.torch import save_file

from capecam.errors import CapecamError
from capecam.grid import Window
from capecam.io.vector_reader import read_polygons
from capecam.model.checkpoint import read_weights
from capecam.mosaic.city import open_city
from capecam.mosaic.reader import Reader
from capecam.settings import Settings
from capecam.settings.loading import load
from support.cities import CRS, blobs, write_tif

MEMORY_BYTES = 4 << 30
SECONDS = 60

FINE = ("as it was", "read", "refused")
"""Verdicts: nothing differs; what a format without checksums holds now; one clear line."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a case."""

    kind: str
    mutation: str
    outcome: str
    """One of FINE, else a finding: traceback, crash, hang, memory, wrong, unclear."""
    detail: str = ""

    @property
    def finding(self) -> bool:
        return self.outcome not in FINE


# Good files


def _raster(**profile: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        options = dict(profile)
        pixels = blobs(150, 210, seed=7)
        if "bands" in options:
            pixels = np.concatenate([pixels, np.full((1, 150, 210), 255, np.uint8)])
            options["photometric"], options["alpha"] = "rgb", "yes"
            del options["bands"]
        if options.pop("masked", False):
            options["mask"] = np.pad(np.full((130, 200), 255, np.uint8), ((20, 0), (10, 0)))
        return write_tif(folder / "image.tif", pixels, **options)

    return make


RASTERS: dict[str, Callable[[Path], Path]] = {
    "deflate tiled": _raster(blockxsize=64, blockysize=64, photometric="rgb"),
    "deflate striped predictor": _raster(tiled=False, predictor=2, photometric="rgb"),
    "lzw planar": _raster(compress="lzw", interleave="band", photometric="rgb"),
    "zstd bigtiff": _raster(compress="zstd", BIGTIFF="YES", photometric="rgb"),
    "jpeg": _raster(compress="jpeg", photometric="ycbcr", blockxsize=64, blockysize=64),
    "webp": _raster(compress="webp", photometric="rgb"),
    "packbits striped": _raster(compress="packbits", tiled=False, photometric="rgb"),
    "raw striped": _raster(compress="none", tiled=False, photometric="rgb"),
    "alpha": _raster(bands=4),
    "mask": _raster(masked=True, photometric="rgb"),
    "nodata": _raster(nodata=0, photometric="rgb"),
}


def _state() -> dict[str, torch.Tensor]:
    return {"encoder.weight": torch.arange(600.0).view(10, 60), "encoder.bias": torch.ones(10),
            "count": torch.tensor(3), "head.weight": torch.rand(4, 10).half()}  # fmt: skip


def _torch(*, new: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        content = {"epoch": 3, "state_dict": _state(), "hyper_parameters": {"lr": 1e-3}}
        torch.save(content, folder / "model.ckpt", _use_new_zipfile_serialization=new)
        return folder / "model.ckpt"

    return make


def _safetensors(folder: Path) -> Path:
    save_file(_state(), folder / "model.safetensors")
    return folder / "model.safetensors"


CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    "torch zip": _torch(new=True),
    "torch legacy": _torch(new=False),
    "safetensors": _safetensors,
}


FEATURES, PLACE = 30, (-51_000, -3_764_000)


def _vector(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        boxes = [shapely.box(*PLACE, PLACE[0] + n + 1, PLACE[1] + 1) for n in range(FEATURES)]
        names = [f"z{n}" for n in range(FEATURES)]
        table = gpd.GeoDataFrame({"name": names}, geometry=boxes, crs=CRS)
        path = folder / f"zones.{suffix}"
        table.to_parquet(path) if suffix == "parquet" else table.to_file(path)
        return path

    return make


VECTORS = {suffix: _vector(suffix) for suffix in ("gpkg", "geojson", "shp", "fgb", "parquet")}


def _yaml(folder: Path) -> Path:
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(Settings().model_dump(mode="json")))
    return path


KINDS: dict[str, dict[str, Callable[[Path], Path]]] = {
    "raster": RASTERS,
    "checkpoint": CHECKPOINTS,
    "vector": VECTORS,
    "yaml": {"settings": _yaml},
}


@cache
def _good(kind: str, name: str, folder: Path) -> tuple[Path, bytes]:
    """The file, and what is in it."""
    place = folder / "good" / f"{kind} {name}"
    place.mkdir(parents=True, exist_ok=True)
    path = KINDS[kind][name](place)
    return path, path.read_bytes()


# Mutations


def _place(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.choice([1, 4, 16, 256, 4096]))


def flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flip_head(data: bytes, rng: random.Random) -> bytes:
    """Where most of what can be misread stands."""
    head = min(len(data), 512)
    return flip(data[:head], rng) + data[head:]


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def zero(data: bytes, rng: random.Random) -> bytes:
    start, end = _place(data, rng)
    return data[:start] + bytes(end - start) + data[end:]


def swap(data: bytes, rng: random.Random) -> bytes:
    (a, b), (c, d) = sorted([_place(data, rng), _place(data, rng)])
    b, d = min(b, c), max(d, c)
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def double(data: bytes, rng: random.Random) -> bytes:
    start, end = _place(data, rng)
    return data[:end] + data[start:end] * rng.choice([1, 3]) + data[end:]


def drop(data: bytes, rng: random.Random) -> bytes:
    start, end = _place(data, rng)
    return data[:start] + data[end:]


INTERESTING = (0, 1, 2, 3, 7, 8, 16, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)


@dataclass(frozen=True, slots=True)
class Entry:
    """A field of a TIFF directory, at its place in the file."""

    place: int
    tag: int
    kind: int
    count: int
    big: bool


def entries(data: bytes) -> Iterator[Entry]:
    """Of all directories of a little-endian TIFF."""
    big = data[2] == 43
    head, _, field = ("<Q", 8, 20) if big else ("<I", 4, 12)
    (at,) = struct.unpack_from(head, data, 8 if big else 4)
    while at:
        (count,) = struct.unpack_from("<Q" if big else "<H", data, at)
        first = at + (8 if big else 2)
        for place in range(first, first + count * field, field):
            tag, kind, number = struct.unpack_from("<HHQ" if big else "<HHI", data, place)
            yield Entry(place, tag, kind, number, big)
        (at,) = struct.unpack_from(head, data, first + count * field)


def edit_tag(data: bytes, rng: random.Random) -> bytes:
    """Another type, count, value or place of one or two fields; or what stands at the place."""
    changed, fields = bytearray(data), list(entries(data))
    for _ in range(rng.choice([1, 1, 2])):
        entry = rng.choice(fields)
        value = entry.place + (12 if entry.big else 8)
        what = rng.choice(["kind", "count", "value", "value", "value", "near", "array", "tag"])
        if what == "kind":
            struct.pack_into("<H", changed, entry.place + 2, rng.randrange(0, 19))
        elif what == "tag":
            struct.pack_into("<H", changed, entry.place, rng.choice(fields).tag)
        elif what == "count":
            struct.pack_into("<I", changed, entry.place + 4, rng.choice(INTERESTING))
        elif what == "value":
            struct.pack_into("<I", changed, value, rng.choice(INTERESTING))
        elif what == "near":
            (now,) = struct.unpack_from("<I", data, value)
            step = rng.choice([-1, 1, now, 64])
            struct.pack_into("<I", changed, value, (now + step) % 2**32)
        else:
            (there,) = struct.unpack_from("<I", data, value)
            if there + 4 <= len(data):
                struct.pack_into("<I", changed, there, rng.choice([*INTERESTING, len(data)]))
    return bytes(changed)


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flip, flip_head, cut, zero, swap, double, drop,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """A spoiled file."""

    kind: str
    name: str
    mutation: str
    good: Path
    path: Path


def make_case(kind: str, seed: int, folder: Path) -> Case:
    """Write the file of a seed."""
    rng = random.Random(f"{kind} {seed}")
    name = rng.choice(sorted(KINDS[kind]))
    good, data = _good(kind, name, folder)
    tags = (edit_tag,) * len(MUTATIONS) if kind == "raster" else ()
    mutate = rng.choice(MUTATIONS + tags)
    place = folder / f"{kind}-{seed}"
    place.mkdir()
    for beside in good.parent.iterdir():  # a shapefile has several
        (place / beside.name).write_bytes(beside.read_bytes())
    (place / good.name).write_bytes(mutate(data, rng))
    return Case(kind, name, mutate.__name__, good, place / good.name)


# What reading says; in a process of its own


def _read_raster(case: Case) -> str:
    city = open_city([str(case.path)], None)
    (source,) = city.mosaic.sources
    window = source.window
    part = Window(window.row, window.col, min(window.height, 400), min(window.width, 400))
    with Reader(city.mosaic) as reader:
        pixels, valid = reader.read(part)
    with rasterio.open(case.path, driver="GTiff") as dataset:
        whole = dataset.read((1, 2, 3), window=((0, part.height), (0, part.width)))
        plain = dataset.photometric is None or "RGB" in str(dataset.photometric).upper()
        plain = plain or "YCBCR" in str(dataset.photometric).upper()
        plain = plain and set(dataset.dtypes) == {"uint8"} and dataset.count in (3, 4)
        plain = plain and not source.warped and dataset.transform.e < 0 < dataset.transform.a
    if plain and not np.array_equal(pixels[:, valid], whole[:, valid]):
        return "wrong"
    return "read"


def _read_checkpoint(case: Case) -> str:
    found = read_weights(case.path).tensors
    wanted = read_weights(case.good).tensors
    same = found.keys() == wanted.keys() and all(
        np.array_equal(found[k].float().numpy(), wanted[k].float().numpy(), equal_nan=True)
        for k in wanted
    )
    if same:
        return "as it was"
    return "wrong" if case.name == "torch zip" else "read"


def _read_vector(case: Case) -> str:
    near, said = shapely.Point(PLACE).buffer(9), _Said()
    logging.getLogger("capecam.io.vector_reader").addHandler(said)
    table = read_polygons(case.path, None)
    warned = bool(said.lines)
    read_polygons(case.path, gpd.GeoSeries([near], crs=CRS).crs, near=near, columns=[])
    fine = table.geometry.is_valid.all() and np.isfinite(table.bounds.to_numpy()).all()
    # A flipped letter of "Feature" is none to GDAL, and a text has no checksum.
    checked = case.name != "geojson" or case.mutation == "cut"
    silent = len(table) < FEATURES and not warned and checked
    return "read" if fine and not silent else "wrong"


class _Said(logging.Handler):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _read_yaml(case: Case) -> str:
    return "as it was" if load(case.path) == load(case.good) else "read"


READERS = {
    "raster": _read_raster, "checkpoint": _read_checkpoint,
    "vector": _read_vector, "yaml": _read_yaml,
}  # fmt: skip


def _examine(case: Case) -> tuple[str, str]:
    try:
        return READERS[case.kind](case), ""
    except CapecamError as error:
        said = str(error)
        lines = said.removeprefix("no image can be used: ").splitlines()
        clear = len(lines) == 1 and case.path.stem in said and len(said) < 1200
        return ("refused" if clear else "unclear"), said
    except MemoryError:
        return "memory", "MemoryError"
    except BaseException:
        return "traceback", traceback.format_exc()[-1500:]


def judge(case: Case, seconds: float = SECONDS) -> Verdict:
    """Read the file in a forked process, and wait for it no longer than it may take."""
    reading, writing = os.pipe()
    inherited = _own_bytes(RESIDENT)
    pid = os.fork()
    if not pid:
        os.close(reading)
        _in_child(case, writing)
    os.close(writing)
    said, hung = _listen(reading, seconds)
    if hung:
        os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    os.close(reading)

    def verdict(outcome: str, detail: str) -> Verdict:
        return Verdict(f"{case.kind}: {case.name}", case.mutation, outcome, detail)

    if hung or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return verdict("hang", f"no end after {seconds:.0f} s")
    if not said:
        return verdict("crash", f"status {status}")
    taken = usage.ru_maxrss * 1024 - inherited
    if taken > MEMORY_BYTES:
        return verdict("memory", f"{taken / 1e9:.1f} GB")
    return verdict(*json.loads(said))


MAPPED, RESIDENT = 0, 1


def _own_bytes(column: int) -> int:
    """Of this process, which has much where a test of large networks came before."""
    return int(Path("/proc/self/statm").read_text().split()[column]) * os.sysconf("SC_PAGE_SIZE")


def _in_child(case: Case, writing: int) -> None:
    """Examine a case, write what came of it and exit; never returns."""
    faulthandler.disable()  # pytest's would print the stack of a crash that is the expected result
    resource.setrlimit(resource.RLIMIT_AS, (_own_bytes(MAPPED) + MEMORY_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    try:
        os.write(writing, json.dumps(_examine(case)).encode())
    finally:
        os._exit(0)


def _listen(reading: int, seconds: float) -> tuple[bytes, bool]:
    """What the child says, and whether it says nothing in time."""
    said, deadline = b"", time.monotonic() + seconds
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return said, True
        part = os.read(reading, 1 << 16)
        if not part:
            return said, False
        said += part


def warm_up(folder: Path) -> None:
    """Import and open once what every child would otherwise import and open again."""
    for kind, makers in KINDS.items():
        for name in makers:
            good, _ = _good(kind, name, folder)
            _examine(Case(kind, name, "none", good, good))
    sys.stdout.flush()
