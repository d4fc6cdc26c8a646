"""Names for notebooks and scripts.

``load_settings`` and ``run`` do the same as ``capecam run``; ``load_model`` and ``Engine`` explain
tiles in memory; ``read_heatmap`` and ``read_detections`` read results; ``explain_object`` explains
a detection, a place or a polygon of a run; ``Panels`` draws the tile of a detection or a location
with its heatmaps.
"""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray

from capecam.analysis.explain import Explained, explain_object
from capecam.attribution.engine import Engine
from capecam.attribution.maps import Maps
from capecam.io.gdal import open_readonly
from capecam.model.adapter import adapt_network
from capecam.model.model import Model, load_model
from capecam.model.normalisation import Normalisation
from capecam.run.outcome import RunOutcome as Outcome
from capecam.run.supervisor import run
from capecam.settings import ModelSettings, Settings
from capecam.settings.loading import load as load_settings
from capecam.store.file_names import DETECTIONS
from capecam.views.panels.panel import Panel
from capecam.views.panels.panel_data import PanelStyle as Style
from capecam.views.panels.panels import Panels

__all__ = [
    "Engine",
    "Explained",
    "Maps",
    "Model",
    "ModelSettings",
    "Normalisation",
    "Outcome",
    "Panel",
    "Panels",
    "Settings",
    "Style",
    "adapt_network",
    "explain_object",
    "load_model",
    "load_settings",
    "read_detections",
    "read_heatmap",
    "run",
]


def read_detections(out: Path | str) -> gpd.GeoDataFrame:
    """Return the detections of a run: one row per object, in the CRS of the imagery."""
    return gpd.read_parquet(Path(out) / DETECTIONS)


def read_heatmap(out: Path | str, cell: str, method: str, band: str) -> NDArray[np.float32]:
    """Return one heatmap of one cell.

    Args:
        out: the folder of a run.
        cell: name of the cell.
        method: name of the heatmap, such as ``gradcam``.
        band: name of a class.

    Returns:
        (rows, columns) raw values as shares of the city's scale, 0 to 1, or raw values of a run
        with ``--heatmap-dtype float32``; NaN where there is no data.

    Raises:
        KeyError: the file has no such band; the message lists its bands.
    """
    with open_readonly(Path(out) / "cells" / cell / f"{method}.tif") as dataset:
        if band not in dataset.descriptions:
            raise KeyError(f"{method} has no band {band!r}, only {dataset.descriptions}")
        index = dataset.descriptions.index(band) + 1
        values = dataset.read(index, masked=True).astype(np.float32) * dataset.scales[index - 1]
        if dataset.tags(index).get("CAPECAM_TRANSFER") == "sqrt":
            values **= 2
    return np.asarray(np.ma.filled(values, np.nan), np.float32)
