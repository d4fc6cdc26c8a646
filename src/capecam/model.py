"""From a checkpoint to a frozen network: what it is, how it wants its input, where CAMs look."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from capecam.errors import CheckpointError, SettingsError
from capecam.grid import Tiling
from capecam.settings import IMAGENET_MEAN, IMAGENET_STD, ClassSettings, ModelSettings, Triple

HEAD = "segmentation_head.0.weight"
"""The last layer of every segmentation_models_pytorch network: (classes, channels, kh, kw)."""

BANDS = 3
"""Red, green, blue: what is read of every image."""

OPTIONAL = "num_batches_tracked"
"""A counter of batch norms that inference never reads; older files lack it."""


SCALING = ("mean", "std")
"""Buffers beside the network, (1, 3, 1, 1), with which a checkpoint carries its normalisation."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors of a checkpoint file, and nothing that could run."""

    path: Path
    tensors: dict[str, Tensor]
    sha256: str
    config: dict[str, Any] | None
    """Constructor arguments, where the checkpoint is a saved folder; they name the class too."""


@dataclass(frozen=True, slots=True)
class Normalisation:
    """``(pixels * input_max / 255 - mean) / std`` on pixels of 0..255."""

    input_max: float
    mean: Triple
    std: Triple


@dataclass(frozen=True, slots=True)
class Model:
    """A network that is ready to be explained."""

    network: nn.Module
    """In eval mode, parameters frozen, on the CPU. (B, 3, H, W) -> logits (B, channels, H, W)."""
    classes: tuple[ClassSettings, ...]
    """By output channel; 0 is the background, and has no channel if ``sigmoid``."""
    normalisation: Normalisation
    target_layer: str
    """Path of the module whose output the CAMs are made of."""
    architecture: str
    sha256: str
    """Of the checkpoint file."""
    ignored: tuple[str, ...]
    """Keys of the checkpoint that are not part of the network."""
    sigmoid: bool = False
    """The network has one channel: the logit of class 1, against 0 for the background."""

    @property
    def foreground(self) -> tuple[ClassSettings, ...]:
        """All classes but the background: the bands of every heatmap."""
        return self.classes[1:]


def load_model(path: Path, settings: ModelSettings) -> Model:
    """Load a checkpoint into the network that settings or its own folder describe.

    Raises:
        CheckpointError: unreadable, unsafe, or not of this network.
        SettingsError: the settings name no or an unknown architecture, encoder or layer.
    """
    weights = read_weights(path)
    channels = channel_count(weights)
    sigmoid = _is_sigmoid(settings, weights, channels)
    network = build_network(settings, weights.config, channels)
    ignored = _fill(network, weights)
    _check_bands(network, path)
    found, classes = len(settings.classes), 2 if sigmoid else channels
    if found != classes:
        kind = "one sigmoid channel, so 2 classes" if sigmoid else f"{classes} classes"
        raise CheckpointError(
            f"{path}: the network has {kind}, but the configuration "
            f"names {found}; correct model.classes"
        )
    network.eval().requires_grad_(False)
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


def read_weights(path: Path) -> Weights:
    """The tensors of a Lightning checkpoint, a state dict, a safetensors file or a saved folder.

    Raises:
        CheckpointError: the file cannot be read, or holds anything but tensors.
    """
    file, config = _locate(path)
    read = _read_safetensors if file.suffix == ".safetensors" else _read_pickle
    try:
        tensors = read(file)
        sha256 = _sha256(file)
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {file}: {error.strerror}") from error
    if not tensors:
        raise CheckpointError(f"{file}: holds no tensors; expected the weights of a network")
    return Weights(path, tensors, sha256, config)


def checkpoint_sha256(path: Path) -> str:
    """Of the file with the tensors.

    Raises:
        CheckpointError: there is none.
    """
    file, _ = _locate(path)
    return _sha256(file)


def _locate(path: Path) -> tuple[Path, dict[str, Any] | None]:
    """The file with the tensors, and the configuration beside it."""
    if not path.is_dir():
        if not path.exists():
            raise CheckpointError(f"the checkpoint {path} does not exist")
        return path, None
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).exists() and (path / "config.json").exists():
            try:
                return path / name, json.loads((path / "config.json").read_text(encoding="utf-8"))
            except (ValueError, OSError) as error:
                raise CheckpointError(f"{path / 'config.json'}: not valid JSON: {error}") from error
    raise CheckpointError(
        f"{path}: not a saved model; expected config.json beside model.safetensors"
    )


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise CheckpointError(f"{file}: damaged or not safetensors ({error})") from error


def _read_pickle(file: Path) -> dict[str, Tensor]:
    """Tensors only: ``weights_only`` refuses every pickle that names a function or a class."""
    with file.open("rb") as stream:
        try:
            content = torch.load(stream, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged pickle can fail in any way; it always ends here
            raise CheckpointError(_why_not_loaded(file, str(error))) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file}: holds a {type(content).__name__}, expected a state dict")
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}


def _why_not_loaded(file: Path, message: str) -> str:
    unsafe = re.search(r"(?:GLOBAL|global|function|class) `?([\w.]*\w\.\w+)", message)
    if unsafe and "weights_only" in message:
        return (
            f"{file}: refused, because it wants to run {unsafe[1]}; "
            "save the state_dict alone, best as safetensors"
        )
    first = message.strip().splitlines()[0] if message.strip() else "no reason given"
    return f"{file}: damaged or not a PyTorch checkpoint ({first})"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def channel_count(weights: Weights) -> int:
    """Output channels, read from the last layer.

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
    """Whether probabilities are a sigmoid's: of the one channel there is."""
    said = settings.activation or settings.options.get("activation")
    said = said or (weights.config or {}).get("activation")
    if said == "sigmoid" and channels > 1:
        raise CheckpointError(
            f"{weights.path}: the network has {channels} sigmoid channels, whose classes may "
            "overlap; only softmax, or one sigmoid channel, can be mapped"
        )
    if said == "softmax" and channels == 1:
        raise CheckpointError(
            f"{weights.path}: the network has one channel, which softmax would make 1 everywhere; "
            "set model.activation to sigmoid"
        )
    return channels == 1


def build_network(
    settings: ModelSettings, config: Mapping[str, Any] | None, channels: int
) -> nn.Module:
    """An empty network; never downloads weights."""
    # Slow to import (timm), and not needed to read about a checkpoint.
    import segmentation_models_pytorch as smp  # noqa: PLC0415

    if settings.architecture is None and config is not None:
        arguments = {
            k: v for k, v in config.items() if k not in ("_model_class", "encoder_weights")
        }
        name, options = str(config.get("_model_class")), arguments
    elif settings.architecture and settings.encoder:
        name = settings.architecture
        options = {"encoder_name": settings.encoder, "in_channels": BANDS, **settings.options}
        options["classes"] = channels
    else:
        raise SettingsError(
            "the checkpoint does not say what network it is for; "
            "set model.architecture and model.encoder in the configuration"
        )
    known = {m.__name__.lower(): m for m in vars(smp).values() if isinstance(m, type)}
    if name.lower() not in known:
        near = difflib.get_close_matches(name.lower(), known, 1)
        hint = f"; did you mean {known[near[0]].__name__}?" if near else ""
        raise SettingsError(f"unknown architecture {name!r}{hint}")
    try:
        # The last activation would turn logits into something else, and an auxiliary
        # classifier the output into a pair: explanations need neither.
        network: nn.Module = known[name.lower()](
            **{**options, "encoder_weights": None, "activation": None, "aux_params": None}
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise SettingsError(f"cannot build {name} with {options}: {reason}") from error
    return network


def _check_bands(network: nn.Module, path: Path) -> None:
    """The filled network says how many bands it takes: by its first convolution."""
    bands = next(m.in_channels for m in network.modules() if isinstance(m, nn.Conv2d))
    if bands != BANDS:
        raise CheckpointError(
            f"{path}: the network takes {bands} bands, but images are read as "
            f"{BANDS} (R, G, B); it cannot be used"
        )


def _fill(network: nn.Module, weights: Weights) -> tuple[str, ...]:
    """Load the tensors; return the keys that are not the network's."""
    wanted = network.state_dict()
    prefix = _prefix(weights.tensors)
    offered = {
        key.removeprefix(prefix): tensor
        for key, tensor in weights.tensors.items()
        if key.startswith(prefix)
    }
    for key, tensor in wanted.items():
        if key not in offered and not key.endswith(OPTIONAL):
            raise CheckpointError(
                f"{weights.path}: {prefix}{key} is missing; "
                f"the network wants it with shape {tuple(tensor.shape)}"
            )
        if key in offered and offered[key].shape != tensor.shape:
            raise CheckpointError(
                f"{weights.path}: {prefix}{key} has shape {tuple(offered[key].shape)}, "
                f"but the network wants {tuple(tensor.shape)}"
            )
    network.load_state_dict({k: v for k, v in offered.items() if k in wanted}, strict=False)
    known = {f"{prefix}{key}" for key in wanted} | {*SCALING}
    return tuple(key for key in weights.tensors if key not in known)


def _prefix(offered: Iterable[str]) -> str:
    """What stands before the network's own keys: ``model.`` in a Lightning checkpoint."""
    for key in offered:
        if key.endswith(HEAD):
            return key.removesuffix(HEAD)
    return ""


def _normalisation(settings: ModelSettings, weights: Weights) -> Normalisation:
    """Mean and std from the settings, else from the checkpoint's buffers, else ImageNet's."""

    def triple(name: str, chosen: Triple | None, default: Triple) -> Triple:
        own = weights.tensors.get(name)
        if chosen is not None or own is None:
            return chosen or default
        if own.numel() != len(default):
            raise CheckpointError(
                f"{weights.path}: {name} has shape {tuple(own.shape)}, expected 3 values"
            )
        r, g, b = (round(value, 7) for value in own.flatten().tolist())
        return r, g, b

    return Normalisation(
        settings.input_max,
        triple("mean", settings.mean, IMAGENET_MEAN),
        triple("std", settings.std, IMAGENET_STD),
    )


def check_tile(network: nn.Module, tiling: Tiling) -> None:
    """A tile must be of whole heatmap blocks and of whole samples of the deepest activations.

    Raises:
        SettingsError: it is not; the message names the nearest that is.
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


def describe(settings: ModelSettings, config: Mapping[str, Any] | None) -> str:
    """Architecture and encoder in words, or "unknown"."""
    if settings.architecture:
        return f"{settings.architecture} ({settings.encoder})"
    if config:
        return f"{config.get('_model_class')} ({config.get('encoder_name')})"
    return "unknown"


def find_layer(network: nn.Module, name: str | None) -> str:
    """Full path of a layer given as ``layer4.2.conv3``, ``layer4[-1].conv3`` or None (default).

    Raises:
        SettingsError: no such layer; the message names the nearest.
    """
    if name is None:
        return _last_encoder_conv(network)
    parts = re.sub(r"\[(-?\d+)\]", r".\1", name).split(".")
    for start in ([], ["encoder"], ["encoder", "model"]):  # the last is how timm is wrapped
        path = _walk(network, [*start, *parts])
        if path is not None:
            return path
    layers = [path for path, _ in network.named_modules() if path]
    near = difflib.get_close_matches(f"encoder.{name}", layers, 3, cutoff=0.4)
    raise SettingsError(f"the network has no layer {name!r}; near it are: {', '.join(near)}")


def _walk(module: nn.Module, parts: list[str]) -> str | None:
    """The parts as a path of existing modules; a negative index counts from the end."""
    path: list[str] = []
    for part in parts:
        children = dict(module.named_children())
        if re.fullmatch(r"-\d+", part) and int(part) >= -len(children):
            part = list(children)[int(part)]  # noqa: PLW2901
        if part not in children:
            return None
        module = children[part]
        path.append(part)
    return ".".join(path)


def _last_encoder_conv(network: nn.Module) -> str:
    """The last Conv2d that the encoder runs, seen in a run; definition order can differ."""
    encoder = network.get_submodule("encoder") if hasattr(network, "encoder") else network
    ran: list[nn.Module] = []
    convs: dict[nn.Module, str] = {
        module: path for path, module in network.named_modules() if _is_conv(module)
    }
    handles = [
        module.register_forward_hook(lambda module, *_: ran.append(module))
        for module in encoder.modules()
        if _is_conv(module)
    ]
    parameter = next(network.parameters())
    try:
        with torch.no_grad():
            network(torch.zeros(1, 3, 128, 128, dtype=parameter.dtype, device=parameter.device))
    finally:
        for handle in handles:
            handle.remove()
    if not ran:
        raise SettingsError("the encoder runs no Conv2d; set model.target_layer")
    return convs[ran[-1]]


def _is_conv(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d)
