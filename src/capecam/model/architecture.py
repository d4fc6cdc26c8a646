"""Build an empty network from its description, within limits on names and sizes."""

from __future__ import annotations

import difflib
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from capecam.errors import CapecamError, CheckpointError, SettingsError
from capecam.settings import ModelSettings

BANDS = 3
"""Red, green and blue are read from every image."""

EXTERNAL_OPTION = re.compile(r"pretrained|checkpoint|cache|hub|hf_|url", re.IGNORECASE)
"""Names of options by which timm would read other files, or go online."""

MAX_OPTION = 65_536
"""Maximum of channels, depths and rates; the largest in use is 2,048."""

SCRATCH_NUMBERS = 1 << 24
"""Numbers that building may allocate beside the network's own, 64 MB: tables of positions."""

VGG_NUMBERS = 1 << 27
"""The same for VGG, 512 MB: its classifier of 124 million is built, and dropped at once."""


def build_network(
    settings: ModelSettings, config: Mapping[str, object] | None, channels: int
) -> nn.Module:
    """Build an empty network; weights are never downloaded.

    Args:
        settings: name the architecture, or leave that to ``config``.
        config: description in a saved folder, if there is one.
        channels: number of output channels.

    Raises:
        SettingsError: the description is missing, or not of a network.
    """
    name, options = _description(settings, config, channels)
    architecture = find_architecture(name)
    _check_options(options, architecture)
    # Explanations need logits, not activations, and no auxiliary classifier.
    fixed = {"encoder_weights": None, "activation": None, "aux_params": None}
    try:
        with warnings.catch_warnings():  # of timm, about names that are deprecated there
            warnings.simplefilter("ignore")
            return architecture(**{**options, **fixed})
    except (CapecamError, MemoryError):
        raise
    except Exception as error:  # options can fail in any way
        reason = " ".join(str(error).split())[:300]
        raise SettingsError(
            f"cannot build {name} with {str(options)[:300]}: {reason}"
            "; correct model.architecture, model.encoder or model.options"
        ) from error


def _description(
    settings: ModelSettings, config: Mapping[str, object] | None, channels: int
) -> tuple[str, dict[str, Any]]:
    """Return name and arguments of the architecture."""
    if settings.architecture is None and config is not None:
        options = dict(config)
        return str(options.pop("_model_class", None)), options
    if settings.architecture and settings.encoder:
        options = {"encoder_name": settings.encoder, "in_channels": BANDS, **settings.options}
        return settings.architecture, options | {"classes": channels}
    raise SettingsError(
        "the checkpoint does not say what network it is for; "
        "let capecam init guess it, or set model.architecture and model.encoder in the "
        "configuration"
    )


def find_architecture(name: str) -> type[nn.Module]:
    """Return the class of an architecture, whatever the case of its name.

    Raises:
        SettingsError: there is none; the message has the nearest name.
    """
    # Slow to import (timm), and not needed to inspect a checkpoint.
    import segmentation_models_pytorch as smp  # noqa: PLC0415

    architectures: dict[str, type[nn.Module]] = smp.MODEL_ARCHITECTURES_MAPPING
    if name.lower() not in architectures:
        near = difflib.get_close_matches(name.lower(), architectures, 1)
        hint = f"; did you mean {architectures[near[0]].__name__}?" if near else ""
        raise SettingsError(f"unknown architecture {name[:80]!r}{hint}")
    return architectures[name.lower()]


def _check_options(options: Mapping[str, object], architecture: type[nn.Module]) -> None:
    """Raise if an argument is too large, or would make timm read other files.

    timm accepts names of encoders that lead online (``hf-hub:``) or to a folder (``local-dir:``),
    and arguments that name files (``checkpoint_path``).
    """
    for key, value in options.items():
        if EXTERNAL_OPTION.search(key):
            raise SettingsError(
                f"cannot build {architecture.__name__}: the option {key[:80]!r} would lead to "
                "other files; weights come from the checkpoint alone"
            )
        for number in _numbers(value):
            if not abs(number) <= MAX_OPTION:
                raise SettingsError(
                    f"cannot build {architecture.__name__}: {key} holds {number:g}; no number may "
                    f"be above {MAX_OPTION}"
                )
    encoder = options.get("encoder_name", "resnet34")
    if not (isinstance(encoder, str) and re.fullmatch(r"[\w.+-]{1,100}", encoder, re.ASCII)):
        raise SettingsError(
            f"the encoder {str(encoder)[:80]!r} is no name that segmentation_models_pytorch or "
            "timm knows; names of other places, such as hf-hub:..., are not followed"
        )


def _numbers(value: object) -> Iterator[float]:
    """Yield the numbers in an option; infinity for one that is too large for a float."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, (int, float)):
        yield value if isinstance(value, float) or value.bit_length() < 64 else math.inf


class Budget(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context that refuses to build a network much larger than its checkpoint.

    Numbers are counted before they are allocated: a small file may describe a network of terabytes.
    """

    def __init__(self, numbers: int, path: Path, architecture: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._held, self._path = numbers, path
        beside = VGG_NUMBERS if "vgg" in architecture else SCRATCH_NUMBERS
        self._left = 2 * numbers + beside

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        is_meta = bool(kwargs) and kwargs.get("device") == torch.device("meta")
        if args and isinstance(args[0], (list, tuple)) and not is_meta:
            self._left -= math.prod(n for n in args[0] if isinstance(n, int))
        if self._left < 0:
            raise CheckpointError(
                f"{self._path}: the network that is described is far larger than the "
                f"{self._held:,} numbers that the checkpoint holds; correct model.architecture, "
                "model.encoder and model.options, or the config.json beside it"
            )
        return func(*args, **(kwargs or {}))
