"""One ATen operation that is to be written into an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from capecam.attribution.graph.onnx_graph import OnnxGraph, Size, Value

Result = Any
"""Name or operand, or a tuple of these."""


@dataclass(frozen=True, slots=True)
class Call:
    """One operation, with its operands in place."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dtype: torch.dtype | None
    """Type of the result; None if it is a tuple."""
    shape: tuple[Size, ...]
    """Shape of the result, or of the first of a tuple."""
    outputs: frozenset[int]
    """Indices of the results of a tuple that are read."""

    def get(self, index: int, default: Any = None) -> Any:
        """Return an argument, or its default where it is left out."""
        return self.args[index] if len(self.args) > index else default


Writer = Callable[[OnnxGraph, Call], Result]


def operand(g: OnnxGraph, x: Any, dtype: torch.dtype) -> Any:
    """Return a tensor or number in a type."""
    if isinstance(x, (Value, Tensor)):
        return g.cast(x, dtype)
    return torch.tensor(x, dtype=dtype)


def dtype_of(call: Call) -> torch.dtype:
    """Return the type of the elements of an operation's result."""
    if call.dtype is None:
        raise NotImplementedError("an operation by element with several results")
    return call.dtype
