"""ATen operations of a forward graph as operators of ONNX.

Each function writes one operation into an :class:`OnnxGraph`, and returns the name of the result,
an operand that is the result, or a tuple of these. Here are those that move elements, and the table
of all.
"""

from __future__ import annotations

import torch

from capecam.attribution.graph.onnx_call import Call, Result, Writer, dtype_of, operand
from capecam.attribution.graph.onnx_elements import ELEMENTS
from capecam.attribution.graph.onnx_graph import OnnxGraph, Tiles
from capecam.attribution.graph.onnx_layers import LAYERS


def _pad(g: OnnxGraph, call: Call) -> Result:
    x, pads = call.args[:2]
    rank = len(x.shape)
    starts, ends = [0] * rank, [0] * rank
    for i in range(len(pads) // 2):
        starts[rank - 1 - i], ends[rank - 1 - i] = pads[2 * i : 2 * i + 2]
    return g.add("Pad", x, g.integers([*starts, *ends]), operand(g, call.get(2, 0), x.dtype))


def _concat(g: OnnxGraph, call: Call) -> Result:
    filled = [x for x in call.args[0] if 0 not in x.shape]  # decoders may skip a map of no channels
    parts = [g.cast(x, dtype_of(call)) for x in filled]
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
    return g.cast(call.args[0], dtype_of(call))


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
    **ELEMENTS,
    **LAYERS,
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
