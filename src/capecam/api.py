"""The few names for a notebook: the same parts that the command line is made of.

``load_settings`` and ``run`` do what ``capecam run`` does; ``load_model`` and ``Engine`` explain
tiles that you have in memory; ``read_heatmap`` and ``read_detections`` open results; ``Panels``
draws the tile of a detection or a place with its heatmaps.
"""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray

from capecam.attribution.engine import Engine
from capecam.attribution.maps import Maps
from capecam.io.gdal import open_readonly
from capecam.model.model import Model, load_model
from capecam.run.run_record import RunOutcome as Outcome
from capecam.run.supervisor import run
from capecam.settings import ModelSettings, Settings
from capecam.settings.loading import load as load_settings
from capecam.store.file_names import DETECTIONS
from capecam.views.panels.panel import Panel
from capecam.views.panels.panels import Panels
from capecam.views.panels.tile_view import PanelStyle as Style

__all__ = [
    "Engine",
    "Maps",
    "Model",
    "ModelSettings",
    "Outcome",
    "Panel",
    "Panels",
    "Settings",
    "Style",
    "load_model",
    "load_settings",
    "read_detections",
    "read_heatmap",
    "run",
]


def read_detections(out: Path | str) -> gpd.GeoDataFrame:
    """The detections of a run: a row an object, in the imagery's CRS."""
    return gpd.read_parquet(Path(out) / DETECTIONS)


def read_heatmap(out: Path | str, cell: str, method: str, band: str) -> NDArray[np.float32]:
    """One heatmap of one cell: (rows, columns) in 0..1 of the city's scale, NaN where nodata.

    With ``--heatmap-dtype float32``: raw values.

    Raises:
        KeyError: the file has no such band; the message lists those there are.
    """
    with open_readonly(Path(out) / "cells" / cell / f"{method}.tif") as dataset:
        if band not in dataset.descriptions:
            raise KeyError(f"{method} has no band {band!r}, only {dataset.descriptions}")
        index = dataset.descriptions.index(band) + 1
        values = dataset.read(index, masked=True).astype(np.float32) * dataset.scales[index - 1]
    return np.asarray(np.ma.filled(values, np.nan), np.float32)
