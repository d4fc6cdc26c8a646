"""Description of a checkpoint."""

from __future__ import annotations

from pathlib import Path

from capecam.attribution.engine import Engine
from capecam.attribution.methods import GUIDED
from capecam.model.checkpoint import Weights, read_weights
from capecam.model.checkpoint_networks import choose_network, head_key
from capecam.model.introspection import sizes, why_not_guided, why_not_size
from capecam.model.model import Model, build_model, channel_count, describe
from capecam.settings import ModelSettings

TILE_PX = 320
"""Edge of the tile for which the target layer's shape is given."""


def inspect_checkpoint(path: Path, settings: ModelSettings) -> dict[str, object]:
    """Return facts about a checkpoint by name.

    Raises:
        CheckpointError: it cannot be used.
    """
    weights = read_weights(path)
    prefix = choose_network(path, weights.tensors, settings.weights)
    architecture = describe(settings, weights.config)
    facts: dict[str, object] = {
        "checkpoint": str(path),
        "sha256": weights.sha256,
        "architecture": architecture,
        "classes": max(channel_count(weights, prefix), 2),
    }
    if architecture == "unknown":
        return facts | _weights_facts(weights, prefix)
    return facts | _model_facts(build_model(weights, settings))


def _weights_facts(weights: Weights, prefix: str) -> dict[str, object]:
    """Return facts about tensors whose network is not known."""
    tensors = {k: v for k, v in weights.tensors.items() if v.ndim and "running_" not in k}
    return {
        "tensors": len(tensors),
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "to see more": "type capecam init, which guesses the network and writes a configuration",
        "last layer": head_key(weights.tensors, prefix),
    }


def _model_facts(model: Model) -> dict[str, object]:
    engine = Engine(model, ["gradcam"])
    size = next(s for s in sizes(model.network, TILE_PX) if why_not_size(model.network, s) is None)
    activations = engine.activation_shape(size)
    reason = why_not_guided(model.network)
    scaling = model.normalisation
    doubt = {"unusual": model.doubt} if model.doubt else {}
    weights = {"weights": model.weights} if model.weights else {}
    return {
        **weights,
        "class names": ", ".join(c.name for c in model.classes),
        "activation": "sigmoid of one channel" if model.sigmoid else "softmax",
        "input bands": 3,
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "input scaling": f"0..255 becomes 0..{scaling.input_max:g}, "
        f"then (x - {scaling.mean}) / {scaling.std}"
        + (f", from {scaling.prefix}*" if scaling.prefix else ""),
        "target layer": model.target_layer,
        "its shape": f"{activations} for a tile of {size} px",
        GUIDED: "possible" if reason is None else f"not possible: {reason}",
        "ignored keys": ", ".join(model.ignored) or "none",
        **doubt,
    }
