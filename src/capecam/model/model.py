"""Load a checkpoint as a frozen network, with its classes, normalisation and target layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from capecam.errors import CheckpointError, SettingsError
from capecam.grid import Tiling
from capecam.model.architecture import BANDS, Budget, build_network
from capecam.model.checkpoint import Weights, read_weights
from capecam.model.introspection import PROBE_PX
from capecam.model.target_layer import find_layer
from capecam.settings import IMAGENET_MEAN, IMAGENET_STD, ClassSettings, ModelSettings, Triple

HEAD = "segmentation_head.0.weight"
"""Last layer of every segmentation_models_pytorch network: (classes, channels, kh, kw)."""

OPTIONAL = "num_batches_tracked"
"""Counter of batch norms that inference never reads; older files lack it."""

SCALING = ("mean", "std")
"""Buffers of normalisation beside the network in a checkpoint, (1, 3, 1, 1)."""


@dataclass(frozen=True, slots=True)
class Normalisation:
    """``(pixels * input_max / 255 - mean) / std`` on pixels of 0..255."""

    input_max: float
    mean: Triple
    std: Triple

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.input_max, *self.mean, *self.std))):
            raise SettingsError(
                f"mean and std must be finite numbers, got {self.mean} and {self.std}; set "
                "model.mean and model.std"
            )
        if min(self.std) <= 0:
            raise SettingsError(f"std must be above 0, got {self.std}; set model.std")

    def on(
        self, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> Callable[[Tensor], Tensor]:
        """Return it as a function of (..., 3, H, W) pixels on a device."""
        scale = self.input_max / 255
        mean, std = (
            torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)
            for values in (self.mean, self.std)
        )
        return lambda pixels: (pixels * scale - mean) / std


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
    """Checksum of the checkpoint file."""
    ignored: tuple[str, ...]
    """Keys of the checkpoint that are not part of the network."""
    sigmoid: bool = False
    """True if the network has one channel: the logit of class 1, against 0 for the background."""

    @property
    def foreground(self) -> tuple[ClassSettings, ...]:
        """All classes except the background: the bands of every heatmap."""
        return self.classes[1:]


def load_model(path: Path, settings: ModelSettings) -> Model:
    """Load a checkpoint into the network that settings or its own folder describe.

    Raises:
        CheckpointError: the checkpoint is unreadable, unsafe, or not of this network.
        SettingsError: architecture, encoder or layer is missing or unknown.
    """
    return build_model(read_weights(path), settings)


def build_model(weights: Weights, settings: ModelSettings) -> Model:
    """Build the model of weights that have been read; raises as :func:`load_model`."""
    path, channels = weights.path, channel_count(weights)
    sigmoid = _is_sigmoid(settings, weights, channels)
    with Budget(sum(tensor.numel() for tensor in weights.tensors.values()), path):
        network = build_network(settings, weights.config, channels)
    ignored = _fill(network, weights)
    _check_bands(network, path)
    _check_finite(network, path)
    _check_classes(len(settings.classes), path, channels)
    network.eval().requires_grad_(False)
    _check_output(network, path)
    return Model(
        network,
        settings.classes,
        _normalisation(settings, weights),
        find_layer(network, settings.target_layer),
        describe(settings, weights.config),
        weights.sha256,
        ignored,
        sigmoid,
    )


def channel_count(weights: Weights) -> int:
    """Return the number of output channels, from the shape of the last layer.

    Raises:
        CheckpointError: the checkpoint has no segmentation head.
    """
    for key, tensor in weights.tensors.items():
        if key.endswith(HEAD):
            return int(tensor.shape[0])
    raise CheckpointError(
        f"{weights.path}: has no {HEAD}; expected a network of segmentation_models_pytorch"
    )


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


def _check_finite(network: nn.Module, path: Path) -> None:
    for key, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{path}: {key} holds NaN or infinite numbers; the training failed or the file is "
                "damaged; take an earlier checkpoint"
            )
        if key.endswith("running_var") and (tensor < 0).any():
            raise CheckpointError(f"{path}: {key} holds variances below 0: damaged; copy it again")


def _check_classes(configured: int, path: Path, channels: int) -> None:
    classes = max(channels, 2)
    if configured != classes:
        kind = "one sigmoid channel, so 2 classes" if channels == 1 else f"{classes} classes"
        raise CheckpointError(
            f"{path}: the network has {kind}, but the configuration "
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


def _fill(network: nn.Module, weights: Weights) -> tuple[str, ...]:
    """Load the tensors into the network; return the keys that it does not have."""
    state = network.state_dict()
    # Lightning puts ``model.`` before the network's own keys.
    prefix = next(key.removesuffix(HEAD) for key in weights.tensors if key.endswith(HEAD))
    offered = {
        key.removeprefix(prefix): tensor
        for key, tensor in weights.tensors.items()
        if key.startswith(prefix)
    }
    for key, tensor in state.items():
        if not (key.endswith(OPTIONAL) and key not in offered):
            _check_fits(weights.path, f"{prefix}{key}", offered.get(key), tensor)
    network.load_state_dict({k: v for k, v in offered.items() if k in state}, strict=False)
    used = {f"{prefix}{key}" for key in state} | {*SCALING}
    return tuple(key for key in weights.tensors if key not in used)


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


def _normalisation(settings: ModelSettings, weights: Weights) -> Normalisation:
    """Take mean and std from the settings, else from the checkpoint's buffers, else ImageNet's."""

    def triple(name: str, chosen: Triple | None, default: Triple) -> Triple:
        own = weights.tensors.get(name)
        if chosen is not None or own is None:
            return chosen or default
        if own.numel() != len(default):
            raise CheckpointError(
                f"{weights.path}: {name} has shape {tuple(own.shape)}, expected 3 values"
                "; set model.mean and model.std in the configuration"
            )
        r, g, b = (round(value, 7) for value in own.flatten().tolist())
        return r, g, b

    return Normalisation(
        settings.input_max,
        triple("mean", settings.mean, IMAGENET_MEAN),
        triple("std", settings.std, IMAGENET_STD),
    )


def check_tile(network: nn.Module, tiling: Tiling) -> None:
    """Check that a tile has whole heatmap blocks and whole samples of the deepest activations.

    Raises:
        SettingsError: it has not; the message names the nearest sizes that have.
    """
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
