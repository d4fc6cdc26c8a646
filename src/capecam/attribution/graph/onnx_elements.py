"""Operations by element, and reductions, as operators of ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from capecam.attribution.graph.onnx_call import Call, Result, Writer, dtype_of, operand
from capecam.attribution.graph.onnx_graph import OnnxGraph, Operand, Value


def _by_element(operator: str) -> Writer:
    """Return the writer of an operation on operands in the type of the result."""

    def write(g: OnnxGraph, call: Call) -> Result:
        operands = [operand(g, x, dtype_of(call)) for x in call.args]
        if (alpha := call.kwargs.get("alpha", 1)) != 1:
            operands[1] = g.add("Mul", operands[1], operand(g, alpha, dtype_of(call)))
        return g.add(operator, *operands)

    return write


def _reversed_sub(g: OnnxGraph, call: Call) -> Result:
    a, b = (operand(g, x, dtype_of(call)) for x in call.args)
    return g.add("Sub", b, a)


def _comparison(operator: str, *, negated: bool = False) -> Writer:
    """Return the writer of a comparison, in the type that PyTorch compares in."""

    def write(g: OnnxGraph, call: Call) -> Result:
        dtype = _common(call.args)
        result = g.add(operator, *(operand(g, x, dtype) for x in call.args))
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
    return g.add("Pow", x, operand(g, exponent, dtype_of(call)))


def _where(g: OnnxGraph, call: Call) -> Result:
    condition, *values = call.args
    return g.add("Where", condition, *(operand(g, x, dtype_of(call)) for x in values))


def _masked_fill(g: OnnxGraph, call: Call) -> Result:
    x, mask, value = call.args
    return g.add("Where", mask, operand(g, value, dtype_of(call)), x)


def _clip(low: int, high: int) -> Writer:
    """Return the writer of a clamp whose bounds are these arguments."""

    def write(g: OnnxGraph, call: Call) -> Result:
        bounds = [call.get(low), call.get(high)]
        known = ["" if x is None else operand(g, x, dtype_of(call)) for x in bounds]
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
        x = g.cast(call.args[0], dtype_of(call))
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


ELEMENTS: dict[str, Writer] = {
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
}  # fmt: skip
"""Writers by the name of the operation, without the overload."""
