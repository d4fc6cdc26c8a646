"""One forward and shared backward passes per batch. The only place that calls autograd."""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from capecam.attribution.backward import replace_backward
from capecam.attribution.class_groups import group_by_classes, padded
from capecam.attribution.maps import Maps, Signals, join_maps
from capecam.attribution.methods import (
    CAMS,
    GUIDED,
    SHARED,
    ReluSwitch,
    class_scores,
    guided_gradcam,
    precise,
    predicted,
)
from capecam.attribution.precision import half_precision, repeatable, score_factor
from capecam.attribution.upsampling import DeterministicUpsampling
from capecam.errors import SettingsError
from capecam.model.introspection import why_not_guided
from capecam.model.model import Model
from capecam.settings import DEFAULT_METHODS, METHODS, PIXEL_METHODS, PRECISIONS, SCORES, WHERE

log = logging.getLogger(__name__)

CPU_BATCH = 4
"""Tiles that a CPU takes at once. With more, activations outgrow the heap and are paged in anew:
FPN resnext50_32x4d took 0.82 s a tile by 4, 0.92 by 8 and 1.27 by 32 (docs/performance.md)."""

DETECTED_BATCH = 32
"""Tiles that are explained together on a GPU where only some are; on a CPU one by one, which costs
9 % a tile and pads nothing (docs/performance.md)."""

AHEAD = 8
"""Batches that a GPU looks at to fill these."""


class Engine:
    """Maps a batch of tiles to maps.

    It works on a private copy of the network, so that the model it is given stays as it is:
    weights, mode, hooks and device.

    Args:
        model: the network and what it expects.
        methods: names of heatmaps (``settings.METHODS``).
        score: ``mean`` or ``predicted`` (``attribution.class_scores``).
        where: ``all``, or ``detected`` to explain only tiles and classes with a predicted pixel.
        precision: of the network, ``fp32``, ``tf32``, ``bf16`` or ``fp16``; a float64 network
            stays one with ``fp32``.
        device: of torch.

    Raises:
        SettingsError: an unknown method, score, where or precision; or guided gradients are asked
            of a network that cannot have them.
    """

    def __init__(
        self,
        model: Model,
        methods: Sequence[str] = DEFAULT_METHODS,
        *,
        score: str = "mean",
        where: str = "all",
        precision: str = "fp32",
        device: str | torch.device = "cpu",
    ) -> None:
        _check("method", METHODS, *methods)
        _check("score", SCORES, score)
        _check("where", WHERE, where)
        _check("precision", PRECISIONS, precision)
        self.model, self.methods, self.score, self.where = model, tuple(methods), score, where
        self.precision, self.device = precision, torch.device(device)
        self._network = copy.deepcopy(model.network).eval().requires_grad_(False).to(self.device)
        self._dtype = next(self._network.parameters()).dtype
        self._normalised = model.normalisation.on(self.device, self._dtype)
        self._switch = ReluSwitch()
        guided = [name for name in self.methods if name in PIXEL_METHODS]
        if guided and (reason := why_not_guided(self._network)):
            raise SettingsError(f"{guided[0]} is not possible: {reason}; choose other --methods")
        self._network.get_submodule(model.target_layer).register_forward_hook(self._tap)
        on_cpu = self.device.type == "cpu"  # on a GPU it is not measured yet
        layout = torch.channels_last if on_cpu else torch.contiguous_format
        replace_backward(self._network, self._switch, layout)
        self._activations: Tensor | None = None
        self._cam_size = 0, 0
        self.most = CPU_BATCH if on_cpu else sys.maxsize
        """Tiles that go through at once; less after the device ran out of memory."""
        self.detected_batch = 1 if on_cpu else DETECTED_BATCH
        """The same of those with a detection, if only they are explained."""

    def __call__(self, pixels: Tensor, valid: Tensor) -> Maps:
        """All maps of a batch.

        If the device runs out of memory, the batch goes through in halves from then on.

        Args:
            pixels: (B, 3, H, W) uint8, 0 where invalid.
            valid: (B, H, W) bool; True is imagery.
        """
        explain = self._explain_all if self.where == "all" else self._explain_detected
        while True:
            try:
                with repeatable(self.precision):
                    return explain(pixels, valid)
            except torch.OutOfMemoryError:
                if self.most == 1:
                    raise
            # Here and not above: the exception holds the tensors that are in the way.
            self.most = max(1, min(self.most, len(pixels)) // 2)
            torch.cuda.empty_cache()
            log.warning("out of memory; going on with %d tiles at a time", self.most)

    def at(self, precision: str) -> Engine:
        """The same at another precision."""
        return Engine(
            self.model,
            self.methods,
            score=self.score,
            where=self.where,
            precision=precision,
            device=self.device,
        )

    def together(self, batch_size: int) -> int:
        """How many tiles to hand over at once, for batches of a size to be full.

        Where only some tiles are explained, a GPU needs several batches to fill one of these.
        """
        regroups = self.where == "detected" and self.detected_batch > 1
        return batch_size * AHEAD if regroups else batch_size

    def _explain_all(self, pixels: Tensor, valid: Tensor) -> Maps:
        parts = []
        for part in zip(*(torch.split(x, self.most) for x in (pixels, valid)), strict=True):
            signals = self.signals(*part)
            heat, singular = self._heat(signals)
            explained = torch.ones_like(signals.logits[:, 1:, 0, 0], dtype=torch.bool)
            probability = signals.logits.softmax(dim=1)
            parts.append(Maps(probability, heat, explained, singular, _broken(heat)))
        return join_maps(parts)

    def _explain_detected(self, pixels: Tensor, valid: Tensor) -> Maps:
        """A forward of every tile; then forward and backward where a class is detected.

        Tiles with the same classes go together, in padded batches of one size, so that what a tile
        gets does not depend on its neighbours.
        """
        pixels, valid = (x.to(self.device, non_blocking=True) for x in (pixels, valid))
        logits = torch.cat([self.logits(part) for part in torch.split(pixels, self.most)])
        decided = predicted(logits, sigmoid=self.model.sigmoid) & valid[:, None]
        explained = decided[:, 1:].flatten(2).any(dim=2)
        heat, singular = self._no_heat(logits), torch.zeros_like(valid[0, 0, 0], dtype=torch.int64)
        size = min(self.detected_batch, self.most)
        for classes, tiles in group_by_classes(explained.tolist(), size):
            index = torch.tensor(tiles, device=self.device)
            found, left_out = self._heat(
                self.signals(padded(pixels[index], size), padded(valid[index], size), classes)
            )
            for name, values in found.items():
                heat[name][index[:, None], list(classes)] = values[: len(tiles)]
            singular += left_out
        return Maps(logits.softmax(dim=1), heat, explained, singular, _broken(heat))

    def _heat(self, signals: Signals) -> tuple[dict[str, Tensor], Tensor]:
        """The heatmaps, and how many entries were singular."""
        A = signals.activations.unsqueeze(1)
        cams = {name: CAMS[name](A, signals.gradients) for name in self._cams()}
        heat = {name: cam.map for name, cam in cams.items()}
        for name, guided in ((GUIDED, signals.guided), (SHARED, signals.shared)):
            if guided is not None:
                heat[name] = guided_gradcam(guided, heat["gradcam"])
        singular = torch.stack([cam.singular.sum() for cam in cams.values()]).sum()
        return {name: heat[name] for name in self.methods}, singular

    def _no_heat(self, logits: Tensor) -> dict[str, Tensor]:
        B, C, *tile = logits.shape
        return {
            name: logits.new_zeros(B, C - 1, *(tile if name in PIXEL_METHODS else self._cam_size))
            for name in self.methods
        }

    def logits(self, pixels: Tensor) -> Tensor:
        """The forward alone: (B, 3, H, W) uint8 -> (B, 1 + C, H, W)."""
        with torch.no_grad(), repeatable(self.precision):
            return self._forward(pixels.to(self.device, non_blocking=True).to(self._dtype))[0]

    @torch.enable_grad()
    def signals(
        self, pixels: Tensor, valid: Tensor, classes: Sequence[int] | None = None
    ) -> Signals:
        """One forward; per class a backward to the target layer and a guided one to the pixels.

        Tiles of a batch do not see each other (eval mode), so the gradient of the sum of their
        scores is every tile's own gradient.

        Args:
            pixels: (B, 3, H, W) uint8.
            valid: (B, H, W) bool.
            classes: which of the C foreground classes, by index; all without it.
        """
        guided, shared = GUIDED in self.methods, SHARED in self.methods
        valid = valid.to(self.device, non_blocking=True)
        x = pixels.to(self.device, non_blocking=True).to(self._dtype)
        x.requires_grad_(guided or shared)
        logits, A = self._forward(x)
        scores = class_scores(logits, valid, self.score, sigmoid=self.model.sigmoid)[:, 1:]
        classes = range(scores.shape[1]) if classes is None else classes
        factor = score_factor(self.precision, logits[0, 0].numel())
        totals = [scores[:, c].sum() * factor for c in classes]

        def gradients(of: Sequence[Tensor], inputs: Tensor) -> Tensor:
            return precise(torch.stack([_gradient(total, inputs) for total in of], 1)) / factor

        true = gradients(totals, A)
        with self._switch.on():
            return Signals(
                logits.detach(),
                A.detach(),
                true,
                gradients(totals, x) if guided else None,
                gradients([scores.sum() * factor], x) if shared else None,
            )

    def _forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) pixels of 0..255 to logits and the target layer's activations."""
        steady = DeterministicUpsampling() if self.device.type == "cuda" else nullcontext()
        with half_precision(self.precision, self.device), steady:
            logits = precise(self._network(self._normalised(pixels)))
        if self.model.sigmoid:  # softmax of (0, z) is (1 - sigmoid(z), sigmoid(z))
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        A, self._activations = self._activations, None
        if A is None:
            raise SettingsError(
                f"the network does not run its layer {self.model.target_layer}"
                "; set model.target_layer to one that it runs"
            )
        return logits, A

    def activation_shape(self, size: int) -> tuple[int, int, int]:
        """(K, h, w) of the target layer's output for a tile of ``size`` px."""
        with torch.no_grad():
            _, A = self._forward(
                torch.zeros(1, 3, size, size, dtype=self._dtype, device=self.device)
            )
        channels, height, width = A.shape[1:]
        return channels, height, width

    def _cams(self) -> list[str]:
        """The CAMs to compute; Guided Grad-CAM needs Grad-CAM whether it is asked for or not."""
        cams = [name for name in self.methods if name in CAMS]
        pixels = len(cams) < len(self.methods)
        return ["gradcam", *cams] if pixels and "gradcam" not in cams else cams

    def _tap(self, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        """Keep the target layer's output; what follows works on a copy, maybe in place."""
        if not output.requires_grad:
            output = output.detach().requires_grad_()
        self._activations, self._cam_size = output, (output.shape[-2], output.shape[-1])
        return output.clone()


def _check(what: str, known: Sequence[str], *found: str) -> None:
    """Raise where a word is not known, or there is none."""
    for word in found or ("",):
        if word not in known:
            raise SettingsError(f"{what} must be one of {', '.join(known)}, got {word!r}")


def _broken(heat: dict[str, Tensor]) -> Tensor:
    return torch.stack([(~maps.isfinite()).sum() for maps in heat.values()]).sum()


def _gradient(score: Tensor, inputs: Tensor) -> Tensor:
    """d score / d inputs, keeping the graph for the next class."""
    gradient: Tensor = torch.autograd.grad(score, inputs, retain_graph=True)[0]
    return gradient
