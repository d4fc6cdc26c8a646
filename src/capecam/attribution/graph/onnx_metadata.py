"""Facts that are stored in an ONNX file: capecam's own, and those that Deepness reads."""

from __future__ import annotations

import json
from collections.abc import Sequence

from capecam import __version__
from capecam.attribution.engine import Engine
from capecam.attribution.graph.onnx_export import Layout, layer_name
from capecam.settings import ModelSettings, TilingSettings

UNKNOWN_LICENSE = "not stated; ask whoever trained the checkpoint"


def metadata(
    engine: Engine,
    layout: Layout,
    settings: ModelSettings,
    tiling: TilingSettings,
    license_: str | None,
) -> dict[str, str]:
    """Return the facts of a file, JSON where they are no text.

    Args:
        engine: that the file was made of.
        layout: of the results.
        settings: of the model.
        tiling: for which the network is meant.
        license_: of the weights; None if it is not known.
    """
    own = _own(engine, settings, tiling) | {"license": license_ or UNKNOWN_LICENSE}
    return own if layout == "maps" else own | _of_deepness(engine, layout, settings, tiling)


def _own(engine: Engine, settings: ModelSettings, tiling: TilingSettings) -> dict[str, str]:
    model = engine.model
    classes = [entry.model_dump() for entry in model.classes]
    scaling = model.normalisation
    facts = {
        "capecam_version": __version__,
        "architecture": model.architecture,
        "checkpoint_sha256": model.sha256,
        "classes": json.dumps(classes),
        "input": "pixels: float32 RGB of 0..255, 0 where invalid; valid (optional): bool, True is "
        "imagery",
        "input_scaling": json.dumps({
            "input_max": scaling.input_max, "mean": scaling.mean, "std": scaling.std,
            "applied": "inside: (pixels * input_max / 255 - mean) / std",
        }),
        "methods": json.dumps(engine.methods),
        "score": engine.score,
        "target_layer": model.target_layer,
        "tile_size": json.dumps(tiling.size),
        "tile_overlap_px": json.dumps(tiling.overlap),
    }  # fmt: skip
    if settings.gsd_m is not None:
        facts["ground_sampling_m"] = json.dumps(settings.gsd_m)
    return facts


def _of_deepness(
    engine: Engine, layout: Layout, settings: ModelSettings, tiling: TilingSettings
) -> dict[str, str]:
    """Return what Deepness 0.6.5 reads (``processing/models/model_base.py``); all are JSON.

    It divides pixels by 255, so that a deviation of 1 / 255 restores them.
    """
    facts: dict[str, object] = {
        "model_type": layout.capitalize(),
        "class_names": _names(engine, layout),
        "tile_size": tiling.size,
        "tiles_size": tiling.size,
        "tiles_overlap": round(100 * tiling.overlap / tiling.size),
        "standardization_mean": [0.0] * 3,
        "standardization_std": [1 / 255] * 3,
        "seg_thresh": 0.0,
        "reg_output_scaling": 1.0,
    }
    if settings.gsd_m is not None:
        facts["resolution"] = 100 * settings.gsd_m  # in centimetres
    return {key: json.dumps(value) for key, value in facts.items()}


def _names(engine: Engine, layout: Layout) -> list[dict[int, str]]:
    """Return the names of the channels of each output."""
    if layout == "segmentor":
        return [_numbered([entry.name for entry in engine.model.classes])]
    return [
        _numbered([layer_name(method, entry.name)])
        for method in ("probability", *engine.methods)
        for entry in engine.model.foreground
    ]


def _numbered(names: Sequence[str]) -> dict[int, str]:
    return dict(enumerate(names))
