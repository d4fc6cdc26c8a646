"""Names for notebooks and scripts.

``load_settings`` and ``run`` do the same as ``capecam run``; ``Results`` reads what a run has
written, and explains its detections. ``load_model`` and ``adapt_network`` give a network to
``Engine``, which explains tiles in memory, and to ``run``. ``plot_heatmap`` draws a heatmap over an
image, and notebooks show results as tables and pictures.
"""

from __future__ import annotations

from capecam.analysis.explain import Explained, explain_object
from capecam.api.plotting import plot_heatmap
from capecam.api.raster import Raster
from capecam.api.results import Results, read_detections, read_heatmap
from capecam.attribution.engine import Engine
from capecam.attribution.maps import Maps
from capecam.errors import CapecamError, SettingsError
from capecam.model.adapter import adapt_network
from capecam.model.model import Model, load_model
from capecam.model.normalisation import Normalisation
from capecam.run.outcome import RunOutcome as Outcome
from capecam.run.supervisor import run
from capecam.settings import ClassSettings, ModelSettings, Settings
from capecam.settings.loading import load as load_settings
from capecam.views.panels.panel import Panel
from capecam.views.panels.panel_data import PanelStyle as Style
from capecam.views.panels.panels import Panels

__all__ = [
    "CapecamError",
    "ClassSettings",
    "Engine",
    "Explained",
    "Maps",
    "Model",
    "ModelSettings",
    "Normalisation",
    "Outcome",
    "Panel",
    "Panels",
    "Raster",
    "Results",
    "Settings",
    "SettingsError",
    "Style",
    "adapt_network",
    "explain_object",
    "load_model",
    "load_settings",
    "plot_heatmap",
    "read_detections",
    "read_heatmap",
    "run",
]
