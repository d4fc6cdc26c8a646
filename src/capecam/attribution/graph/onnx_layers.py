"""Convolutions, norms, poolings and upsampling as operators of ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from capecam.attribution.graph.onnx_call import Call, Result, Writer
from capecam.attribution.graph.onnx_graph import OnnxGraph, Operand


def _twice(values: Sequence[int]) -> list[int]:
    """Return paddings at the begin and at the end of the axes."""
    return [*values, *values]


def _convolution(g: OnnxGraph, call: Call) -> Result:
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = call.args
    inputs = [x, weight] if bias is None else [x, weight, bias]
    geometry = {
        "strides": list(stride), "pads": _twice(padding), "dilations": list(dilation),
        "group": groups,
    }  # fmt: skip
    if transposed:
        return g.add("ConvTranspose", *inputs, **geometry, output_padding=list(output_padding))
    return g.add("Conv", *inputs, **geometry)


def _batch_norm(g: OnnxGraph, call: Call) -> Result:
    x, weight, bias, mean, variance = call.args[:5]
    training, eps = call.get(5), call.args[-1]
    if training is True or mean is None:
        raise NotImplementedError("a batch norm in training mode")
    weight = torch.ones_like(mean) if weight is None else weight
    bias = torch.zeros_like(mean) if bias is None else bias
    return (g.add("BatchNormalization", x, weight, bias, mean, variance, epsilon=eps), None, None)


def _max_pool(g: OnnxGraph, call: Call) -> Result:
    x, kernel = call.args[:2]
    options = _pooling(call, 5)
    options["dilations"] = list(call.get(4, [1, 1]))
    if 1 not in call.outputs:
        return (g.add("MaxPool", x, kernel_shape=list(kernel), **options), None)
    y, indices = g.add_all(2, "MaxPool", x, kernel_shape=list(kernel), **options)
    height, width = x.shape[-2:]
    # ONNX counts the pixels of the whole tensor, PyTorch those of a channel.
    return y, g.add("Mod", indices, torch.tensor(height * width))


def _average_pool(g: OnnxGraph, call: Call) -> Result:
    if call.get(6) is not None:
        raise NotImplementedError("an average pooling with a divisor")
    options = _pooling(call, 4)
    counted = int(call.get(5, True))
    return g.add(
        "AveragePool", call.args[0], kernel_shape=list(call.args[1]), count_include_pad=counted,
        **options,
    )  # fmt: skip


def _pooling(call: Call, ceil: int) -> dict[str, Any]:
    """Return the geometry of a pooling; ``ceil`` is the place of that argument."""
    return {
        "strides": list(call.get(2) or call.args[1]),
        "pads": _twice(call.get(3, [0, 0])),
        "ceil_mode": int(call.get(ceil, False)),
    }


def _average_pool_backward(g: OnnxGraph, call: Call) -> Result:
    """Spread each gradient evenly over its window."""
    gradient, x, kernel, stride, padding, ceil, counted, divisor = call.args
    if divisor is not None:
        raise NotImplementedError("the backward of an average pooling with a divisor")
    geometry = list(zip(x.shape[2:], kernel, stride or kernel, padding, strict=True))
    rows, cols = (
        F.avg_pool1d(torch.eye(n)[None], k, s, p, ceil, counted)[0] for n, k, s, p in geometry
    )
    if all(k == s and p == 0 and n % k == 0 for n, k, s, p in geometry):
        even = _resize(g, gradient, x.shape[2:], mode="nearest", **NEAREST)
        return g.add("Mul", even, torch.tensor(1 / (kernel[0] * kernel[1])))
    return _products(g, rows, gradient, cols.mT)


NEAREST = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
"""Options of ``Resize`` for sampling as PyTorch does."""


def _resize(g: OnnxGraph, x: Operand, size: Sequence[int], **options: object) -> Result:
    """Write a resampling of rows and columns."""
    before = [int(n) for n in x.shape[2:]]  # type: ignore[arg-type]
    if before == list(size):
        return x
    if any(m % n for n, m in zip(before, size, strict=True)):
        return g.add("Resize", x, "", "", g.integers(size), axes=[2, 3], **options)
    factors = [float(m // n) for n, m in zip(before, size, strict=True)]
    return g.add("Resize", x, "", torch.tensor([1.0, 1.0, *factors]), **options)


def _check_scales(x: Operand, size: Sequence[int], scales: Sequence[float | None]) -> None:
    """Raise if the factors are others than the sizes say: PyTorch samples by the factors."""
    for n, m, scale in zip(x.shape[2:], size, scales, strict=True):
        if scale is not None and abs(int(n) * scale - m) > 1e-6:  # type: ignore[arg-type]
            raise NotImplementedError(f"an upsampling of {n} to {m} pixels by {scale}")


def _bilinear(g: OnnxGraph, call: Call) -> Result:
    x, size, align_corners = call.args[:3]
    _check_scales(x, size, [call.get(3), call.get(4)])
    mode = "align_corners" if align_corners else "half_pixel"
    return _resize(g, x, size, mode="linear", coordinate_transformation_mode=mode)


def _nearest(g: OnnxGraph, call: Call) -> Result:
    x, size = call.args[:2]
    _check_scales(x, size, [call.get(2), call.get(3)])
    return _resize(g, x, size, mode="nearest", **NEAREST)


def _products(g: OnnxGraph, rows: Tensor, x: Operand, cols: Tensor) -> Result:
    """Write ``rows @ x @ cols``."""
    return g.add("MatMul", rows, g.add("MatMul", x, cols))


def _upsample_backward(mode: str) -> Writer:
    """Return the writer of the adjoint of an upsampling, by the matrices of its weights."""

    def write(g: OnnxGraph, call: Call) -> Result:
        x, size, before = call.args[:3]
        align_corners = call.args[3] if mode == "linear" else None
        rows, cols = (
            _interpolation(n, m, mode, align_corners) for n, m in zip(before[2:], size, strict=True)
        )
        return _products(g, rows, x, cols.mT)

    return write


def _interpolation(n: int, size: int, mode: str, align_corners: bool | None) -> Tensor:
    """Return (n, size) weights: the share of each of n samples in each of ``size``."""
    return F.interpolate(torch.eye(n)[None], size, mode=mode, align_corners=align_corners)[0]


def _adaptive_pool(g: OnnxGraph, call: Call) -> Result:
    x, size = call.args
    rows, cols = (_shares(int(n), m) for n, m in zip(x.shape[-2:], size, strict=True))
    return _products(g, rows, x, cols.mT)


def _adaptive_pool_backward(g: OnnxGraph, call: Call) -> Result:
    gradient, x = call.args
    sizes = zip(x.shape[-2:], gradient.shape[-2:], strict=True)
    rows, cols = (_shares(int(n), int(m)) for n, m in sizes)
    return _products(g, rows.mT, gradient, cols)


def _shares(n: int, windows: int) -> Tensor:
    """Return (windows, n) weights of an adaptive average: 1 / length of a window in it."""
    return F.adaptive_avg_pool1d(torch.eye(n)[None], windows)[0].mT.contiguous()


LAYERS: dict[str, Writer] = {
    "convolution": _convolution, "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "max_pool2d_with_indices": _max_pool, "avg_pool2d": _average_pool,
    "avg_pool2d_backward": _average_pool_backward,
    "_adaptive_avg_pool2d": _adaptive_pool,
    "_adaptive_avg_pool2d_backward": _adaptive_pool_backward,
    "upsample_bilinear2d": _bilinear, "upsample_bilinear2d_backward": _upsample_backward("linear"),
    "upsample_nearest2d": _nearest, "upsample_nearest2d_backward": _upsample_backward("nearest"),
}  # fmt: skip
"""Writers by the name of the operation, without the overload."""
