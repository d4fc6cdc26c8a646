"""Method of the original notebook: a forward and a full backward pass per image, class and method.

Hooks on the target layer record activations and gradients; the guided gradient comes from a second
network whose ReLUs are replaced. Nine maps take twelve forward and twelve backward passes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from capecam.analysis.benchmark.methods import DECISION, Heat, Scores
from capecam.attribution.methods import CAMS, GUIDED, guided_gradcam
from capecam.model.model import Model


class Notebook:
    """The notebook's method.

    Args:
        model: model, which is copied.
        device: device to run on.
        plusplus: formula of Grad-CAM++; the notebook's own is ``gradcampp_notebook``, and
            ``gradcampp`` makes this the reference that maps are compared with.
    """

    name = "notebook's way"
    methods: tuple[str, ...] = ("gradcam", "gradcampp", GUIDED)
    forwards = True

    def __init__(
        self, model: Model, device: torch.device, plusplus: str = "gradcampp_notebook"
    ) -> None:
        self._formulas = {"gradcam": CAMS["gradcam"], "gradcampp": CAMS[plusplus]}
        self._classes = range(1, len(model.classes))
        self._true, self._guided = Scores(model, device), Scores(model, device)
        _replace_relus(self._guided)
        self._seen: dict[str, Tensor] = {}
        layer = self._true.network.get_submodule(model.target_layer)
        layer.register_forward_hook(lambda _m, _i, out: self._seen.update(A=out.detach()))
        layer.register_full_backward_hook(self._see_gradient)

    def __call__(self, pixels: Tensor, methods: tuple[str, ...]) -> Heat:
        """Compute every map on its own."""
        if not methods:
            with torch.no_grad():
                return {DECISION: torch.cat([self._logits(image) for image in pixels])}
        return {
            method: torch.stack(
                [
                    torch.stack([self._map(image, c, method) for c in self._classes])
                    for image in pixels
                ]
            )
            for method in methods
        }

    def _see_gradient(self, _module: nn.Module, _inputs: object, outputs: Any) -> None:
        self._seen["g"] = outputs[0]

    def _logits(self, image: Tensor) -> Tensor:
        logits: Tensor = self._true.network(self._true.normalised(image[None].float()))
        return logits

    def _map(self, image: Tensor, c: int, method: str) -> Tensor:
        if method == GUIDED:
            gradient = _backward(self._guided, image, c)
            return guided_gradcam(gradient, self._map(image, c, "gradcam"))
        _backward(self._true, image, c)
        return self._formulas[method](self._seen["A"][0], self._seen["g"][0]).map


def _backward(scores: Scores, image: Tensor, c: int) -> Tensor:
    """Run a forward and full backward pass of one image; return its (3, S, S) gradient."""
    scores.zero_grad(set_to_none=True)
    x = image[None].float().requires_grad_()  # a new leaf: nothing is left of the class before
    scores(x)[0, c].backward()
    if x.grad is None:
        raise RuntimeError("the score does not depend on the pixels")
    return x.grad[0]


class _GuidedReLU(torch.autograd.Function):
    """Springenberg 2015."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return gradient * (x > 0) * (gradient > 0)


class _Guided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _GuidedReLU.apply(x)
        return y


def _replace_relus(network: nn.Module) -> None:
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(parent, name, _Guided())
