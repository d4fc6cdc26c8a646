"""Reference implementations: the formulas of the papers as loops, and the original notebook.

Nothing here is shared with ``capecam``. The formulas are Python loops over k, i, j on numpy arrays
in float64; the notebook runs the network once per image and class, reads the target layer
with a full backward hook, and gets its guided gradient from a copy of the network whose ReLUs are
replaced by a custom ``autograd.Function`` (capecam hooks tensors instead).

Papers: Selvaraju 2017 (Grad-CAM), Chattopadhay 2018 (Grad-CAM++), Draelos 2020 (HiResCAM), Jiang
2021 (LayerCAM), Fu 2020 (XGrad-CAM), Springenberg 2015 (guided backpropagation), Vinogradova 2020
(Seg-Grad-CAM).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]

SINGULAR = 1e-6
"""Entries with |2 + g sum A| below this have weight 0 and are counted."""


def gradcam_weights(g: Array) -> Array:
    """Selvaraju eq. 1: alpha_k = 1/Z sum_i sum_j dy/dA_ij^k. (K, h, w) -> (K,)."""
    weights = []
    for g_k in g.tolist():
        total = 0.0
        for row in g_k:
            for value in row:
                total += value
        weights.append(total / (len(g_k) * len(g_k[0])))
    return np.array(weights)


def gradcampp_weights(A: Array, g: Array) -> tuple[Array, int]:
    """Chattopadhay eq. 19 for alpha, then w_k = sum_ij alpha relu(g). (K,), singular entries.

    The order of eq. 19 is kept: g² / (2 g² + sum_ab A_ab g³).
    """
    weights, singular = [], 0
    for A_k, g_k in zip(A.tolist(), g.tolist(), strict=True):
        sum_A = math.fsum(value for row in A_k for value in row)
        w = 0.0
        for row in g_k:
            for value in row:
                if value <= 0:
                    continue
                if abs(2 + value * sum_A) < SINGULAR:
                    singular += 1
                    continue
                w += value**2 / (2 * value**2 + sum_A * value**3) * value
        weights.append(w)
    return np.array(weights), singular


def gradcampp_notebook_weights(A: Array, g: Array) -> Array:
    """The original notebook: the sum runs over A g³ together, and 1e-8 stands below."""
    weights = []
    for A_k, g_k in zip(A.tolist(), g.tolist(), strict=True):
        sum_Ag3 = 0.0
        for A_row, g_row in zip(A_k, g_k, strict=True):
            for a, value in zip(A_row, g_row, strict=True):
                sum_Ag3 += a * value**3
        w = 0.0
        for row in g_k:
            for value in row:
                w += value**2 / (2 * value**2 + sum_Ag3 + 1e-8) * max(value, 0.0)
        weights.append(w)
    return np.array(weights)


def weighted_sum(weights: Array, A: Array) -> Array:
    """sum_k w_k A_ij^k, what stands inside the relu of Selvaraju eq. 2. (K,), (K, h, w) -> (h, w).

    It may be negative.
    """
    K, h, w = A.shape
    total = [[0.0] * w for _ in range(h)]
    activations, factors = A.tolist(), weights.tolist()
    for k in range(K):
        for i in range(h):
            for j in range(w):
                total[i][j] += factors[k] * activations[k][i][j]
    return np.array(total)


def positive(cam: Array) -> Array:
    """The relu of Selvaraju eq. 2."""
    return np.array([[max(value, 0.0) for value in row] for row in cam.tolist()])


def gradcam(A: Array, g: Array) -> Array:
    """Selvaraju eq. 1 and 2."""
    return positive(weighted_sum(gradcam_weights(g), A))


def gradcampp(A: Array, g: Array) -> Array:
    """Chattopadhay eq. 19, without the factor exp(S)."""
    return positive(weighted_sum(gradcampp_weights(A, g)[0], A))


def gradcampp_notebook(A: Array, g: Array) -> Array:
    """Grad-CAM++ of the original notebook."""
    return positive(weighted_sum(gradcampp_notebook_weights(A, g), A))


def hirescam(A: Array, g: Array) -> Array:
    """Draelos and Carin 2020, eq. 3: the gradient is not averaged."""
    return positive(weighted_sum(np.ones(len(A)), A * g))


def layercam(A: Array, g: Array) -> Array:
    """Jiang 2021, eq. 5 and 6: the positive part of the gradient, place by place."""
    return positive(weighted_sum(np.ones(len(A)), A * np.array([positive(g_k) for g_k in g])))


def xgradcam_weights(A: Array, g: Array) -> tuple[Array, int]:
    """Fu 2020, eq. 8: w_k = sum_ij A_ij g_ij / sum_ab A_ab. (K,), channels that cancel."""
    weights, singular = [], 0
    for A_k, g_k in zip(A.tolist(), g.tolist(), strict=True):
        total = math.fsum(value for row in A_k for value in row)
        size = math.fsum(abs(value) for row in A_k for value in row)
        if abs(total) < SINGULAR * size or total == 0:
            singular += size > 0
            weights.append(0.0)
            continue
        w = 0.0
        for A_row, g_row in zip(A_k, g_k, strict=True):
            for a, value in zip(A_row, g_row, strict=True):
                w += a / total * value
        weights.append(w)
    return np.array(weights), singular


def xgradcam(A: Array, g: Array) -> Array:
    """Fu 2020, eq. 8 inside Selvaraju eq. 2."""
    return positive(weighted_sum(xgradcam_weights(A, g)[0], A))


CAMS: dict[str, Callable[[Array, Array], Array]] = {
    "gradcam": gradcam,
    "gradcampp": gradcampp,
    "gradcampp_notebook": gradcampp_notebook,
    "hirescam": hirescam,
    "layercam": layercam,
    "xgradcam": xgradcam,
}


def guided_gradcam(guided: Array, cam: Array) -> Array:
    """Selvaraju section 3.3: guided gradient x Grad-CAM at the tile's size; then max |.|.

    (3, H, W), (h, w) -> (H, W).
    """
    channels, H, W = guided.shape
    at_pixels = bilinear(cam, H, W).tolist()
    gradient = guided.tolist()
    out = [[0.0] * W for _ in range(H)]
    for y in range(H):
        for x in range(W):
            for c in range(channels):
                out[y][x] = max(out[y][x], abs(gradient[c][y][x] * at_pixels[y][x]))
    return np.array(out)


def bilinear(cam: Array, H: int, W: int) -> Array:
    """Resample with half-pixel centres: output y sits at (y + 1/2) h / H - 1/2 of the input."""
    h, w = cam.shape
    value = cam.tolist()
    out = [[0.0] * W for _ in range(H)]
    for y in range(H):
        v = min(max((y + 0.5) * h / H - 0.5, 0.0), h - 1.0)
        i = min(int(v), h - 2) if h > 1 else 0
        below = min(i + 1, h - 1)
        for x in range(W):
            u = min(max((x + 0.5) * w / W - 0.5, 0.0), w - 1.0)
            j = min(int(u), w - 2) if w > 1 else 0
            right = min(j + 1, w - 1)
            top = value[i][j] * (1 - (u - j)) + value[i][right] * (u - j)
            bottom = value[below][j] * (1 - (u - j)) + value[below][right] * (u - j)
            out[y][x] = top * (1 - (v - i)) + bottom * (v - i)
    return np.array(out)


def score_pixels(logits: Array, valid: NDArray[np.bool_], c: int, kind: str) -> NDArray[np.bool_]:
    """The pixels that the score of class c sums over: M of Vinogradova 2020. (H, W).

    ``mean``: the valid ones. ``predicted``: those of them where c is the argmax (ties: lower).
    """
    C, H, W = logits.shape
    mask = np.zeros((H, W), bool)
    values = logits.tolist()
    for y in range(H):
        for x in range(W):
            first = all(values[c][y][x] > values[d][y][x] for d in range(c))
            best = first and all(values[c][y][x] >= values[d][y][x] for d in range(c + 1, C))
            mask[y, x] = valid[y, x] and (kind == "mean" or best)
    return mask


def class_score(logits: Array, valid: NDArray[np.bool_], c: int, kind: str) -> float:
    """Sum of the class's logits over its pixels, divided by the tile's size². (C, H, W)."""
    mask = score_pixels(logits, valid, c, kind)
    _, H, W = logits.shape
    total = 0.0
    for y in range(H):
        for x in range(W):
            if mask[y, x]:
                total += float(logits[c, y, x])
    return total / (H * W)


class Noted(NamedTuple):
    """What the notebook's way has for one image and one class, in float64."""

    score: float
    activations: Array
    """(K, h, w)."""
    gradient: Array
    """(K, h, w), of the score with respect to the activations."""
    guided: Array
    """(3, H, W), guided gradient with respect to the unnormalised pixels."""


class Normalise(NamedTuple):
    """(pixels * input_max / 255 - mean) / std."""

    input_max: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, pixels: Tensor) -> Tensor:
        mean = pixels.new_tensor(self.mean).view(3, 1, 1)
        std = pixels.new_tensor(self.std).view(3, 1, 1)
        return (pixels * (self.input_max / 255) - mean) / std


def notebook_way(
    network: nn.Module,
    pixels: Tensor,
    valid: Tensor,
    *,
    class_index: int,
    layer: str,
    normalise: Normalise,
    kind: str = "mean",
) -> Noted:
    """One image, one class: forward, full backward; and the same again, guided.

    Args:
        network: left as it is; copies are run.
        pixels: (3, H, W) float, 0..255, 0 where invalid.
        valid: (H, W) bool.
        class_index: output channel; 0 is the background.
        layer: path of the target module.
        normalise: from pixels to the network's input.
        kind: of score.
    """
    how = {"layer": layer, "normalise": normalise, "kind": kind}
    score, seen, _ = _backward(network, nn.ReLU, pixels, valid, [class_index], **how)
    _, _, guided = _backward(network, GuidedReLU, pixels, valid, [class_index], **how)
    return Noted(score, seen["activations"], seen["gradient"], guided)


def shared_guided(
    network: nn.Module, pixels: Tensor, valid: Tensor, classes: list[int], **how: Any
) -> Array:
    """The guided gradient of the sum of the classes' scores, (3, H, W); else as above."""
    return _backward(network, GuidedReLU, pixels, valid, classes, **how)[2]


def _backward(
    network: nn.Module,
    relu: type[nn.Module],
    pixels: Tensor,
    valid: Tensor,
    classes: list[int],
    *,
    layer: str,
    normalise: Normalise,
    kind: str,
) -> tuple[float, dict[str, Array], Array]:
    """One image through a copy of the network with other ReLUs, and all the way back."""
    copied = with_relu(network, relu)
    seen: dict[str, Array] = {}
    target = copied.get_submodule(layer)
    target.register_forward_hook(lambda _m, _i, out: seen.update(activations=_array(out[0])))
    target.register_full_backward_hook(lambda _m, _i, out: seen.update(gradient=_array(out[0][0])))
    x = pixels.clone()[None].requires_grad_()  # a new leaf: nothing is left of the class before
    logits = copied(normalise(x))
    score, empty = logits.new_zeros(()), True
    for c in classes:
        mask = torch.from_numpy(score_pixels(_array(logits[0]), valid.numpy(), c, kind))
        score = score + logits[0, c][mask].sum() / mask.numel()
        empty = empty and not mask.any()
    if not empty:
        score.backward()
    else:
        seen["gradient"] = np.zeros_like(seen["activations"])
        x.grad = torch.zeros_like(x)
    return float(score.detach()), seen, _array(x.grad[0])


def _array(x: Tensor) -> Array:
    return x.detach().double().numpy()


def with_relu(network: nn.Module, relu: type[nn.Module]) -> nn.Module:
    """A copy of the network, each nn.ReLU replaced by another module; none works in place."""
    copied = copy.deepcopy(network)
    replaced: dict[nn.Module, nn.Module] = {}
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.ReLU:
                setattr(parent, name, replaced.setdefault(child, relu()))
    return copied


class _Guided(torch.autograd.Function):
    """Springenberg 2015: the gradient passes where input and gradient are both positive."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return torch.where(x > 0, x, torch.zeros_like(x))

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        return torch.where((x > 0) & (grad > 0), grad, torch.zeros_like(grad))


class GuidedReLU(nn.Module):
    """A ReLU with the guided rule."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Guided.apply(x)
        return out
