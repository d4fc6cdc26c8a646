"""``capecam view --single``: the head of the review queue, and what is around it, as one HTML file.

It is an export (``export.py``) of a few places, whose files stand in the page as base64. The page
looks for them there, so that it opens from a disk or an e-mail, without a server.
"""

from __future__ import annotations

import html
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from mimetypes import guess_type
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import geopandas as gpd
import pandas as pd
import pyarrow as pa
import pyogrio
import shapely

from capecam.detections.measurement import middle_pixel_m
from capecam.errors import OutputError, UsageError
from capecam.grid import Grid, Window
from capecam.io.cog import Product, write_cog
from capecam.io.gdal import gdal_settings, open_readonly
from capecam.io.layer_reader import LayerReader
from capecam.runtime.files import atomic_write
from capecam.store.run_folder import RunFolder
from capecam.viewer.export import tiles, write_json, write_pictures
from capecam.viewer.files import PAGE
from capecam.viewer.outlines import COUNTS, OUTLINES, count_by_square
from capecam.viewer.served_runs import PATIENCE_S, ServedRun, ServedRuns, bounds_of

DEFAULT_TOP = 20
"""Detections."""

MARGIN_M = 25.0
"""Shown around each detection: its roof, and what is beside it."""


@dataclass(frozen=True, slots=True)
class Single:
    """Result of ``--single``."""

    file: Path
    detections: int
    megabytes: float

    def to_text(self) -> str:
        """Return a sentence."""
        found = f"{self.file}: {self.detections} detections, {self.megabytes:.1f} MB"
        return f"{found}; a browser opens it, without a server"


def write_single(out: Path, file: Path, top: int = DEFAULT_TOP) -> Single:
    """Write the first detections of a run's review queue as one HTML file.

    Args:
        out: folder of the run.
        file: file to write, ``*.html``; one that exists is replaced.
        top: number of detections.

    Raises:
        OutputError: the folder holds no finished run, or the file's folder does not exist.
        UsageError: the file has another ending, or the run has no detection.
    """
    if file.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{file}: the file is a page; name it *.html")
    if not file.resolve().parent.is_dir():
        raise OutputError(f"{file}: there is no folder {file.resolve().parent}; make it first")
    with ServedRuns.open([out]) as city, TemporaryDirectory() as name:
        (served,) = city.runs
        queue = served.queue.page(0, top)
        if not queue["rows"]:
            raise UsageError(f"{out}: has no detection to show; see its report")
        tree, folder = city.city(served=False), Path(name)
        _write_files(served, queue, tree, folder)
        count = len(queue["rows"])
        tree["title"] += f", {count} detections"
        write_json(folder / "city.json", tree)
        with atomic_write(file) as temporary:
            _write_page(temporary, folder)
    return Single(file, count, file.stat().st_size / 1e6)


def _write_files(
    served: ServedRun, queue: dict[str, Any], tree: dict[str, Any], folder: Path
) -> None:
    """Write the files of the run around some detections, and let ``city.json`` name them."""
    run, (shown,) = served.run, tree["runs"]
    rows = [dict(zip(queue["columns"], row, strict=True)) for row in queue["rows"]]
    windows = disjoint(_surroundings(run.grid, bounds_of(row)) for row in rows)
    to = folder / shown["path"]
    to.mkdir(parents=True)
    write_json(to / "queue.json", {**queue, "total": len(rows)})
    outlines = _outlines(served, windows)
    pyogrio.write_dataframe(outlines, to / OUTLINES, driver="FlatGeobuf", layer="detections")
    write_json(to / COUNTS, _counts(outlines, run.grid))
    cells = {f"place-{n}": window for n, window in enumerate(windows, start=1)}
    hull = run.grid.window
    shown["cells"]["rows"] = [
        [name, w.row - hull.row, w.col - hull.col, w.height, w.width, "done", ""]
        for name, w in cells.items()
    ]
    shown["unplaced"] = []
    shown["detections"] |= {"count": len(outlines), "zones": None}
    rasters = [layer for layer in shown["layers"] if layer["kind"] == "raster"]
    for layer in rasters:
        layer |= {"cells": None, "overview": None}
    for product in sorted({Path(layer["cell_file"]).name for layer in rasters}):
        _write_cutouts(run, product, {to / "cells" / name / product: cells[name] for name in cells})
    write_pictures(served, to, tiles(run.grid, 0, windows), queue)


def _surroundings(grid: Grid, bounds: tuple[float, float, float, float]) -> Window:
    """Return the pixels around bounds in the CRS of the run, as far as the grid goes."""
    pixels = shapely.transform(shapely.box(*bounds), grid.to_pixels).bounds
    margin = MARGIN_M / float(middle_pixel_m(grid)[0])
    left, top, right, bottom = pixels
    window = Window.between(
        int(top - margin), int(left - margin), int(bottom + margin), int(right + margin)
    )
    return window.intersection(grid.window) or window


def disjoint(windows: Iterable[Window]) -> list[Window]:
    """Return windows that cover the given ones and do not overlap: those that would are joined."""
    found: list[Window] = []
    for window in windows:
        joined = window
        while overlapped := [each for each in found if each.intersection(joined)]:
            for each in overlapped:
                found.remove(each)
                joined = joined.hull(each)
        found.append(joined)
    return found


def _outlines(served: ServedRun, windows: Sequence[Window]) -> gpd.GeoDataFrame:
    """Return the detections whose bounds touch some windows."""
    path, grid = served.prepared.path(OUTLINES, PATIENCE_S), served.run.grid
    found = [pyogrio.read_dataframe(path, bbox=grid.crop(window).bounds) for window in windows]
    return gpd.GeoDataFrame(pd.concat(found).drop_duplicates("id"), crs=found[0].crs)


def _counts(outlines: gpd.GeoDataFrame, grid: Grid) -> dict[str, Any]:
    """Return ``counts.json`` of some detections."""
    centres = outlines.centroid
    table = {"class_id": outlines["class_id"], "x": centres.x, "y": centres.y}
    return count_by_square(pa.table(table), grid)


def _write_cutouts(run: RunFolder, product: str, windows: Mapping[Path, Window]) -> None:
    """Write a raster in some windows of pixels, as a COG each."""
    layer, stride = run.layer(product), run.stride(product)
    with open_readonly(layer.tiles[0].path) as dataset:
        description = Product.like(dataset, Path(product).stem)
    with gdal_settings(), closing(LayerReader(layer)) as reader:
        for path, window in windows.items():
            if (grid := run.grid.crop(window).coarsen(stride)) is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_cog(path, description, grid, reader.read_bands(grid.window))


def _write_page(path: Path, folder: Path) -> None:
    """Write the page with its style, its script, and all files of a folder."""
    page, style, script = (
        (PAGE / name).read_text(encoding="utf-8")
        for name in ("index.html", "viewer.css", "viewer.js")
    )
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    page, replaced = re.subn(r'content="default-src [^"]*"', f'content="{policy}"', page)
    head, style_link, rest = page.partition('<link rel="stylesheet" href="viewer.css" />')
    middle, script_link, end = rest.partition('<script type="module" src="viewer.js"></script>')
    if not (replaced and style_link and script_link):
        raise ValueError("index.html is not as it was")
    files = {"licences.txt": PAGE / "licences.txt"} | {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    with path.open("w", encoding="utf-8", newline="") as stream:
        stream.write(f"{head}<style>{style}</style>{middle}")
        stream.write(f'<script type="module">{script}</script>{end}')
        for name, file in files.items():
            kind = guess_type(name)[0] or "application/octet-stream"
            content = b64encode(file.read_bytes()).decode()
            stream.write(
                f'<script type="text/plain" data-file="{html.escape(name)}" '
                f'data-type="{kind}">{content}</script>\n'
            )


def _hash(text: str) -> str:
    """Return the source expression of a policy for an inline script or style."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
