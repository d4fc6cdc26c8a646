"""Heatmaps of an object by method, score and layer, from one forward of its tile."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from capecam.api import Model
from capecam.attribution.backward import replace_backward
from capecam.attribution.methods import (
    CAMS,
    GUIDED,
    ReluSwitch,
    class_scores,
    guided_gradcam,
    resample,
)
from capecam.attribution.object_engine import Targets, log_odds, mean_logit
from reasons.subjects import STRIDE_PX

METHODS = ("gradcam", "gradcampp", GUIDED, "hirescam", "layercam", "xgradcam")
SCORES = ("tile mean", "predicted", "object logit", "object log-odds")
LAYERS = ("conv", "32", "16", "8", "4")
"""The last convolution before its batch norm; and outputs of the stages of the encoder after their
activation, by stride."""


class Combination(NamedTuple):
    """A way to make a map."""

    method: str
    score: str
    layer: str


COMBINATIONS = tuple(Combination(*way) for way in product(METHODS, SCORES, LAYERS))


def score_of(kind: str, logits: Tensor, inside: Tensor, class_id: int) -> Tensor:
    """Return a score of a class of one tile: logits (1, C, S, S), inside (S, S) bool."""
    targets = Targets(torch.tensor([class_id]), inside[None])
    if kind.startswith("object"):
        return (log_odds if kind == "object log-odds" else mean_logit)(logits, targets)[0]
    everywhere = torch.ones_like(targets.inside)
    return class_scores(logits, everywhere, kind.removeprefix("tile "))[0, class_id]


class Explainer:
    """Makes every map of a tile."""

    def __init__(self, model: Model) -> None:
        self._network = copy.deepcopy(model.network)
        self._normalised = model.normalisation.on(torch.device("cpu"), torch.float32)
        self._switch = ReluSwitch()
        self._kept: dict[str, Tensor] = {}
        self._network.get_submodule(model.target_layer).register_forward_hook(self._keep_conv)
        self._network.get_submodule("encoder").register_forward_hook(self._keep_stages)
        replace_backward(self._network, self._switch, torch.contiguous_format)

    def _keep_conv(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        self._kept["conv"] = output
        return output.clone()

    def _keep_stages(self, _module: nn.Module, inputs: Any, outputs: Sequence[Tensor]) -> None:
        size = inputs[0].shape[-1]
        self._kept |= {str(size // output.shape[-1]): output for output in outputs}

    def maps(
        self,
        pixels: Tensor,
        inside: NDArray[np.bool_],
        combinations: Sequence[Combination] = COMBINATIONS,
        class_id: int = 1,
    ) -> NDArray[np.float64]:
        """Return the maps (N, n, n) of a tile (3, S, S) uint8, as means of blocks."""
        return block_means(torch.stack(list(self._maps(pixels, inside, combinations, class_id))))

    def _maps(
        self,
        pixels: Tensor,
        inside: NDArray[np.bool_],
        combinations: Sequence[Combination],
        class_id: int,
    ) -> Iterator[Tensor]:
        x = pixels[None].float().requires_grad_()
        logits = self._network(self._normalised(x))
        layers = [self._kept[layer] for layer in LAYERS]
        gradients, guided = {}, {}
        for kind in dict.fromkeys(way.score for way in combinations):
            score = score_of(kind, logits, torch.from_numpy(inside), class_id)
            found = torch.autograd.grad(score, layers, retain_graph=True)
            gradients |= {(kind, name): g for name, g in zip(LAYERS, found, strict=True)}
            if any(way.method == GUIDED for way in combinations):
                with self._switch.on():
                    guided[kind] = torch.autograd.grad(score, x, retain_graph=True)[0][0]
        for way in combinations:
            A, g = self._kept[way.layer].detach()[0], gradients[way.score, way.layer][0]
            if way.method == GUIDED:
                yield guided_gradcam(guided[way.score], CAMS["gradcam"](A, g).map)
            else:
                yield resample(CAMS[way.method](A, g).map, pixels.shape[-1])


def block_means(maps: Tensor) -> NDArray[np.float64]:
    """Average (N, S, S) over blocks of 10 pixels."""
    return np.asarray(F.avg_pool2d(maps[:, None], STRIDE_PX)[:, 0].double().numpy())
