"""Maps of objects: what in its tile the network's decision for one object rests on.

The score of an object is the logit of its class, averaged over its own pixels; the map is HiResCAM
at a feature map of the encoder (docs/method.md#objects).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from capecam.attribution.engine import Engine
from capecam.attribution.methods import hirescam, precise, resample
from capecam.attribution.target import FeatureMap, ModuleOutput
from capecam.errors import NotFiniteError, SettingsError
from capecam.model.feature_map import find_feature_map
from capecam.model.introspection import why_not_guided
from capecam.model.model import Model
from capecam.model.target_layer import find_layer
from capecam.settings import OBJECT_METHODS

IG_STEPS = 8
"""Gradients of integrated gradients, a forward and a backward to the pixels each."""

Score = Callable[[Tensor, "Targets"], Tensor]
"""Takes logits (B, 1 + C, H, W) and the objects, returns the score of each, (B,)."""


@dataclass(frozen=True, slots=True)
class Targets:
    """An object in each of B tiles."""

    class_id: Tensor
    """(B,) int64, from 1."""
    inside: Tensor
    """(B, H, W) bool; True is a valid pixel of the object."""

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean (B,) of (B, H, W) over the pixels of each object."""
        count = self.inside.sum(dim=(1, 2)).clamp(min=1)
        return (values * self.inside).sum(dim=(1, 2)) / count

    def own(self, values: Tensor) -> Tensor:
        """Select the objects' classes, (B, H, W), from (B, 1 + C, H, W)."""
        return values[torch.arange(len(values), device=values.device), self.class_id]

    def to(self, device: torch.device) -> Targets:
        """Copy to a device."""
        return Targets(self.class_id.to(device), self.inside.to(device))


def log_odds(logits: Tensor, targets: Targets) -> Tensor:
    """Compute the mean over the object of ``z_c - logsumexp(z of the other classes)``."""
    own = targets.own(logits)
    is_own = torch.nn.functional.one_hot(targets.class_id, logits.shape[1]).bool()
    others = logits.masked_fill(is_own[..., None, None], -torch.inf)
    return targets.mean(own - others.logsumexp(dim=1))


def mean_logit(logits: Tensor, targets: Targets) -> Tensor:
    """Compute the mean over the object of its class's logit."""
    return targets.mean(targets.own(logits))


def object_probability(logits: Tensor, targets: Targets) -> Tensor:
    """Compute the mean over the object of its class's probability."""
    return targets.mean(targets.own(logits.softmax(dim=1)))


class ObjectEngine:
    """Computes the maps of objects.

    Args:
        model: the network and its input.
        method: ``hirescam``, or ``guided``: the guided gradient of the object's score.
        stride: the map is of the deepest feature map of the encoder of at most this stride; of the
            model's target layer if there is none.
        layer: a layer of the network instead.
        score: of an object.
        precision: see :class:`capecam.attribution.engine.Engine`.
        device: of torch.

    Raises:
        SettingsError: there is no such layer, or no guided gradient.
    """

    def __init__(
        self,
        model: Model,
        *,
        method: str = "hirescam",
        stride: int = 8,
        layer: str | None = None,
        score: Score = mean_logit,
        precision: str = "fp32",
        device: str | torch.device = "cpu",
    ) -> None:
        if method not in OBJECT_METHODS:
            raise SettingsError(f"method must be one of {', '.join(OBJECT_METHODS)}; got {method}")
        if method == "guided" and (reason := why_not_guided(model.network)):
            raise SettingsError(f"objects.method guided is not possible: {reason}")
        target = _target(model, stride, layer)
        self._engine = Engine(
            model, ("hirescam",), precision=precision, device=device, target=target
        )
        self.model, self.device, self.method = model, self._engine.device, method
        if self.device.type == "cpu":  # 1.3 times as fast, and rounds otherwise than a tile's maps
            self._engine.use_channels_last()
        self.precision, self._score = precision, score

    def maps(self, pixels: Tensor, valid: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """Explain an object in each tile.

        Args:
            pixels: (B, 3, H, W) uint8, 0 where invalid.
            valid: (B, H, W) bool; True is imagery.
            targets: the objects.

        Returns:
            Raw maps (B, h, w) at the feature map's resolution, or (B, H, W) if guided; and (B,)
            the objects' probability.

        Raises:
            NotFiniteError: the network's gradients overflowed.
        """
        targets = targets.to(self.device)
        at = "guided" if self.method == "guided" else "target"
        signals = self._engine.signals_of(pixels, lambda z: self._score(z, targets), at)
        if at == "guided":
            heat = signals.gradients.abs().amax(dim=1) * valid.to(self.device)
        else:
            heat = hirescam(signals.activations, signals.gradients).map
        return self._finite(heat), object_probability(precise(signals.logits), targets)

    def integrated_gradients(
        self, pixels: Tensor, baseline: Tensor, targets: Targets, steps: int = IG_STEPS
    ) -> Tensor:
        """Integrate the gradient of each object's log-odds from a baseline to its tile.

        Sundararajan et al. 2017, eq. 1, by the midpoint rule. It refers to no layer, and the
        log-odds are what the probability depends on.

        Args:
            pixels: (B, 3, H, W) uint8.
            baseline: (B, 3, H, W) uint8, without the objects.
            targets: the objects.
            steps: number of gradients.

        Returns:
            (B, H, W) sum over channels; its sum is the difference of the two log-odds, nearly.

        Raises:
            NotFiniteError: the network's gradients overflowed.
        """
        targets, start = targets.to(self.device), precise(baseline.to(self.device))
        way = precise(pixels.to(self.device)) - start
        gradients = [
            self._engine.signals_of(
                start + way * ((step + 0.5) / steps), lambda z: log_odds(z, targets), "pixels"
            ).gradients
            for step in range(steps)
        ]
        return self._finite((way * torch.stack(gradients).mean(dim=0)).sum(dim=1))

    def probabilities(self, pixels: Tensor) -> NDArray[np.floating]:
        """Return the probability of every class and pixel, (B, 1 + C, H, W), of (B, 3, H, W)."""
        return np.asarray(self._engine.logits(pixels).softmax(dim=1).cpu().numpy())

    def probability(self, pixels: Tensor, targets: Targets) -> Tensor:
        """Return the objects' probability (B,) in tiles (B, 3, H, W) uint8."""
        return object_probability(self._engine.logits(pixels), targets.to(self.device))

    def _finite(self, heat: Tensor) -> Tensor:
        """Return maps, if they are finite."""
        if not heat.isfinite().all():
            raise NotFiniteError(
                f"the map of an object is not finite in {self.precision}; use --precision fp32"
            )
        return heat


def _target(model: Model, stride: int, layer: str | None) -> ModuleOutput:
    """Return the activations to explain; those of the tile's CAMs if there is no encoder."""
    if layer is not None:
        return ModuleOutput(find_layer(model.network, layer, model.encoder))
    index = find_feature_map(model.network, stride, model.encoder)
    if index is None:
        return ModuleOutput(model.target_layer)
    return FeatureMap(index, model.encoder)


def at_pixels(heat: Tensor, valid: Tensor) -> Tensor:
    """Resample maps (B, h, w) to pixels (B, H, W), 0 where there is no imagery."""
    return resample(heat, valid.shape[-1]) * valid
