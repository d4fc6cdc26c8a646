"""Folders as runs leave them, of any size, without a run: for what only reads tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import shapely

from capecam.detections.object_columns import EVIDENCE_WORDS, OBJECT_COLUMNS
from capecam.detections.signals import SIGNALS
from capecam.grid import Grid, Window
from capecam.settings import ClassSettings, Settings
from capecam.store.records import GridRecord
from support.tracing import LO19

SIDE_M = 3.0
"""Of the square that every object is."""


def write_output(
    out: Path,
    count: int,
    *,
    cells: Sequence[Window] = (Window(0, 0, 2500, 2500),),
    grid: Grid = LO19,
    classes: Sequence[ClassSettings] | None = None,
    failed: Sequence[int] = (),
    reason: str = "it cannot be decoded",
    seed: int = 0,
) -> pd.DataFrame:
    """An output of ``count`` objects at random places of cells; those in ``failed`` have failed.

    Returns its table, as in summary.csv.
    """
    settings = Settings() if classes is None else Settings(model={"classes": tuple(classes)})
    names = [entry.name for entry in settings.model.classes]
    done = [n for n in range(len(cells)) if n not in failed]
    for n, window in enumerate(cells):
        _write_cell(out / "cells" / f"image {n}", window, None if n in done else reason)
    table = _objects(count, [cells[n] for n in done], done, grid, names, seed)
    table.to_parquet(out / "detections.parquet", row_group_size=65_536)
    by_class = table.groupby("class_id")["area_m2"].agg(["count", "sum"])
    by_class = by_class.reindex(range(1, len(names)), fill_value=0)
    summary = pd.DataFrame({
        "class_id": by_class.index, "class": names[1:],
        "count": by_class["count"].to_numpy(int), "area_m2": by_class["sum"].round(2).to_numpy(),
    })  # fmt: skip
    summary.to_csv(out / "summary.csv", index=False)
    hull = cells[0]
    for window in cells[1:]:
        hull = hull.hull(window)
    _write_run(out, settings, grid.crop(hull), len(cells), summary)
    return summary


def _write_cell(folder: Path, window: Window, reason: str | None) -> None:
    folder.mkdir(parents=True)
    basis = {"core": asdict(window)}
    if reason:
        (folder / "failed.json").write_text(
            json.dumps({"status": "failed", "error": reason, "basis": basis})
        )
        return
    record = {
        "cell": folder.name, "image": folder.name, "status": "done", "tiles": 9, "seconds": 2.0,
        "valid_px": window.height * window.width, "unreadable": {}, "basis": basis,
        "files": {}, "images": {}, "detections": 0,
        "stages": {"read": 0.2, "engine": 1.5, "write classes": 0.1, "write gradcam": 0.2},
    }  # fmt: skip
    (folder / "cell.json").write_text(json.dumps(record))


def _objects(
    count: int,
    cells: Sequence[Window],
    numbers: Sequence[int],
    grid: Grid,
    names: list[str],
    seed: int,
) -> gpd.GeoDataFrame:
    rng = np.random.default_rng(seed)
    where = rng.integers(0, len(cells), count)
    corner = np.array([[w.col, w.row] for w in cells], float).reshape(-1, 2)[where]
    size = np.array([[w.width, w.height] for w in cells], float).reshape(-1, 2)[where]
    places = corner + rng.random((count, 2)) * size
    points = grid.to_map(places)
    half = SIDE_M / 2 * np.array(grid.pixel) / 0.08
    shapes = shapely.multipolygons(
        shapely.box(*(points - half).T, *(points + half).T).reshape(-1, 1)
    )
    to_wgs84 = pyproj.Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    lon, lat = to_wgs84.transform(*points.T)
    class_id = rng.integers(1, len(names), count)
    heat = rng.random((count, 3)).round(3)
    of_signals = np.random.default_rng([seed, 1])
    columns = {
        "id": [f"{k}_{n}_0" for n, k in enumerate(class_id)],
        "class_id": class_id, "class": np.array(names, object)[class_id],
        "area_m2": np.exp(rng.normal(1.7, 0.9, count)).clip(1.71, 400).round(4),
        "confidence": rng.beta(8, 2, count).round(4), "lon": lon, "lat": lat,
        "images": [f"image {numbers[n]}" for n in where],
        "gradcam_in": heat[:, 0], "gradcam_ring": heat[:, 1], "gradcam_share": heat[:, 2],
        "gradcam_peak": np.ones(count), "gradcam_peak_m": np.full(count, 3.5),
        "rival": np.array(names, object)[1 + class_id % (len(names) - 1)],
        "rival_in": rng.random(count).round(3) / 2,
        **dict(zip(SIGNALS, of_signals.random((len(SIGNALS), count)).round(3), strict=True)),
        **dict(zip(OBJECT_COLUMNS, rng.random((len(OBJECT_COLUMNS), count)).round(3), strict=True)),
        "evidence": rng.choice(EVIDENCE_WORDS, count, p=(0.5, 0.2, 0.1, 0.1, 0.1)),
        "review": rng.permutation(count) + 1,
    }  # fmt: skip
    return gpd.GeoDataFrame(columns, geometry=shapes, crs=grid.crs)


def _write_run(
    out: Path, settings: Settings, grid: Grid, cells: int, summary: pd.DataFrame
) -> None:
    by_class = {row["class"]: [row["count"], row["area_m2"]] for row in summary.to_dict("records")}
    counts = {name: count for name, (count, _) in by_class.items()}
    run = {
        "capecam": "0.1.0", "settings": settings.model_dump(mode="json"),
        "versions": {"python": "3.11", "torch": "2.6"}, "device": "cpu", "precision": "fp32",
        "batch_size": 4, "cells": [f"image {n}" for n in range(cells)],
        "checkpoint": {"sha256": "0" * 64, "architecture": "FPN", "target_layer": "layer4",
                       "ignored": []},
        "anchor": grid.anchor, "grid": GridRecord.of(grid).to_json(),
        "calibration": {"tops": {"gradcam": [1e-4] * (len(by_class) - 1) + [None]}, "basis": {},
                        "tiles": 4},
        "shifted": {}, "warped": [], "failures": {}, "stopped": None, "tiles": 9 * cells,
        "started": "2026-11-24T20:00:00+02:00", "seconds": 30.0, "engine_waited": 0.1,
        "stages": {"prepare": 2.0, "calibrate": 3.0, "cells": 20.0, "finish": 5.0},
        "totals": {"cells": cells, "tiles": 9 * cells, "by_class": by_class},
        "detections": {"traced": counts, "joined": counts, "small": dict.fromkeys(counts, 0),
                       "kept": counts},
        "products": {"detections.parquet": {"bytes": 1, "sha256": "1" * 64}},
    }  # fmt: skip
    (out / "run.json").write_text(json.dumps(run))
