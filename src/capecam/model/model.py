"""Load a checkpoint as a frozen network, with its classes, normalisation and target layer."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from capecam.errors import CheckpointError, SettingsError
from capecam.grid import Tiling
from capecam.model.architecture import BANDS, Budget, build_network
from capecam.model.checkpoint import Weights, read_weights
from capecam.model.checkpoint_networks import (
    choose_network,
    head_key,
    network_prefixes,
    why_incomplete,
)
from capecam.model.introspection import PROBE_PX, why_not_size
from capecam.model.normalisation import Normalisation, find_normalisation, why_doubtful
from capecam.model.target_layer import ENCODER, find_layer
from capecam.runtime import notebook_html
from capecam.settings import ClassSettings, ModelSettings

OPTIONAL = "num_batches_tracked"
"""Counter of batch norms that inference never reads; older files lack it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Model:
    """Network that is ready to be explained."""

    network: nn.Module
    """Network on the CPU in eval mode, parameters frozen: (B, 3, H, W) -> (B, channels, H, W)."""
    classes: tuple[ClassSettings, ...]
    """Classes by output channel; 0 is the background, and has no channel if ``sigmoid``."""
    normalisation: Normalisation
    target_layer: str
    """Path of the module from whose output CAMs are computed."""
    architecture: str
    sha256: str
    """Checksum of the checkpoint file; of the tensors of a network that was adapted in memory
    (``model.adapter.network_sha256``)."""
    ignored: tuple[str, ...]
    """Keys of the checkpoint that are not part of the network."""
    sigmoid: bool = False
    """True if the network has one channel: the logit of class 1, against 0 for the background."""
    weights: str | None = None
    """Network of the checkpoint that was chosen by its name."""
    doubt: str | None = None
    """Remark about a normalisation that hardly fits the range of the input, and about averaged
    weights that are not read."""
    encoder: str = ENCODER
    """Path of the module whose feature maps the network's decoder reads."""
    settings: ModelSettings | None = None
    """Settings of a network that was adapted in memory; None: the run's own."""

    @property
    def foreground(self) -> tuple[ClassSettings, ...]:
        """All classes except the background: the bands of every heatmap."""
        return self.classes[1:]

    def __repr__(self) -> str:
        """Return what it is in a line, without its modules."""
        names = ", ".join(entry.name for entry in self.classes)
        return (
            f"Model({self.architecture}, classes: {names}; target layer: {self.target_layer}; "
            f"sha256 {self.sha256[:12]})"
        )

    def _repr_html_(self) -> str:
        """Return what it is as a table."""
        weights = sum(parameter.numel() for parameter in self.network.parameters())
        classes = [
            notebook_html.joined(notebook_html.swatch(entry.color), f" {entry.name}  ")
            for entry in self.classes
        ]
        shown = self.normalisation
        rows = {
            "network": f"{self.architecture}, {weights:,} weights",
            "classes": notebook_html.joined(*classes),
            "input": f"(pixels of 0..{shown.input_max:g} - {shown.mean}) / {shown.std}",
            "target layer": self.target_layer,
            "sha256": self.sha256,
            "doubt": self.doubt or "",
        }
        return notebook_html.table([(name, text) for name, text in rows.items() if text])


def load_model(path: Path | str, settings: ModelSettings) -> Model:
    """Load a checkpoint into the network that settings or its own folder describe.

    Args:
        path: of a checkpoint file, or of a folder as Hugging Face saves it.
        settings: of the model.

    Raises:
        CheckpointError: the checkpoint is unreadable, unsafe, or not of this network.
        SettingsError: architecture, encoder or layer is missing or unknown.
    """
    model = build_model(read_weights(Path(path)), settings)
    if model.doubt:
        log.warning("%s", model.doubt)
    return model


def build_model(weights: Weights, settings: ModelSettings) -> Model:
    """Build the model of weights that have been read; raises as :func:`load_model`."""
    path, tensors = weights.path, weights.tensors
    prefix = choose_network(path, tensors, settings.weights)
    channels = channel_count(weights, prefix)
    sigmoid = _is_sigmoid(settings, weights, channels)
    architecture = describe(settings, weights.config)
    with Budget(sum(tensor.numel() for tensor in tensors.values()), path, architecture):
        network = build_network(settings, weights.config, channels)
    used = _fill(network, weights, prefix)
    _check_bands(network, path)
    check_finite(network, path)
    check_classes(len(settings.classes), path, channels)
    network.eval().requires_grad_(False)
    _check_output(network, path)
    others = {key: tensor for key, tensor in tensors.items() if key not in used}
    normalisation = find_normalisation(settings, path, others, prefix)
    ignored = _ignored(tensors, prefix, {*used, *normalisation.keys})
    doubts = (
        why_doubtful(normalisation, settings, path),
        why_incomplete(path, {key: tensors[key] for key in ignored if key in tensors}),
    )
    return Model(
        network,
        settings.classes,
        normalisation,
        find_layer(network, settings.target_layer),
        architecture,
        weights.sha256,
        ignored,
        sigmoid,
        settings.weights,
        "; ".join(filter(None, doubts)) or None,
    )


def _ignored(tensors: Mapping[str, Tensor], prefix: str, used: Set[str]) -> tuple[str, ...]:
    """Return the keys that are not used; those of another network as one pattern."""
    others = [other for other in network_prefixes(tensors) if other not in ("", prefix)]
    patterns = {other: f"{other[:100]}*" for other in others if not prefix.startswith(other)}
    unused = (key for key in tensors if key not in used)
    found = (next((p for o, p in patterns.items() if key.startswith(o)), key) for key in unused)
    return tuple(dict.fromkeys(found))


def channel_count(weights: Weights, prefix: str) -> int:
    """Return the number of output channels, from the shape of the last layer of a network."""
    return int(weights.tensors[head_key(weights.tensors, prefix)].shape[0])


def _is_sigmoid(settings: ModelSettings, weights: Weights, channels: int) -> bool:
    """Return True if the one channel is the logit of a sigmoid."""
    activation = settings.activation or settings.options.get("activation")
    activation = activation or (weights.config or {}).get("activation")
    if activation == "sigmoid" and channels > 1:
        raise CheckpointError(
            f"{weights.path}: the network has {channels} sigmoid channels, whose classes may "
            "overlap; only softmax, or one sigmoid channel, can be mapped"
        )
    if activation == "softmax" and channels == 1:
        raise CheckpointError(
            f"{weights.path}: the network has one channel, which softmax would make 1 everywhere; "
            "set model.activation to sigmoid"
        )
    return channels == 1


def _check_bands(network: nn.Module, path: Path) -> None:
    bands = next(m.in_channels for m in network.modules() if isinstance(m, nn.Conv2d))
    if bands != BANDS:
        raise CheckpointError(
            f"{path}: the network takes {bands} bands, but images are read as "
            f"{BANDS} (R, G, B); it cannot be used"
        )


def check_finite(network: nn.Module, source: Path | str) -> None:
    """Check that the weights are finite numbers, and variances not negative.

    Raises:
        CheckpointError: they are not; the message begins with their source.
    """
    for key, tensor in network.state_dict().items():
        if not isinstance(tensor, Tensor):
            continue  # get_extra_state() may return anything
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{source}: {key} holds NaN or infinite numbers; the training failed or the file "
                "is damaged; take an earlier checkpoint"
            )
        if key.endswith("running_var") and (tensor < 0).any():
            raise CheckpointError(
                f"{source}: {key} holds variances below 0: damaged; copy it again"
            )


def check_classes(configured: int, source: Path | str, channels: int) -> None:
    """Check that there are as many classes as the network has.

    Raises:
        CheckpointError: there are not; the message begins with the source of the network.
    """
    classes = max(channels, 2)
    if configured != classes:
        kind = "one sigmoid channel, so 2 classes" if channels == 1 else f"{classes} classes"
        raise CheckpointError(
            f"{source}: the network has {kind}, but the configuration "
            f"names {configured}; correct model.classes"
        )


def _check_output(network: nn.Module, path: Path) -> None:
    """Raise if the output has another size than the input: no tensor tells the upsampling."""
    parameter = next(network.parameters())
    tile = torch.zeros(1, BANDS, PROBE_PX, PROBE_PX, dtype=parameter.dtype)
    try:
        with torch.no_grad():
            shape = tuple(network(tile).shape[-2:])
    except (RuntimeError, ValueError, AssertionError):
        return  # tiles of this size are refused; others are checked when they come
    if shape != (PROBE_PX, PROBE_PX):
        raise CheckpointError(
            f"{path}: the network makes {shape[0]} x {shape[1]} pixels of {PROBE_PX} x "
            f"{PROBE_PX}; correct its upsampling (model.options, or the config.json beside it)"
        )


def _fill(network: nn.Module, weights: Weights, prefix: str) -> frozenset[str]:
    """Load the tensors of a network; return their keys."""
    state = network.state_dict()
    offered = {
        key.removeprefix(prefix): tensor
        for key, tensor in weights.tensors.items()
        if key.startswith(prefix)
    }
    for key, tensor in state.items():
        if not (key.endswith(OPTIONAL) and key not in offered):
            _check_fits(weights.path, f"{prefix}{key}", offered.get(key), tensor)
    network.load_state_dict({k: v for k, v in offered.items() if k in state}, strict=False)
    return frozenset(f"{prefix}{key}" for key in state)


def _check_fits(path: Path, key: str, offered: Tensor | None, expected: Tensor) -> None:
    if offered is None:
        raise CheckpointError(
            f"{path}: {key} is missing, which the network needs with shape {tuple(expected.shape)}"
            "; correct model.architecture, model.encoder or model.options"
        )
    if offered.shape != expected.shape:
        raise CheckpointError(
            f"{path}: {key} has shape {tuple(offered.shape)}, but the network needs "
            f"{tuple(expected.shape)}; correct model.architecture, model.encoder or model.options"
        )
    if expected.is_floating_point() > offered.is_floating_point():
        raise CheckpointError(
            f"{path}: {key} holds {offered.dtype}, but the network needs floats; save it as float32"
        )


def check_tile(network: nn.Module, tiling: Tiling) -> None:
    """Check that a tile has whole heatmap blocks and whole samples of the deepest activations.

    Raises:
        SettingsError: it has not; the message names the nearest sizes that have.
    """
    if why_not_size(network, PROBE_PX) and (reason := why_not_size(network, tiling.size)):
        raise SettingsError(
            f"the network takes no tiles of {tiling.size} px ({reason}); set tiling.size, or "
            "model.options for tiles of any size, such as dynamic_img_size: true"
        )
    divides = getattr(network, "requires_divisible_input_shape", True)
    divisor = getattr(getattr(network, "encoder", None), "output_stride", 1) if divides else 1
    unit = math.lcm(int(divisor), tiling.stride)
    if tiling.size % unit:
        below = tiling.size // unit * unit
        nearest = [str(size) for size in (below, below + unit) if size]
        raise SettingsError(
            f"tile must be a multiple of {unit} (the network needs {divisor}, "
            f"heatmap blocks {tiling.stride}), got {tiling.size}; nearest: {' and '.join(nearest)}"
        )


def describe(settings: ModelSettings, config: Mapping[str, object] | None) -> str:
    """Name architecture and encoder, or return "unknown"."""
    if settings.architecture:
        return f"{settings.architecture} ({settings.encoder})"
    if config:
        return f"{config.get('_model_class')} ({config.get('encoder_name')})"
    return "unknown"
