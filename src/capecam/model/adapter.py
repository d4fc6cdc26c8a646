"""Adapt a network in memory, of whatever library, to a model that can be explained."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capecam.errors import SettingsError
from capecam.model.checkpoint_facts import colored_classes
from capecam.model.introspection import (
    PROBE_PX,
    black_tile,
    last_operation,
    shortened,
    sizes,
    tensors_in,
    why_not_size,
)
from capecam.model.model import Model, check_classes, check_finite
from capecam.model.normalisation import Normalisation, why_doubtful
from capecam.model.target_layer import ENCODER, find_encoder, find_layer
from capecam.settings import ClassSettings, ModelSettings

ENCODERS = (ENCODER, "backbone")
"""Names of encoders in segmentation_models_pytorch and timm, and in torchvision."""

SIGMOIDS = "Sigmoid", "Hardsigmoid"
"""Their names as autograd's nodes have them."""


def adapt_network(
    network: nn.Module,
    classes: Sequence[str | ClassSettings],
    normalisation: Normalisation = Normalisation(),  # noqa: B008 it is frozen
    *,
    target_layer: str | None = None,
    encoder: str | None = None,
    output: str | int | None = None,
    name: str | None = None,
) -> Model:
    """Adapt a network that maps (B, 3, H, W) to logits (docs/networks.md).

    >>> network = fcn_resnet50(weights=None, weights_backbone=None, num_classes=2)  # torchvision's
    >>> model = adapt_network(network, ["background", "solar panel"], Normalisation())

    The model has a copy of the network, so that the network itself stays as it is. Logits of a
    lower resolution than the tile are resampled to it (bilinear, half-pixel centres).

    Args:
        network: returns logits (B, C, h, w), or a mapping or tuple that holds them.
        classes: names of the C classes, background first; with colours if they are
            ``ClassSettings``. A network with one channel, the logit of a sigmoid, has two.
        normalisation: from pixels of 0..255 to the network's input.
        target_layer: path of the layer whose activations the CAMs use; by default the one whose
            output is the encoder's last feature map.
        encoder: path of the module that returns the feature maps that the decoder reads; by default
            ``encoder``, ``backbone``, or the base model of transformers. Without one,
            ``target_layer`` has to be given, and objects are explained there, too.
        output: key or index of the logits; by default the first tensor (B, C, h, w).
        name: name of the network in products; by default that of its class.

    Raises:
        SettingsError: the network takes no tile, returns no logits, or has no such layer.
        CheckpointError: the number of classes is another, or weights are not finite.
    """
    name = name or type(network).__name__
    check_finite(network, name)
    network = _copied(network, name).cpu().eval().requires_grad_(False)
    network.register_forward_hook(partial(_to_logits, output))
    channels = _channels(network, name)
    check_classes(len(classes), name, channels)
    usual = _usual_encoder(network)
    encoder = encoder or usual
    layer = find_layer(network, target_layer, encoder)
    settings = ModelSettings(
        architecture=name,
        classes=_with_colors(classes),
        activation="sigmoid" if channels == 1 else None,
        input_max=normalisation.input_max,
        mean=normalisation.mean,
        std=normalisation.std,
        target_layer=layer,
    )
    return Model(
        network,
        settings.classes,
        normalisation,
        layer,
        name,
        network_sha256(network, output, encoder if encoder != usual else None),
        ignored=(),
        sigmoid=channels == 1,
        doubt=why_doubtful(normalisation, settings, name),
        encoder=encoder,
        settings=settings,
    )


def network_sha256(
    network: nn.Module, output: str | int | None = None, encoder: str | None = None
) -> str:
    """Return the sha256 of a network's parameters and buffers, and of what is chosen in it.

    It is over name, type, shape and bytes of each tensor of ``state_dict()``, by name, so that it
    is the same wherever the weights are loaded from; and not over the network's code.

    Args:
        network: the network.
        output: key or index of the logits; None, which adds nothing: they are found by themselves.
        encoder: path of the encoder; None, likewise.
    """
    digest = hashlib.sha256()
    for key, tensor in sorted(network.state_dict().items()):
        if isinstance(tensor, Tensor):  # get_extra_state() may return anything
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    for name, chosen in (("output", output), ("encoder", encoder)):
        if chosen is not None:
            digest.update(f"{name} {chosen!r}\n".encode())
    return digest.hexdigest()


def _copied(network: nn.Module, name: str) -> nn.Module:
    """Return a copy of a network.

    Raises:
        SettingsError: it has tensors that are no parameters, but computed from them.
    """
    try:
        return copy.deepcopy(network)
    except RuntimeError as error:
        raise SettingsError(
            f"{name} cannot be copied ({shortened(error)}); make its weights ordinary parameters, "
            "such as by torch.nn.utils.remove_weight_norm or remove_spectral_norm"
        ) from error


def _to_logits(
    output: str | int | None, _network: nn.Module, inputs: tuple[Tensor], result: object
) -> Tensor:
    """Take the logits out of what a network returns, at the resolution of its input."""
    logits = _chosen(result, output)
    size = inputs[0].shape[-2:]
    if logits.shape[-2:] == size:
        return logits
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def _chosen(result: object, output: str | int | None) -> Tensor:
    """Return the tensor (B, C, h, w) at a key or index; the first one if that is None."""
    if output is None:
        maps = [tensor for tensor in tensors_in(result) if tensor.ndim == 4]
        if maps:
            return maps[0]
    elif isinstance(result, (Mapping, list, tuple)):
        parts: Any = result
        with suppress(LookupError, TypeError):  # TypeError: a list at a key
            logits = parts[output]
            if isinstance(logits, Tensor) and logits.ndim == 4:
                return logits
    keys = f" with {', '.join(map(str, result))}" if isinstance(result, Mapping) else ""
    where = "" if output is None else f" at output {output!r}"
    raise SettingsError(
        f"the network returns {type(result).__name__}{keys}, and no logits (B, C, h, w){where}; "
        "set output to the key or index of the logits"
    )


def _channels(network: nn.Module, name: str) -> int:
    """Return the number of output channels.

    Raises:
        SettingsError: it takes no tile of 3 bands, or returns probabilities.
    """
    size = next((size for size in sizes(network) if why_not_size(network, size) is None), None)
    if size is None:
        raise SettingsError(
            f"{name} takes no tile (1, 3, H, W): {why_not_size(network, PROBE_PX)}; adapt a "
            "network for RGB images"
        )
    with torch.enable_grad():
        logits = network(black_tile(network, size).requires_grad_())
    total = logits.sum(dim=1)
    is_softmax = logits.shape[1] > 1 and (logits >= 0).all() and total.allclose(total.new_ones(()))
    # Logits may well lie within 0..1 on a tile, so that values do not tell a sigmoid.
    if is_softmax or last_operation(logits.grad_fn) in SIGMOIDS:
        raise SettingsError(
            f"{name} returns probabilities, of which no score can be explained; leave out its last "
            "softmax or sigmoid"
        )
    return int(logits.shape[1])


def _usual_encoder(network: nn.Module) -> str:
    """Return the path of the encoder by its usual names."""
    base = getattr(network, "base_model_prefix", "")  # of transformers
    return next(
        (path for path in (*ENCODERS, base) if path and find_encoder(network, path)), ENCODER
    )


def _with_colors(classes: Sequence[str | ClassSettings]) -> tuple[ClassSettings, ...]:
    named = colored_classes([c if isinstance(c, str) else c.name for c in classes])
    given = zip(classes, named, strict=True)
    return tuple(own if isinstance(own, ClassSettings) else other for own, other in given)
