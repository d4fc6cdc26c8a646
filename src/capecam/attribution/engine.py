"""Engine: one forward and shared backward passes per batch. The only caller of autograd."""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Self

import torch
from torch import Tensor

from capecam.attribution.backward import DeterministicUpsampling, replace_backward
from capecam.attribution.block_sums import NotedSums
from capecam.attribution.device import half_precision, repeatable, score_factor
from capecam.attribution.maps import (
    Explanation,
    LayerSignals,
    Maps,
    Signals,
    group_by_classes,
    join_maps,
)
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
from capecam.attribution.target import FeatureMap, ModuleOutput
from capecam.errors import SettingsError
from capecam.model.introspection import why_not_guided
from capecam.model.model import Model
from capecam.settings import DEFAULT_METHODS, METHODS, PIXEL_METHODS, PRECISIONS, SCORES, WHERE

log = logging.getLogger(__name__)

CPU_BATCH = 4
"""Maximum number of tiles that a CPU takes at once. FPN resnext50_32x4d takes as long for a tile by
8, and 1.1 GB more (docs/performance.md)."""

DETECTED_BATCH = 32
"""Number of tiles that a GPU explains together if only some are explained."""

READ_AHEAD = 8
"""Number of batches among which tiles to explain are looked for."""

OBJECT_PX = 256
"""Number of pixels of a small object, over which a score of an object is a mean: 1.6 m² at 8 cm."""


class Engine:
    """Computes the maps of batches of tiles.

    It works on a private copy of the network, so that the model stays unchanged: weights, mode,
    hooks and device.

    Args:
        model: the network and its input.
        methods: names of heatmaps (``settings.METHODS``).
        score: ``mean`` or ``predicted`` (``attribution.methods.class_scores``).
        where: ``all``, or ``detected`` to explain only tiles and classes with a predicted pixel.
        precision: of the network, ``fp32``, ``tf32``, ``bf16`` or ``fp16``; with ``fp32`` a float64
            network stays float64.
        device: of torch.
        target: whose activations are explained; the model's target layer if None.

    Raises:
        SettingsError: an unknown method, score, where or precision; or the network cannot have the
            guided gradients that a method needs.
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
        target: ModuleOutput | FeatureMap | None = None,
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
        self._target = target or ModuleOutput(model.target_layer)
        self._target.attach(self._network)
        replace_backward(self._network, self._switch, self._gradient_layout())
        self._layout = torch.preserve_format
        on_cpu = self.device.type == "cpu"
        self.max_tiles = CPU_BATCH if on_cpu else sys.maxsize
        """Maximum number of tiles in one pass; lowered if the device runs out of memory."""
        self.detected_batch = CPU_BATCH if on_cpu else DETECTED_BATCH
        """Maximum number of tiles in one pass if only those with a detection are explained."""

    def _gradient_layout(self) -> torch.memory_format:
        """Return the memory format of gradients."""
        on_cpu = self.device.type == "cpu"  # on a GPU it is not measured yet
        return torch.channels_last if on_cpu else torch.contiguous_format

    def use_channels_last(self) -> None:
        """Lay out the network's weights and pixels channels-last, which rounds differently."""
        self._network.to(memory_format=torch.channels_last)
        self._layout = torch.channels_last

    def at(self, precision: str, methods: Sequence[str] | None = None) -> Self:
        """Return an engine at another precision that shares this one's network.

        Args:
            precision: see the class.
            methods: some of this engine's, or CAMs; this engine's if None.
        """
        _check("precision", PRECISIONS, precision)
        engine = copy.copy(self)
        engine.precision = precision
        engine.methods = self.methods if methods is None else tuple(methods)
        return engine

    def __call__(self, pixels: Tensor, valid: Tensor) -> Maps:
        """Compute all maps of a batch.

        If the device runs out of memory, batches are halved from then on.

        Args:
            pixels: (B, 3, H, W) uint8, 0 where invalid.
            valid: (B, H, W) bool; True is imagery.
        """
        explain = self._explain_predicted if self._skips else self._explain_all
        while True:
            try:
                with repeatable(self.precision):
                    return explain(pixels, valid)
            except torch.OutOfMemoryError:
                if self.max_tiles == 1:
                    raise
            # Not inside the except clause: the exception holds the tensors that take the memory.
            self.max_tiles = max(1, min(self.max_tiles, len(pixels)) // 2)
            torch.cuda.empty_cache()
            log.warning("out of memory; continuing with %d tiles at a time", self.max_tiles)

    def tiles_per_call(self, batch_size: int) -> int:
        """Return the number of tiles to pass at once, so that batches of a size are full.

        If only some tiles are explained, it takes several batches to fill one of those.
        """
        return batch_size * READ_AHEAD if self._skips else batch_size

    @property
    def _skips(self) -> bool:
        """True if a class without a predicted pixel in a tile needs no backward pass."""
        return self.where == "detected" or self.score == "predicted"

    def _explain_all(self, pixels: Tensor, valid: Tensor) -> Maps:
        """Explain every class of every tile."""
        parts = []
        for part in zip(*(torch.split(x, self.max_tiles) for x in (pixels, valid)), strict=True):
            logits, heat, singular = self.explain(*part)
            explained = torch.ones_like(logits[:, 1:, 0, 0], dtype=torch.bool)
            parts.append(Maps(logits.softmax(dim=1), heat, explained, singular.sum()))
        return join_maps(parts)

    def _explain_predicted(self, pixels: Tensor, valid: Tensor) -> Maps:
        """Run a forward of every tile; explain the classes that are predicted in a tile.

        Tiles with the same classes go together. Other maps are 0: not asked for, or, by the score
        ``predicted``, the gradients of a sum over no pixel.
        """
        pixels, valid = (x.to(self.device, non_blocking=True) for x in (pixels, valid))
        logits = torch.cat([self.logits(part) for part in torch.split(pixels, self.max_tiles)])
        decided = predicted(logits, sigmoid=self.model.sigmoid) & valid[:, None]
        found = decided[:, 1:].flatten(2).any(dim=2)
        heat, singular = self._no_heat(logits), torch.zeros_like(valid[0, 0, 0], dtype=torch.int64)
        for classes, tiles in group_by_classes(found.tolist(), self._group_size()):
            index, size = torch.tensor(tiles, device=self.device), self._group_size(len(tiles))
            group = self.explain(_pad(pixels[index], size), _pad(valid[index], size), classes)
            for name, values in group.heat.items():
                heat[name][index[:, None], list(classes)] = values[: len(tiles)]
            singular += group.singular[: len(tiles)].sum()
        explained = found if self.where == "detected" else torch.ones_like(found)
        return Maps(logits.softmax(dim=1), heat, explained, singular)

    def _group_size(self, tiles: int | None = None) -> int:
        """Return the number of tiles in one pass, the last of them empty, to explain some tiles.

        On a GPU groups are of one size, so that the maps of a tile do not depend on how many there
        are. On a CPU they are even: of an odd number the last tile rounds differently
        (PyTorch 2.14, oneDNN, tiles of 256 px).

        Args:
            tiles: to explain; as many as possible if None.
        """
        most = min(self.detected_batch, self.max_tiles)
        if tiles is None or self.device.type != "cpu":
            return most
        return min(most, tiles + tiles % 2)

    def explain(
        self, pixels: Tensor, valid: Tensor, classes: tuple[int, ...] | None = None
    ) -> Explanation:
        """Compute the heatmaps of a batch that fits the device; see :meth:`signals`."""
        signals = self.signals(pixels, valid, classes)
        A = signals.activations.unsqueeze(1)
        cams = {name: CAMS[name](A, signals.gradients) for name in self._cams()}
        heat = {name: cam.map for name, cam in cams.items()}
        for name, guided in ((GUIDED, signals.guided), (SHARED, signals.shared)):
            if guided is not None:
                heat[name] = guided_gradcam(guided, heat["gradcam"])
        singular = torch.stack([cam.singular.sum(dim=1) for cam in cams.values()]).sum(dim=0)
        return Explanation(signals.logits, {name: heat[name] for name in self.methods}, singular)

    def _no_heat(self, logits: Tensor) -> dict[str, Tensor]:
        """Return heatmaps of 0."""
        B, C, *tile = logits.shape
        cam = self._target.size
        return {
            name: logits.new_zeros(B, C - 1, *(tile if name in PIXEL_METHODS else cam))
            for name in self.methods
        }

    def logits(self, pixels: Tensor) -> Tensor:
        """Run the forward alone: (B, 3, H, W) uint8 -> (B, 1 + C, H, W)."""
        with torch.no_grad(), repeatable(self.precision):
            return self._forward(pixels.to(self.device, non_blocking=True).to(self._dtype))[0]

    @torch.enable_grad()
    def signals(
        self, pixels: Tensor, valid: Tensor, classes: Sequence[int] | None = None
    ) -> Signals:
        """Run a forward; per class a backward to the target layer and a guided one to the pixels.

        Tiles of a batch are independent in eval mode, so the gradient of the sum of their scores is
        every tile's own gradient.

        Args:
            pixels: (B, 3, H, W) uint8.
            valid: (B, H, W) bool.
            classes: indices of foreground classes; all if None.
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

        def gradients(of: Sequence[Tensor], inputs: Tensor, *, last: bool) -> Tensor:
            *before, final = of
            each = [_gradient(total, inputs) for total in before]
            each.append(_gradient(final, inputs, keep=not last))
            return precise(torch.stack(each, 1)) / factor

        true = gradients(totals, A, last=not (guided or shared))
        with self._switch.on():
            return Signals(
                logits.detach(),
                A.detach(),
                true,
                gradients(totals, x, last=not shared) if guided else None,
                gradients([scores.sum() * factor], x, last=True) if shared else None,
            )

    @torch.enable_grad()
    def signals_of(
        self, pixels: Tensor, score: Callable[[Tensor], Tensor], at: str = "target"
    ) -> LayerSignals:
        """Run a forward, and one backward of a score of each tile.

        Args:
            pixels: (B, 3, H, W) of 0..255.
            score: takes logits (B, 1 + C, H, W), returns (B,), each of its own tile alone.
            at: ``target``; or ``pixels`` for the gradient of the input, and ``guided`` for its
                guided gradient.
        """
        x = pixels.to(self.device, non_blocking=True).to(self._dtype)
        x.requires_grad_(at != "target" or self._target.needs_graph)
        with repeatable(self.precision):
            logits, A = self._forward(x)
            inputs = A if at == "target" else x
            factor = score_factor(self.precision, OBJECT_PX)
            with self._switch.on() if at == "guided" else nullcontext():
                gradient = _gradient(score(logits).sum() * factor, inputs, keep=False)
        return LayerSignals(logits.detach(), inputs.detach(), precise(gradient) / factor)

    def _forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, 3, H, W) pixels of 0..255 to logits and the target layer's activations."""
        with self._forward_context():
            pixels = pixels.to(memory_format=self._layout)
            logits = precise(self._network(self._normalised(pixels)))
        if self.model.sigmoid:  # softmax of (0, z) is (1 - sigmoid(z), sigmoid(z))
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        A = self._target.pop_output()
        if A is None:
            raise SettingsError(
                f"the network does not run its layer {self._target}; choose one that it runs"
            )
        return logits, A

    def _forward_context(self) -> AbstractContextManager[object]:
        """Return the context of the network's forward: its precision, and how it upsamples.

        Sums are noted on a CPU alone. On a GPU that is not measured; FPN resnext50_32x4d at 320 px
        would save 11 GFLOP a tile, and read and write .34 GB more (``graph.cost``).
        """
        contexts = ExitStack()
        contexts.enter_context(half_precision(self.precision, self.device))
        on_gpu = self.device.type == "cuda"
        contexts.enter_context(DeterministicUpsampling() if on_gpu else NotedSums())
        return contexts

    def activation_shape(self, size: int) -> tuple[int, int, int]:
        """Return (K, h, w) of the target layer's output for a tile of ``size`` px."""
        with torch.no_grad():
            _, A = self._forward(
                torch.zeros(1, 3, size, size, dtype=self._dtype, device=self.device)
            )
        channels, height, width = A.shape[1:]
        return channels, height, width

    def _cams(self) -> list[str]:
        """Return the CAMs to compute: Guided Grad-CAM needs Grad-CAM, too."""
        cams = [name for name in self.methods if name in CAMS]
        pixels = len(cams) < len(self.methods)
        return ["gradcam", *cams] if pixels and "gradcam" not in cams else cams


def _check(name: str, choices: Sequence[str], *chosen: str) -> None:
    """Raise if there is no choice, or one that does not exist."""
    for choice in chosen or ("",):
        if choice not in choices:
            raise SettingsError(f"{name} must be one of {', '.join(choices)}, got {choice!r}")


def _pad(x: Tensor, size: int) -> Tensor:
    """Append zeros: (n, ...) -> (size, ...)."""
    return torch.cat([x, x.new_zeros(size - len(x), *x.shape[1:])])


def _gradient(score: Tensor, inputs: Tensor, *, keep: bool = True) -> Tensor:
    """Compute d score / d inputs, and keep the graph for the next class, or free it.

    A captured graph that no backward has freed is never freed (PyTorch 2.14: its nodes hold their
    own outputs).
    """
    gradient: Tensor = torch.autograd.grad(score, inputs, retain_graph=keep)[0]
    return gradient
