"""Backward operations written as forward operations, which ONNX has and any runtime can run.

Each function has the signature of the ATen operation that it stands for; for the others PyTorch's
own decompositions are used. Gradients are those of the input alone: weights are frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

aten = torch.ops.aten

Pair = Sequence[int]


def convolution_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    _bias_sizes: object,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    transposed: bool,
    _output_padding: Pair,
    groups: int,
    _mask: Sequence[bool],
) -> tuple[Tensor, None, None]:
    """Compute the gradient of a convolution's input.

    Without a stride it is a convolution with the turned kernel, for which runtimes have faster code
    than for a transposed convolution.
    """
    geometry = (list(stride), list(padding), list(dilation))
    if transposed:
        result = aten.convolution(gradient, weight, None, *geometry, False, [0, 0], groups)
        return result, None, None
    reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    if max(stride) == 1:
        pads = [r - p for r, p in zip(reach, padding, strict=True)]
        cropped = _pad(gradient, [min(p, 0) for p in pads for _ in range(2)])
        kept = [max(p, 0) for p in pads]
        turned = turn(weight, groups)
        result = aten.convolution(
            cropped, turned, None, [1, 1], kept, geometry[2], False, [0, 0], groups
        )
        return result, None, None
    made = [
        (n - 1) * s - 2 * p + r + 1
        for n, s, p, r in zip(gradient.shape[2:], stride, padding, reach, strict=True)
    ]
    missing = [n - m for n, m in zip(x.shape[2:], made, strict=True)]
    return aten.convolution(gradient, weight, None, *geometry, True, missing, groups), None, None


def turn(weight: Tensor, groups: int) -> Tensor:
    """Turn a kernel by 180°, and exchange its channels: (O, I / groups, h, w) -> (I, ...)."""
    outputs, inputs, *kernel = weight.shape
    parts = weight.reshape(groups, outputs // groups, inputs, *kernel).transpose(1, 2)
    return parts.reshape(groups * inputs, outputs // groups, *kernel).flip(-2, -1)


def _pad(x: Tensor, pads: Sequence[int]) -> Tensor:
    """Pad by zeros as (top, bottom, left, right); a negative number crops."""
    top, bottom, left, right = pads
    return F.pad(x, (left, right, top, bottom)) if any(pads) else x


def threshold_backward(gradient: Tensor, y: Tensor, threshold: float) -> Tensor:
    """Pass the gradient where the output of a ReLU is positive.

    Multiplied by a mask, which all classes share: by element that is faster than a selection.
    """
    return gradient * (y > threshold).to(gradient.dtype)


def native_batch_norm_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None,
    _mean: Tensor | None,
    variance: Tensor | None,
    _saved_mean: Tensor | None,
    _saved_inverse: Tensor | None,
    training: bool,
    eps: float,
    _mask: Sequence[bool],
) -> tuple[Tensor, None, None]:
    """Multiply the gradient by the factor of a batch norm in eval mode."""
    if training or variance is None:
        raise NotImplementedError("the backward of a batch norm in training mode")
    factor = (variance + eps).rsqrt()
    factor = factor if weight is None else factor * weight
    return gradient * factor.reshape(-1, *[1] * (x.ndim - 2)), None, None


def _normalised(rows: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows (..., n) of mean 0 and variance 1, their means and 1 / deviations (..., 1)."""
    mean = rows.mean(-1, keepdim=True)
    centred = rows - mean
    inverse = ((centred * centred).mean(-1, keepdim=True) + eps).rsqrt()
    return centred * inverse, mean, inverse


def _normalised_backward(gradient: Tensor, rows: Tensor, inverse: Tensor) -> Tensor:
    """Compute the gradient of rows from that of the normalised ones."""
    along = (gradient * rows).mean(-1, keepdim=True)
    return (gradient - gradient.mean(-1, keepdim=True) - rows * along) * inverse


def _by_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (x.ndim - 2))


def native_group_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    n: int,
    _channels: int,
    _pixels: int,
    groups: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a group norm."""
    rows, mean, inverse = _normalised(x.reshape(n, groups, -1), eps)
    y = rows.reshape(x.shape)
    y = y if weight is None else y * _by_channel(weight, x)
    y = y if bias is None else y + _by_channel(bias, x)
    return y, mean[..., 0], inverse[..., 0]


def native_group_norm_backward(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor | None,
    n: int,
    _channels: int,
    _pixels: int,
    groups: int,
    _mask: Sequence[bool],
) -> tuple[Tensor, None, None]:
    """Compute the gradient of a group norm's input."""
    gradient = gradient if weight is None else gradient * _by_channel(weight, x)
    rows = (x.reshape(n, groups, -1) - mean[..., None]) * inverse[..., None]
    result = _normalised_backward(gradient.reshape(n, groups, -1), rows, inverse[..., None])
    return result.reshape(x.shape), None, None


def native_layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a layer norm over the last axis."""
    if len(shape) != 1:
        raise NotImplementedError("a layer norm over several axes")
    y, mean, inverse = _normalised(x, eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias, mean, inverse


def native_layer_norm_backward(
    gradient: Tensor,
    x: Tensor,
    _shape: Sequence[int],
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor | None,
    _bias: Tensor | None,
    _mask: Sequence[bool],
) -> tuple[Tensor, None, None]:
    """Compute the gradient of a layer norm's input."""
    gradient = gradient if weight is None else gradient * weight
    return _normalised_backward(gradient, (x - mean) * inverse, inverse), None, None


def max_pool2d_with_indices_backward(
    gradient: Tensor,
    x: Tensor,
    _kernel: Pair,
    _stride: Pair,
    _padding: Pair,
    _dilation: Pair,
    _ceil: bool,
    indices: Tensor,
) -> Tensor:
    """Add each gradient to the pixel that was the largest of its window."""
    flat = torch.zeros_like(x).flatten(2)
    return flat.scatter_add(2, indices.flatten(2), gradient.flatten(2)).reshape(x.shape)


def select_backward(gradient: Tensor, sizes: Sequence[int], axis: int, index: int) -> Tensor:
    """Compute the gradient of a tensor of which one element of an axis was selected."""
    start = index % sizes[axis]
    return slice_backward(gradient.unsqueeze(axis), sizes, axis, start, start + 1, 1)


def slice_backward(
    gradient: Tensor, sizes: Sequence[int], axis: int, start: int, end: int, step: int
) -> Tensor:
    """Compute the gradient of a tensor of which a part of an axis was selected."""
    if step != 1:
        raise NotImplementedError("the backward of a slice with a step")
    n, axis = sizes[axis], axis % gradient.ndim
    start, end = (min(i + n if i < 0 else i, n) for i in (start, end))
    before, after = start, n - end
    pads = [0, 0] * (gradient.ndim - 1 - axis) + [before, after]
    return F.pad(gradient, pads) if before or after else gradient


def view(x: Tensor, size: Sequence[int]) -> Tensor:
    """Reshape a tensor, whatever its layout: that of other operations than were captured."""
    result: Tensor = aten._unsafe_view(x.contiguous(), size)
    return result


def as_strided(x: Tensor, size: Sequence[int], *strides: Any) -> Tensor:
    """Lay out a tensor in another way, which ATen does to averages over a tile."""
    _check_layout(x, size, *strides)
    return x.reshape(size).clone()


def as_strided_scatter(x: Tensor, source: Tensor, size: Sequence[int], *strides: Any) -> Tensor:
    """Write all elements of a tensor."""
    _check_layout(x, size, *strides)
    return source.reshape(x.shape).clone()


def _check_layout(x: Tensor, size: Sequence[int], stride: Sequence[int], offset: int = 0) -> None:
    """Raise if strides do not go through all elements, in their order."""
    rows = torch.empty(list(size), device="meta").stride()
    in_order = all(n == 1 or s == r for n, s, r in zip(size, stride, rows, strict=True))
    is_whole = prod(size) == x.numel() and not offset and (x.ndim == 1 or list(size) == [*x.shape])
    if not (in_order and is_whole):
        raise NotImplementedError(f"a view of {tuple(x.shape)} by strides {tuple(stride)}")


BY_HAND: dict[Any, Callable[..., Any]] = {
    aten.convolution_backward.default: convolution_backward,
    aten.threshold_backward.default: threshold_backward,
    aten.native_batch_norm_backward.default: native_batch_norm_backward,
    aten.native_group_norm.default: native_group_norm,
    aten.native_group_norm_backward.default: native_group_norm_backward,
    aten.native_layer_norm.default: native_layer_norm,
    aten.native_layer_norm_backward.default: native_layer_norm_backward,
    aten.max_pool2d_with_indices_backward.default: max_pool2d_with_indices_backward,
    aten.select_backward.default: select_backward,
    aten.slice_backward.default: slice_backward,
    aten.view.default: view,
    aten.as_strided.default: as_strided,
    aten.as_strided_scatter.default: as_strided_scatter,
}
"""Operations by hand: PyTorch's own form has scatters and indices, or ONNX no good one."""

KEPT = (
    "_softmax", "addmm", "upsample_bilinear2d", "upsample_nearest2d", "native_batch_norm", "stack",
    "_unsafe_view", "masked_fill", "silu", "hardswish", "hardsigmoid", "hardtanh", "ones_like",
    "new_zeros", "zeros", "ones", "new_full", "zeros_like", "arange", "amax", "avg_pool2d",
    "max_pool2d_with_indices", "reciprocal", "rsqrt",
    "upsample_bilinear2d_backward", "upsample_nearest2d_backward", "_adaptive_avg_pool2d",
    "_adaptive_avg_pool2d_backward", "avg_pool2d_backward", "split_with_sizes",
)  # fmt: skip
"""Operations of PyTorch's table that ``onnx_operators`` writes as they are."""


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return the functions with which operations are replaced, by operation."""
    table = {
        operation: function
        for operation, function in dict(torch._decomp.core_aten_decompositions()).items()
        if getattr(operation, "_schema", None) is None
        or operation._schema.name.removeprefix("aten::") not in KEPT
    }
    return {**table, **BY_HAND}
