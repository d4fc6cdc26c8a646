"""Folders of runs, made by hand from arrays of classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from capecam.detections.measurement import LEVEL_SUM, to_table
from capecam.detections.regions import join
from capecam.grid import Grid, Window
from capecam.io.cog import CogSet, Product
from capecam.io.overview import write_overview
from capecam.io.vrt import Layer, VrtTile
from capecam.settings import CAPE_TOWN_CLASSES
from capecam.store.records import GridRecord
from support.tracing import LO19, NAMES, trace

CLASSES = Product("classes", ("class",), "uint8", 255, palette={1: (0, 255, 0)})


def make_run(
    out: Path, classes: np.ndarray, grid: Grid = LO19, cells: Sequence[Window] | None = None
) -> Path:
    """An output folder with what a run would leave of (H, W) class indices from (0, 0) on.

    Pixels outside of the cells, the whole by default, are in no image.
    """
    whole = Window(0, 0, *classes.shape)
    grid = grid.crop(whole)
    seen = np.full(classes.shape, 255, np.uint8)
    tiles = []
    for n, window in enumerate(cells or [whole]):
        folder = out / "cells" / str(n)
        folder.mkdir(parents=True)
        part = np.where(seen == 255, classes, 255)[window.slices(whole)]  # the first image has it
        seen[window.slices(whole)] = classes[window.slices(whole)]
        with CogSet(folder, grid.crop(window), None, [CLASSES]) as cogs:
            cogs.writers["classes"].write(part[None].astype(np.uint8))
            cogs.finish()
        core = {key: getattr(window, key) for key in ("row", "col", "height", "width")}
        record = {
            "status": "done", "tiles": 1, "detections": 0, "seconds": 1.0, "images": {},
            "basis": {"core": core}, "files": {"classes.tif": {"bytes": 1, "sha256": str(n)}},
        }  # fmt: skip
        (folder / "cell.json").write_text(json.dumps(record))
        tiles.append(VrtTile(folder / "classes.tif", window, str(n)))
    overview = out / "classes.overview.tif"
    write_overview(overview, Layer.over(grid, tiles), overview)
    objects = join(trace(seen), 0.0)
    to_table(objects, grid, NAMES).drop(columns=LEVEL_SUM).to_parquet(out / "detections.parquet")
    settings = {"model": {"classes": [entry.model_dump() for entry in CAPE_TOWN_CLASSES]}}
    run = {
        "settings": settings, "cells": [str(n) for n in range(len(tiles))], "device": "cpu",
        "precision": "fp32", "batch_size": 4, "failures": {}, "tiles": 1, "stages": {},
        "checkpoint": {"sha256": "0", "architecture": "none"},
        "calibration": {"tops": {}, "basis": {}, "tiles": 4},
        "anchor": grid.anchor, "grid": GridRecord.of(grid).to_json(),
    }  # fmt: skip
    (out / "run.json").write_text(json.dumps(run))
    return out
