"""The formulas of docs/method.md: one function per map, tensors in, tensors out.

Notation, as in the papers: ``A`` (..., K, h, w) activations at the target layer, ``g`` the
gradient of one score per tile with respect to ``A``, same shape. All maps are raw: nothing is
scaled by its own range. Everything is computed in float32 at least.

Sources: Selvaraju et al. 2017 (Grad-CAM), Chattopadhay et al. 2018 (Grad-CAM++), Fu et al. 2020
(XGrad-CAM), Draelos and Carin 2020 (HiResCAM), Jiang et al. 2021 (LayerCAM), Springenberg et al.
2015 (guided backpropagation), Vinogradova et al. 2020 (scores of segmentation networks).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

SINGULAR = 1e-6
"""Grad-CAM++ entries with abs(2 + g sum A) below this get weight 0; and XGrad-CAM channels whose
sum of A is below this share of their sum of abs(A)."""


class Cam(NamedTuple):
    """A raw class activation map."""

    map: Tensor
    """(..., h, w), not negative."""
    singular: Tensor
    """(...) int64; number of entries (Grad-CAM++) or channels (XGrad-CAM) skipped because their
    denominator vanishes."""


def class_scores(logits: Tensor, valid: Tensor, kind: str, *, sigmoid: bool = False) -> Tensor:
    """Compute the score ``S_c`` of each tile and class: (B, C, H, W), (B, H, W) bool -> (B, C).

    ``mean`` sums the logits over all valid pixels, ``predicted`` over those decided for the
    class (the mask is constant: no gradient runs through it); both divide by the tile's size².
    """
    mask = valid[:, None]
    if kind == "predicted":
        mask = mask & predicted(logits, sigmoid=sigmoid)
    elif kind != "mean":
        raise ValueError(f"score must be 'mean' or 'predicted', got {kind!r}")
    return (logits * mask).sum(dim=(2, 3)) / logits[0, 0].numel()


def predicted(logits: Tensor, *, sigmoid: bool = False) -> Tensor:
    """Mark the pixels decided for each class: logits (B, C, H, W) -> (B, C, H, W) bool."""
    classes = torch.arange(logits.shape[1], device=logits.device)
    return decide(logits.detach(), sigmoid=sigmoid).unsqueeze(1) == classes[:, None, None]


def decide(scores: Tensor, *, sigmoid: bool = False) -> Tensor:
    """Decide the class of every pixel.

    Args:
        scores: (..., C, H, W) logits or probabilities.
        sigmoid: C is 2, and class 1 wins from p = .5 on; otherwise ties go to the lower index.

    Returns:
        (..., H, W) int64.
    """
    if sigmoid:
        return (scores[..., 1, :, :] >= scores[..., 0, :, :]).long()
    return scores.argmax(dim=-3)


def gradcam(A: Tensor, g: Tensor) -> Cam:
    """Compute Grad-CAM, ``relu(sum_k mean_ij(g_k) * A_k)``: Selvaraju 2017, eq. 1 and 2."""
    A, g = precise(A), precise(g)
    return _cam(g.mean(dim=(-2, -1)), A)


def gradcampp(A: Tensor, g: Tensor) -> Cam:
    """Compute Grad-CAM++: Chattopadhay 2018, eq. 19, without the factor exp(S).

    ``alpha = g² / (2 g² + g³ sum_ab A_ab) = 1 / (2 + g sum_ab A_ab)``; only positive gradients
    carry weight. There is no absolute epsilon under the ratio: with a mean score g² is about
    5e-11 and any epsilon would *be* the denominator.
    """
    A, g = precise(A), precise(g)
    denominator = 2 + g * A.sum(dim=(-2, -1), keepdim=True)
    singular = (denominator.abs() < SINGULAR) & (g > 0)
    alpha = torch.where(singular, 0.0, 1 / torch.where(singular, 1.0, denominator))
    weights = (alpha * g.relu()).sum(dim=(-2, -1))
    return _cam(weights, A, singular.sum(dim=(-3, -2, -1)))


def gradcampp_notebook(A: Tensor, g: Tensor) -> Cam:
    """Compute Grad-CAM++ as the original notebook did, to reproduce earlier figures.

    The denominator is ``2 g² + sum(A g³) + 1e-8``; with a mean score the 1e-8 dominates it.
    """
    A, g = precise(A), precise(g)
    denominator = 2 * g**2 + (A * g**3).sum(dim=(-2, -1), keepdim=True) + 1e-8
    return _cam((g**2 / denominator * g.relu()).sum(dim=(-2, -1)), A)


def hirescam(A: Tensor, g: Tensor) -> Cam:
    """Compute HiResCAM, ``relu(sum_k g_k * A_k)``, no averaging: Draelos and Carin 2020, eq. 3."""
    return _unpooled(precise(A) * precise(g))


def layercam(A: Tensor, g: Tensor) -> Cam:
    """Compute LayerCAM, ``relu(sum_k relu(g_k) * A_k)``: Jiang 2021, eq. 5 and 6."""
    return _unpooled(precise(A) * precise(g).relu())


def xgradcam(A: Tensor, g: Tensor) -> Cam:
    """Compute XGrad-CAM, ``w_k = sum_ij g_k A_k / sum_ij A_k``, then as Grad-CAM: Fu 2020, eq. 8.

    A channel whose activations cancel has no such mean; it gets weight 0 and is counted.
    """
    A, g = precise(A), precise(g)
    total, size = A.sum(dim=(-2, -1)), A.abs().sum(dim=(-2, -1))
    # A dead channel (all zeros) adds nothing whatever its weight, and is not counted.
    singular = (total.abs() < SINGULAR * size) | (total == 0)
    weights = (g * A).sum(dim=(-2, -1)) / torch.where(singular, 1.0, total)
    skipped = (singular & (size > 0)).expand(weights.shape)
    return _cam(weights.masked_fill(singular, 0.0), A, skipped.sum(dim=-1))


CAMS: dict[str, Callable[[Tensor, Tensor], Cam]] = {
    "gradcam": gradcam,
    "gradcampp": gradcampp,
    "gradcampp_notebook": gradcampp_notebook,
    "hirescam": hirescam,
    "layercam": layercam,
    "xgradcam": xgradcam,
}
"""Class activation maps by name; each needs only A and the true gradient."""

GUIDED = "guided_gradcam"
"""Name of the map at full resolution that needs the guided gradient of every class."""

SHARED = "guided_gradcam_shared"
"""Name of its variant with one guided gradient for all classes, that of the sum of their scores:
cheaper, and as good as guided gradients are class-blind (docs/performance.md)."""


def guided_gradcam(guided: Tensor, cam: Tensor) -> Tensor:
    """Multiply guided gradient and Grad-CAM: (..., 3, H, W), (..., h, w) -> (..., H, W).

    The CAM is resampled to the tile; the result is the maximum over the channels of the product's
    absolute value (Selvaraju 2017, section 3.3).
    """
    at_pixels = resample(cam, guided.shape[-1])
    return (precise(guided).abs() * at_pixels.unsqueeze(-3)).amax(dim=-3)


def resample(cam: Tensor, size: int) -> Tensor:
    """Resample (..., h, w) to (..., size, size), bilinearly with half-pixel centres."""
    if cam.shape[-2:] == (size, size):
        return cam
    flat = cam.reshape(-1, 1, *cam.shape[-2:])
    sized = F.interpolate(flat, size=(size, size), mode="bilinear", align_corners=False)
    return sized.reshape(*cam.shape[:-2], size, size)


def _cam(weights: Tensor, A: Tensor, singular: Tensor | None = None) -> Cam:
    """Compute relu of the weighted sum of activations over channels: (..., K), (..., K, h, w)."""
    return _unpooled(weights[..., None, None] * A, singular)


def _unpooled(weighted: Tensor, singular: Tensor | None = None) -> Cam:
    """Compute relu of the sum over channels: (..., K, h, w)."""
    cam = weighted.sum(dim=-3).relu()
    return Cam(
        cam, cam.new_zeros(cam.shape[:-2], dtype=torch.int64) if singular is None else singular
    )


def precise(x: Tensor) -> Tensor:
    """Convert 16 bits to float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


class ReluSwitch:
    """Switch between the true and the guided gradient of ReLUs (Springenberg 2015)."""

    def __init__(self) -> None:
        self.guided = False

    @contextmanager
    def on(self) -> Iterator[None]:
        """Enable guided backpropagation inside the context."""
        self.guided = True
        try:
            yield
        finally:
            self.guided = False


class SwitchedReLU(torch.autograd.Function):
    """ReLU with a switch, so that true and guided gradients come from the same graph.

    The true rule passes a gradient where the input was positive; the guided rule passes it where
    it is positive as well.
    """

    @staticmethod
    def forward(
        ctx: Any, switch: ReluSwitch, memory_format: torch.memory_format, inplace: bool, x: Tensor
    ) -> Tensor:
        """Run ``nn.ReLU(inplace)``; ``memory_format`` is that of the gradients."""
        y = F.relu(x, inplace=inplace)
        if inplace:
            ctx.mark_dirty(x)
        if ctx.needs_input_grad[3]:
            ctx.switch = switch
            ctx.save_for_backward(y.contiguous(memory_format=memory_format) if y.ndim == 4 else y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Pass the gradient by the rule that is switched on."""
        (y,) = ctx.saved_tensors
        # A bool mask takes a quarter of the memory, but torch.where is 8 times slower on a CPU.
        passed = torch.ops.aten.threshold_backward(gradient, y, 0)
        return None, None, None, passed.relu_() if ctx.switch.guided else passed
