"""Normalisation of the input: from the settings, from tensors beside the network, or ImageNet's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from capecam.errors import CheckpointError, SettingsError
from capecam.model.checkpoint_networks import NORMALISATION
from capecam.settings import IMAGENET_MEAN, IMAGENET_STD, ModelSettings, Triple


@dataclass(frozen=True, slots=True)
class Normalisation:
    """``(pixels * input_max / 255 - mean) / std`` on pixels of 0..255; by default ImageNet's.

    >>> Normalisation()                      # torchvision's and transformers' networks
    >>> Normalisation(input_max=255)         # the same mean and std, but pixels are not divided
    >>> Normalisation(1, mean=(0, 0, 0), std=(1, 1, 1))  # pixels of 0..1

    Raises:
        SettingsError: a number is not finite, or a std not above 0.
    """

    input_max: float = 1.0
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    prefix: str = field(default="", compare=False)
    """Prefix of ``mean`` and ``std`` in the checkpoint they are from."""

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

    @property
    def keys(self) -> tuple[str, str]:
        """Keys of mean and std in the checkpoint."""
        return f"{self.prefix}mean", f"{self.prefix}std"

    @property
    def black(self) -> Triple:
        """Input of the network for a black pixel."""
        r, g, b = (-m / s for m, s in zip(self.mean, self.std, strict=True))
        return r, g, b

    @property
    def white(self) -> Triple:
        """Input of the network for a white pixel."""
        r, g, b = ((self.input_max - m) / s for m, s in zip(self.mean, self.std, strict=True))
        return r, g, b

    @property
    def is_too_flat(self) -> bool:
        """True if mean or std exceeds the range of the input, which becomes nearly constant."""
        return max(*self.mean, *self.std) > self.input_max

    @property
    def is_too_steep(self) -> bool:
        """True if std is one of 0..1, and the input has a wider range."""
        return max(self.std) < 1 < self.input_max


def find_normalisation(
    settings: ModelSettings, path: Path, tensors: Mapping[str, Tensor], network: str
) -> Normalisation:
    """Take mean and std from the settings, else from the checkpoint's buffers, else ImageNet's.

    Args:
        settings: of the network.
        path: of the checkpoint, for messages.
        tensors: in the checkpoint that are not the network's.
        network: prefix of the network's keys.

    Raises:
        CheckpointError: the checkpoint has none of three values, only one of the two, or several.
    """
    chosen = {"mean": settings.mean, "std": settings.std}
    prefix, own = "", dict[str, Triple]()
    if None in chosen.values():
        prefix, own = _beside(path, tensors, network)
    _check_pair(path, prefix, own, chosen)
    defaults = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    mean, std = (chosen[name] or own.get(name) or defaults[name] for name in chosen)
    try:
        return Normalisation(settings.input_max, mean, std, prefix)
    except SettingsError as error:
        raise CheckpointError(f"{path}: {error}") if own else error from error


def _check_pair(
    path: Path, prefix: str, own: Mapping[str, Triple], chosen: Mapping[str, Triple | None]
) -> None:
    """Check that a mean or a std of the checkpoint is not completed by ImageNet's."""
    needed = [name for name, value in chosen.items() if value is None]
    missing = [name for name in needed if name not in own]
    if len(missing) == 1 and len(needed) == 2:
        (found,) = own
        raise CheckpointError(
            f"{path}: holds {prefix}{found}, and no {prefix}{missing[0]}; set model.mean and "
            "model.std in the configuration"
        )


def _beside(
    path: Path, tensors: Mapping[str, Tensor], network: str
) -> tuple[str, dict[str, Triple]]:
    """Return the normalisation that is nearest to a network, and its prefix."""
    pairs = dict[str, dict[str, Triple]]()
    for key, tensor in tensors.items():
        match = NORMALISATION.fullmatch(key)
        if match and (tensor.numel() == 3 or not match["prefix"]):
            triple = _triple(path, key, tensor)
            pairs.setdefault(match["prefix"], {})[match["name"]] = triple
    # Around the network (``module.mean`` beside ``module.model.encoder...``), or else anywhere.
    around = {p: pair for p, pair in pairs.items() if network.startswith(p[: p.rfind(".") + 1])}
    found = around or {p: pair for p, pair in pairs.items() if len(pair) == 2}
    if any(pair != next(iter(found.values())) for pair in found.values()):
        shown = "; ".join(f"{p[:100]}* {pair}" for p, pair in list(found.items())[:4])
        raise CheckpointError(
            f"{path}: holds several normalisations: {shown}; set model.mean and model.std in the "
            "configuration"
        )
    return next(iter(found.items()), ("", {}))


def _triple(path: Path, key: str, tensor: Tensor) -> Triple:
    if tensor.numel() != 3:
        raise CheckpointError(
            f"{path}: {key} has shape {tuple(tensor.shape)}, expected 3 values"
            "; set model.mean and model.std in the configuration"
        )
    r, g, b = (round(value, 7) for value in tensor.flatten().tolist())
    return r, g, b


def why_doubtful(
    normalisation: Normalisation, settings: ModelSettings, source: Path | str
) -> str | None:
    """Explain how mean and std do not fit the range of the input; None if they do.

    A network may have been trained on 0..255 with mean and std of 0..1: there is no doubt if all
    three are set.
    """
    is_meant = normalisation.is_too_steep and None not in (settings.mean, settings.std)
    if is_meant or not (normalisation.is_too_steep or normalisation.is_too_flat):
        return None
    right = 255 if normalisation.is_too_flat else 1
    return (
        f"{source}: the input of 0..{normalisation.input_max:g} (model.input_max) does not fit "
        f"mean {_shown(normalisation.mean)} and std {_shown(normalisation.std)}: a black pixel "
        f"becomes {_shown(normalisation.black)}, a white one {_shown(normalisation.white)}; set "
        f"model.input_max to {right}, or model.mean and model.std, to what the training used"
    )


def _shown(values: Triple) -> str:
    return f"({', '.join(f'{value:.4g}' for value in values)})"
