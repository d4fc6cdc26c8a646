"""What a checkpoint or an image is, in plain words, before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from capecam.attribution import GUIDED
from capecam.columns import facts, table
from capecam.engine import Engine
from capecam.errors import ImageError
from capecam.graph import why_not_guided
from capecam.model import HEAD, channel_count, describe, load_model
from capecam.raster import Remark, ground_m, read_header, remarks
from capecam.settings import ModelSettings, Settings
from capecam.sources import SUFFIXES
from capecam.weights import read_weights

COLUMNS = "unusual", "what a run does"

PROBE_PX = 320
"""Tile at which the target layer's shape is given."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found."""

    facts: Mapping[str, Any]
    remarks: tuple[Remark, ...] | None = None
    """None: it is no image, or one that cannot be used."""
    refusal: str | None = None
    """Why an image cannot be used, and what to do."""

    @property
    def exit_code(self) -> int:
        """0, or 2 for an image that cannot be used."""
        return 0 if self.refusal is None else ImageError.exit_code

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        found = dict(self.facts)
        if self.remarks is not None:
            found["remarks"] = [asdict(remark) for remark in self.remarks]
        return found if self.refusal is None else found | {"refused": self.refusal}

    def to_text(self) -> str:
        """For people."""
        parts = [facts([(name, str(value)) for name, value in self.facts.items()])]
        if self.remarks is not None:
            rows = [(remark.what, remark.does) for remark in self.remarks]
            parts += ["", table(COLUMNS, rows) if rows else "nothing unusual"]
        return "\n".join(parts)


def inspect_path(path: Path, settings: Settings) -> Inspection:
    """Look at a checkpoint or an image.

    Raises:
        CheckpointError: it is a checkpoint that cannot be used.
    """
    if path.suffix.lower() not in SUFFIXES:
        return Inspection(inspect_checkpoint(path, settings.model))
    try:
        header = read_header(path, settings.imagery)
    except ImageError as error:
        return Inspection({"raster": str(path), **error.facts}, refusal=str(error))
    width, height = ground_m(header)
    named = {"raster": str(path), **dict(header.facts.to_rows())}
    named["on the ground"] = f"{width:.3g} x {height:.3g} m a pixel"
    return Inspection(named, remarks(header, settings))


def inspect_checkpoint(path: Path, settings: ModelSettings) -> dict[str, Any]:
    """Facts by name.

    Raises:
        CheckpointError: it cannot be used.
    """
    weights = read_weights(path)
    facts: dict[str, Any] = {
        "checkpoint": str(path),
        "sha256": weights.sha256,
        "architecture": describe(settings, weights.config),
        "classes": max(channel_count(weights), 2),
    }
    if facts["architecture"] == "unknown":
        known = {k: v for k, v in weights.tensors.items() if v.ndim and "running_" not in k}
        return facts | {
            "tensors": len(known),
            "parameters": sum(tensor.numel() for tensor in known.values()),
            "to see more": "name model.architecture and model.encoder in a --config",
            "last layer": next(key for key in known if key.endswith(HEAD)),
        }
    model = load_model(path, settings)
    engine = Engine(model, ["gradcam"])
    activations = engine.activation_shape(PROBE_PX)
    reason = why_not_guided(model.network)
    scaling = model.normalisation
    return facts | {
        "class names": ", ".join(c.name for c in model.classes),
        "activation": "sigmoid of one channel" if model.sigmoid else "softmax",
        "input bands": 3,
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "input scaling": f"0..255 becomes 0..{scaling.input_max:g}, "
        f"then (x - {scaling.mean}) / {scaling.std}",
        "target layer": model.target_layer,
        "its shape": f"{activations} for a tile of {PROBE_PX} px",
        GUIDED: "possible" if reason is None else f"not possible: {reason}",
        "ignored keys": ", ".join(model.ignored) or "none",
    }
