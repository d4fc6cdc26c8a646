"""One forward and shared backward passes per batch. The only place that calls autograd."""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from capecam.attribution import CAMS, GUIDED, ReluSwitch, class_scores, guided_gradcam, predicted
from capecam.backward import make_lean
from capecam.errors import SettingsError
from capecam.graph import why_not_guided
from capecam.model import Model
from capecam.settings import DEFAULT_METHODS, METHODS, SCORES, WHERE

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Signals:
    """What one forward and its backward passes leave to the formulas. C: foreground classes."""

    logits: Tensor
    """(B, 1 + C, H, W)."""
    activations: Tensor
    """(B, K, h, w), A at the target layer."""
    gradients: Tensor
    """(B, C, K, h, w), dS_c/dA."""
    guided: Tensor | None
    """(B, C, 3, H, W), guided gradient of S_c with respect to the unnormalised pixels."""


@dataclass(frozen=True, slots=True)
class Maps:
    """Everything about a batch of tiles, raw. C: foreground classes, in the order of the model."""

    probability: Tensor
    """(B, 1 + C, H, W), softmax; channel 0 is the background."""
    heat: dict[str, Tensor]
    """By method: CAMs (B, C, h, w) at the target layer's resolution, ``guided_gradcam``
    (B, C, H, W); not negative, never scaled per tile."""
    explained: Tensor
    """(B, C) bool; False where ``where='detected'`` left tile and class out (the map is 0)."""
    singular: Tensor
    """() int64; Grad-CAM++ entries left out because their denominator vanishes."""


def join_maps(parts: Sequence[Maps]) -> Maps:
    """Batches of maps as one."""
    if len(parts) == 1:
        return parts[0]
    return Maps(
        torch.cat([part.probability for part in parts]),
        {name: torch.cat([part.heat[name] for part in parts]) for name in parts[0].heat},
        torch.cat([part.explained for part in parts]),
        torch.stack([part.singular for part in parts]).sum(),
    )


class Engine:
    """Maps a batch of tiles to maps.

    It works on a private copy of the network, so that the model it is given stays as it is:
    weights, mode, hooks and device.

    Args:
        model: the network and what it expects.
        methods: names of heatmaps (``settings.METHODS``).
        score: ``mean`` or ``predicted`` (``attribution.class_scores``).
        where: ``all``, or ``detected`` to explain only tiles and classes with a predicted pixel.
        device: of torch.

    Raises:
        SettingsError: an unknown method, score or where; or guided gradients are asked of a
            network that cannot have them.
    """

    def __init__(
        self,
        model: Model,
        methods: Sequence[str] = DEFAULT_METHODS,
        *,
        score: str = "mean",
        where: str = "all",
        device: str | torch.device = "cpu",
    ) -> None:
        _check("method", METHODS, *methods)
        _check("score", SCORES, score)
        _check("where", WHERE, where)
        self.model, self.methods, self.score, self.where = model, tuple(methods), score, where
        self.device = torch.device(device)
        self._network = copy.deepcopy(model.network).eval().requires_grad_(False).to(self.device)
        self._dtype = next(self._network.parameters()).dtype
        self._scale = model.normalisation.input_max / 255
        self._mean = self._per_channel(model.normalisation.mean)
        self._std = self._per_channel(model.normalisation.std)
        self._switch = ReluSwitch()
        self._activations: Tensor | None = None
        if GUIDED in self.methods and (reason := why_not_guided(self._network)):
            raise SettingsError(f"{GUIDED} is not possible: {reason}; choose other --methods")
        self._network.get_submodule(model.target_layer).register_forward_hook(self._tap)
        on_cpu = self.device.type == "cpu"  # on a GPU it is not measured yet
        layout = torch.channels_last if on_cpu else torch.contiguous_format
        make_lean(self._network, self._switch, layout)
        self._activations = None
        self.most = sys.maxsize
        """Tiles that go through at once; less after the device ran out of memory."""

    def __call__(self, pixels: Tensor, valid: Tensor) -> Maps:
        """All maps of a batch.

        If the device runs out of memory, the batch goes through in halves from then on.

        Args:
            pixels: (B, 3, H, W) uint8, 0 where invalid.
            valid: (B, H, W) bool; True is imagery.
        """
        while True:
            try:
                parts = zip(*(torch.split(x, self.most) for x in (pixels, valid)), strict=True)
                return join_maps([self._explain(*part) for part in parts])
            except torch.OutOfMemoryError:
                if self.most == 1:
                    raise
            # Here and not above: the exception holds the tensors that are in the way.
            self.most = max(1, min(self.most, len(pixels)) // 2)
            torch.cuda.empty_cache()
            log.warning("out of memory; going on with %d tiles at a time", self.most)

    def _explain(self, pixels: Tensor, valid: Tensor) -> Maps:
        signals = self.signals(pixels, valid)
        explained = self._explained(signals.logits, valid.to(self.device))
        A = signals.activations.unsqueeze(1)
        cams = {name: CAMS[name](A, signals.gradients) for name in self._cams()}
        heat = {name: cam.map for name, cam in cams.items()}
        if signals.guided is not None:
            heat[GUIDED] = guided_gradcam(signals.guided, heat["gradcam"])
        return Maps(
            probability=signals.logits.softmax(dim=1),
            heat={name: heat[name] * explained[..., None, None] for name in self.methods},
            explained=explained,
            singular=torch.stack([cam.singular.sum() for cam in cams.values()]).sum(),
        )

    @torch.no_grad()
    def logits(self, pixels: Tensor) -> Tensor:
        """The forward alone: (B, 3, H, W) uint8 -> (B, 1 + C, H, W)."""
        logits = self._forward(pixels.to(self.device, non_blocking=True).to(self._dtype))
        self._activations = None
        return logits

    @torch.enable_grad()
    def signals(self, pixels: Tensor, valid: Tensor) -> Signals:
        """One forward; per class one backward to the target layer and one guided to the pixels.

        Tiles of a batch do not see each other (eval mode), so the gradient of the sum of their
        scores is every tile's own gradient.
        """
        guided = GUIDED in self.methods
        valid = valid.to(self.device, non_blocking=True)
        x = pixels.to(self.device, non_blocking=True).to(self._dtype).requires_grad_(guided)
        logits = self._forward(x)
        A, self._activations = self._activations, None
        if A is None:
            raise SettingsError(f"the network does not run its layer {self.model.target_layer}")
        scores = class_scores(logits, valid, self.score, sigmoid=self.model.sigmoid)[:, 1:]
        wanted = self._explained(logits, valid).any(dim=0)
        needed = [bool(wanted[c]) for c in range(len(wanted))]
        gradients = [_gradient(scores[:, c], A, needed[c]) for c in range(len(needed))]
        guided_gradients = []
        if guided:
            with self._switch.on():
                guided_gradients = [
                    _gradient(scores[:, c], x, needed[c]) for c in range(len(needed))
                ]
        return Signals(
            logits.detach(),
            A.detach(),
            torch.stack(gradients, dim=1),
            torch.stack(guided_gradients, dim=1) if guided else None,
        )

    def _forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) pixels of 0..255 to logits; the target layer's output is kept aside."""
        logits: Tensor = self._network((pixels * self._scale - self._mean) / self._std)
        if self.model.sigmoid:  # softmax of (0, z) is (1 - sigmoid(z), sigmoid(z))
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        return logits

    def activation_shape(self, size: int) -> tuple[int, int, int]:
        """(K, h, w) of the target layer's output for a tile of ``size`` px."""
        pixels = torch.zeros(1, 3, size, size, dtype=torch.uint8)
        signals = self.signals(pixels, torch.ones(1, size, size, dtype=torch.bool))
        channels, height, width = signals.activations.shape[1:]
        return channels, height, width

    def _cams(self) -> list[str]:
        """The CAMs to compute; Guided Grad-CAM needs Grad-CAM whether it is asked for or not."""
        cams = [name for name in self.methods if name in CAMS]
        return ["gradcam", *cams] if GUIDED in self.methods and "gradcam" not in cams else cams

    def _explained(self, logits: Tensor, valid: Tensor) -> Tensor:
        """(B, C) bool; which tiles and classes are to be explained."""
        if self.where == "all":
            shape = (logits.shape[0], logits.shape[1] - 1)
            return torch.ones(shape, dtype=torch.bool, device=self.device)
        decided = predicted(logits, sigmoid=self.model.sigmoid)
        return (decided & valid[:, None])[:, 1:].flatten(2).any(dim=2)

    def _tap(self, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        """Keep the target layer's output; what follows works on a copy, maybe in place."""
        if not output.requires_grad:
            output = output.detach().requires_grad_()
        self._activations = output
        return output.clone()

    def _per_channel(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=self._dtype, device=self.device).view(1, -1, 1, 1)


def _check(what: str, known: Sequence[str], *found: str) -> None:
    """Raise where a word is not known, or there is none."""
    for word in found or ("",):
        if word not in known:
            raise SettingsError(f"{what} must be one of {', '.join(known)}, got {word!r}")


def _gradient(scores: Tensor, inputs: Tensor, needed: bool) -> Tensor:
    """d(sum of scores)/d inputs, keeping the graph for the next class; zeros if not needed."""
    if not needed:
        return torch.zeros_like(inputs)
    gradient: Tensor = torch.autograd.grad(scores.sum(), inputs, retain_graph=True)[0]
    return gradient
