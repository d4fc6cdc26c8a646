"""ATen operations of a forward graph as operators of ONNX.

Each function writes one operation into an :class:`OnnxGraph`, and returns the name of the result,
an operand that is the result, or a tuple of these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from capecam.attribution.graph.onnx_graph import OnnxGraph, Operand, Size, Tiles, Value

Result = Any
"""Name or operand, or a tuple of these."""


@dataclass(frozen=True, slots=True)
class Call:
    """One operation, with its operands in place."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dtype: torch.dtype | None
    """Of the result; None if it is a tuple."""
    shape: tuple[Size, ...]
    """Of the result, or of the first of a tuple."""
    outputs: frozenset[int]
    """Indices of the results of a tuple that are read."""

    def get(self, index: int, default: Any = None) -> Any:
        """Return an argument, or its default where it is left out."""
        return self.args[index] if len(self.args) > index else default


Writer = Callable[[OnnxGraph, Call], Result]


def _operand(g: OnnxGraph, x: Any, dtype: torch.dtype) -> Any:
    """Return a tensor or number in a type."""
    if isinstance(x, (Value, Tensor)):
        return g.cast(x, dtype)
    return torch.tensor(x, dtype=dtype)


def _by_element(operator: str) -> Writer:
    """Return the writer of an operation on operands in the type of the result."""

    def write(g: OnnxGraph, call: Call) -> Result:
        operands = [_operand(g, x, _dtype(call)) for x in call.args]
        if (alpha := call.kwargs.get("alpha", 1)) != 1:
            operands[1] = g.add("Mul", operands[1], _operand(g, alpha, _dtype(call)))
        return g.add(operator, *operands)

    return write


def _dtype(call: Call) -> torch.dtype:
    if call.dtype is None:
        raise NotImplementedError("an operation by element with several results")
    return call.dtype


def _reversed_sub(g: OnnxGraph, call: Call) -> Result:
    a, b = (_operand(g, x, _dtype(call)) for x in call.args)
    return g.add("Sub", b, a)


def _comparison(operator: str, *, negated: bool = False) -> Writer:
    """Return the writer of a comparison, in the type that PyTorch compares in."""

    def write(g: OnnxGraph, call: Call) -> Result:
        dtype = _common(call.args)
        result = g.add(operator, *(_operand(g, x, dtype) for x in call.args))
        return g.add("Not", result) if negated else result

    return write


def _common(operands: Sequence[Any]) -> torch.dtype:
    """Return the type in which PyTorch computes with operands."""
    like = [_like(x) if isinstance(x, (Value, Tensor)) else x for x in operands]
    return torch.result_type(*like)


def _like(x: Operand) -> Tensor:
    return torch.empty([1] * len(x.shape), dtype=x.dtype)


def _logical(operator: str) -> Writer:
    def write(g: OnnxGraph, call: Call) -> Result:
        if call.dtype != torch.bool:
            raise NotImplementedError("a logical operation on integers")
        return g.add(operator, *call.args)

    return write


def _pow(g: OnnxGraph, call: Call) -> Result:
    x, exponent = call.args
    if exponent == 2:
        return g.add("Mul", x, x)
    if exponent == 3:
        return g.add("Mul", g.add("Mul", x, x), x)
    return g.add("Pow", x, _operand(g, exponent, _dtype(call)))


def _where(g: OnnxGraph, call: Call) -> Result:
    condition, *values = call.args
    return g.add("Where", condition, *(_operand(g, x, _dtype(call)) for x in values))


def _masked_fill(g: OnnxGraph, call: Call) -> Result:
    x, mask, value = call.args
    return g.add("Where", mask, _operand(g, value, _dtype(call)), x)


def _clip(low: int, high: int) -> Writer:
    """Return the writer of a clamp whose bounds are these arguments."""

    def write(g: OnnxGraph, call: Call) -> Result:
        bounds = [call.get(low), call.get(high)]
        known = ["" if x is None else _operand(g, x, _dtype(call)) for x in bounds]
        return g.add("Clip", call.args[0], *known)

    return write


def _silu(g: OnnxGraph, call: Call) -> Result:
    return g.add("Mul", call.args[0], g.add("Sigmoid", call.args[0]))


def _gelu(g: OnnxGraph, call: Call) -> Result:
    if call.kwargs.get("approximate", "none") != "none":
        raise NotImplementedError("an approximate GELU")
    x = call.args[0]
    share = g.add("Erf", g.add("Mul", x, torch.tensor(0.5**0.5)))
    half = g.add("Mul", x, torch.tensor(0.5))
    return g.add("Mul", half, g.add("Add", share, torch.tensor(1.0)))


def _elu(g: OnnxGraph, call: Call) -> Result:
    if call.get(2, 1) != 1 or call.get(3, 1) != 1:
        raise NotImplementedError("a scaled ELU")
    return g.add("Elu", call.args[0], alpha=float(call.get(1, 1)))


def _leaky_relu(g: OnnxGraph, call: Call) -> Result:
    return g.add("LeakyRelu", call.args[0], alpha=float(call.get(1, 0.01)))


def _log1p(g: OnnxGraph, call: Call) -> Result:
    return g.add("Log", g.add("Add", call.args[0], torch.tensor(1.0)))


def _rsqrt(g: OnnxGraph, call: Call) -> Result:
    return g.add("Reciprocal", g.add("Sqrt", call.args[0]))


def _reduction(operator: str, *, as_input: bool = True) -> Writer:
    """Return the writer of a reduction over axes; with none given, over all."""

    def write(g: OnnxGraph, call: Call) -> Result:
        x = g.cast(call.args[0], _dtype(call))
        rank = len(call.args[0].shape)
        axes = call.get(1) or range(rank)
        axes = [axis % rank for axis in ([axes] if isinstance(axes, int) else axes)]
        keep = int(call.get(2, False))
        if as_input:
            return g.add(operator, x, g.integers(axes), keepdims=keep)
        return g.add(operator, x, axes=axes, keepdims=keep)

    return write


def _argmax(g: OnnxGraph, call: Call) -> Result:
    return g.add("ArgMax", call.args[0], axis=call.args[1], keepdims=int(call.get(2, False)))


def _softmax(g: OnnxGraph, call: Call) -> Result:
    return g.add("Softmax", call.args[0], axis=call.args[1])


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
            interpolation(n, m, mode, align_corners) for n, m in zip(before[2:], size, strict=True)
        )
        return _products(g, rows, x, cols.mT)

    return write


def interpolation(n: int, size: int, mode: str, align_corners: bool | None) -> Tensor:
    """Return (n, size) weights: the share of each of n samples in each of ``size``."""
    return F.interpolate(torch.eye(n)[None], size, mode=mode, align_corners=align_corners)[0]


def _adaptive_pool(g: OnnxGraph, call: Call) -> Result:
    x, size = call.args
    rows, cols = (shares(int(n), m) for n, m in zip(x.shape[-2:], size, strict=True))
    return _products(g, rows, x, cols.mT)


def _adaptive_pool_backward(g: OnnxGraph, call: Call) -> Result:
    gradient, x = call.args
    sizes = zip(x.shape[-2:], gradient.shape[-2:], strict=True)
    rows, cols = (shares(int(n), int(m)) for n, m in sizes)
    return _products(g, rows.mT, gradient, cols)


def shares(n: int, windows: int) -> Tensor:
    """Return (windows, n) weights of an adaptive average: 1 / length of a window in it."""
    return F.adaptive_avg_pool1d(torch.eye(n)[None], windows)[0].mT.contiguous()


def _pad(g: OnnxGraph, call: Call) -> Result:
    x, pads = call.args[:2]
    rank = len(x.shape)
    starts, ends = [0] * rank, [0] * rank
    for i in range(len(pads) // 2):
        starts[rank - 1 - i], ends[rank - 1 - i] = pads[2 * i : 2 * i + 2]
    return g.add("Pad", x, g.integers([*starts, *ends]), _operand(g, call.get(2, 0), x.dtype))


def _concat(g: OnnxGraph, call: Call) -> Result:
    filled = [x for x in call.args[0] if 0 not in x.shape]  # decoders may skip a map of no channels
    parts = [g.cast(x, _dtype(call)) for x in filled]
    return parts[0] if len(parts) == 1 else g.add("Concat", *parts, axis=call.get(1, 0))


def _stack(g: OnnxGraph, call: Call) -> Result:
    axis = call.get(1, 0) % len(call.shape)
    parts = [g.add("Unsqueeze", x, g.integers([axis])) for x in call.args[0]]
    return g.add("Concat", *parts, axis=axis)


def _reshape(g: OnnxGraph, call: Call) -> Result:
    """Write a reshape; one size that follows the batch is left to be inferred."""
    x, shape = call.args[0], call.shape
    if x.shape == shape:
        return x
    inferred = sum(isinstance(n, Tiles) for n in shape) == 1
    sizes = [-1 if isinstance(n, Tiles) else n for n in shape] if inferred else shape
    return g.add("Reshape", x, g.sizes(sizes))


def _expand(g: OnnxGraph, call: Call) -> Result:
    x, shape = call.args[0], call.shape
    before = (1,) * (len(shape) - len(x.shape)) + tuple(x.shape)
    if before == shape:
        return x if len(x.shape) == len(shape) else g.add("Reshape", x, g.sizes(shape))
    grown = [1 if n == m else n for n, m in zip(shape, before, strict=True)]
    return g.add("Expand", x, g.sizes(grown))


def _permute(g: OnnxGraph, call: Call) -> Result:
    rank = len(call.shape)
    return g.add("Transpose", call.args[0], perm=[axis % rank for axis in call.args[1]])


def _transpose(g: OnnxGraph, call: Call) -> Result:
    axes = list(range(len(call.shape)))
    first, second = call.get(1, -2), call.get(2, -1)
    axes[first], axes[second] = axes[second], axes[first]
    return g.add("Transpose", call.args[0], perm=axes)


def _unsqueeze(g: OnnxGraph, call: Call) -> Result:
    return g.add("Unsqueeze", call.args[0], g.integers([call.args[1] % len(call.shape)]))


def _select(g: OnnxGraph, call: Call) -> Result:
    x, axis, index = call.args
    return g.add("Gather", x, torch.tensor(index), axis=axis)


def _slice(g: OnnxGraph, call: Call) -> Result:
    x, axis, start, end, step = (call.get(i, d) for i, d in enumerate((None, 0, 0, None, 1)))
    if x.shape == call.shape:
        return x
    ends = torch.iinfo(torch.int64).max if end is None else end
    return g.add("Slice", x, *(g.integers([n]) for n in (start or 0, ends, axis, step)))


def _split(g: OnnxGraph, call: Call) -> Result:
    x, sizes = call.args[:2]
    axis = call.get(2, 0)
    return g.add_all(len(sizes), "Split", x, g.integers(sizes), axis=axis)


def _index(g: OnnxGraph, call: Call) -> Result:
    x, indices = call.args
    used = [axis for axis, index in enumerate(indices) if index is not None]
    if len(used) != 1:
        raise NotImplementedError("an index of several axes")
    return g.add("Gather", x, indices[used[0]], axis=used[0])


def _scatter_add(g: OnnxGraph, call: Call) -> Result:
    x, axis, index, source = call.args
    return g.add("ScatterElements", x, index, source, axis=axis, reduction="add")


def _fill(value: float | None) -> Writer:
    """Return the writer of a tensor of one value; None if it is the second argument."""

    def write(g: OnnxGraph, call: Call) -> Result:
        filled = torch.tensor(call.args[1] if value is None else value, dtype=call.dtype)
        return g.add("Expand", filled, g.sizes(call.shape))

    return write


def _same(_g: OnnxGraph, call: Call) -> Result:
    return call.args[0]


def _cast(g: OnnxGraph, call: Call) -> Result:
    return g.cast(call.args[0], _dtype(call))


def _matmul(g: OnnxGraph, call: Call) -> Result:
    return g.add("MatMul", *call.args)


def _addmm(g: OnnxGraph, call: Call) -> Result:
    bias, a, b = call.args
    if call.kwargs:
        raise NotImplementedError("a product with factors")
    return g.add("Add", g.add("MatMul", a, b), bias)


def _item(_g: OnnxGraph, call: Call) -> Result:
    return call.args[0][call.args[1]]


SHAPED = frozenset({
    "view", "_unsafe_view", "reshape", "squeeze", "expand", "empty", "zeros", "zeros_like",
    "new_zeros", "ones", "ones_like", "full", "full_like", "upsample_bilinear2d_backward",
    "upsample_nearest2d_backward",
})  # fmt: skip
"""Operations whose arguments may follow the batch: their writers take sizes from the result."""

WRITERS: dict[str, Writer] = {
    "add": _by_element("Add"), "sub": _by_element("Sub"), "mul": _by_element("Mul"),
    "div": _by_element("Div"), "maximum": _by_element("Max"), "minimum": _by_element("Min"),
    "rsub": _reversed_sub, "neg": _by_element("Neg"), "abs": _by_element("Abs"),
    "exp": _by_element("Exp"), "log": _by_element("Log"), "sqrt": _by_element("Sqrt"),
    "erf": _by_element("Erf"), "tanh": _by_element("Tanh"), "sigmoid": _by_element("Sigmoid"),
    "relu": _by_element("Relu"), "reciprocal": _by_element("Reciprocal"), "rsqrt": _rsqrt,
    "pow": _pow, "silu": _silu, "gelu": _gelu, "elu": _elu,
    "leaky_relu": _leaky_relu, "log1p": _log1p, "clamp": _clip(1, 2), "hardtanh": _clip(1, 2),
    "hardswish": lambda g, call: g.add("HardSwish", call.args[0]),
    "hardsigmoid": lambda g, call: g.add("HardSigmoid", call.args[0], alpha=1 / 6, beta=0.5),
    "eq": _comparison("Equal"), "ne": _comparison("Equal", negated=True),
    "lt": _comparison("Less"), "le": _comparison("LessOrEqual"),
    "gt": _comparison("Greater"), "ge": _comparison("GreaterOrEqual"),
    "bitwise_and": _logical("And"), "bitwise_or": _logical("Or"), "bitwise_not": _logical("Not"),
    "logical_and": _logical("And"), "logical_or": _logical("Or"), "logical_not": _logical("Not"),
    "where": _where, "masked_fill": _masked_fill,
    "sum": _reduction("ReduceSum"), "mean": _reduction("ReduceMean"),
    "amax": _reduction("ReduceMax"), "argmax": _argmax, "_softmax": _softmax,
    "convolution": _convolution, "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "max_pool2d_with_indices": _max_pool, "avg_pool2d": _average_pool,
    "avg_pool2d_backward": _average_pool_backward,
    "_adaptive_avg_pool2d": _adaptive_pool,
    "_adaptive_avg_pool2d_backward": _adaptive_pool_backward,
    "upsample_bilinear2d": _bilinear, "upsample_bilinear2d_backward": _upsample_backward("linear"),
    "upsample_nearest2d": _nearest, "upsample_nearest2d_backward": _upsample_backward("nearest"),
    "constant_pad_nd": _pad, "cat": _concat, "stack": _stack, "split_with_sizes": _split,
    "view": _reshape, "_unsafe_view": _reshape, "reshape": _reshape, "squeeze": _reshape,
    "expand": _expand, "permute": _permute, "transpose": _transpose, "t": _transpose,
    "unsqueeze": _unsqueeze, "select": _select, "slice": _slice, "index": _index,
    "_unsafe_index": _index, "scatter_add": _scatter_add,
    "empty": _fill(0), "zeros": _fill(0), "zeros_like": _fill(0), "new_zeros": _fill(0),
    "ones": _fill(1), "ones_like": _fill(1), "full": _fill(None), "full_like": _fill(None),
    "clone": _same, "alias": _same, "detach": _same, "_to_copy": _cast, "lift_fresh_copy": _same,
    "copy": lambda g, call: _cast(g, Call(call.args[1:], {}, call.dtype, call.shape, call.outputs)),
    "mm": _matmul, "bmm": _matmul, "addmm": _addmm, "getitem": _item,
}  # fmt: skip
"""Writers by the name of the operation, without the overload."""
