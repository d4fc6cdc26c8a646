"""An ONNX graph that is being written: values, constants, and each operation once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

OPSET = 18
"""Version of the operators: the first with padding, reduction and resampling of chosen axes. It is
read by onnxruntime from 1.14 (2023) on, which is older than what QGIS plugins install."""

IR_VERSION = 8
"""Version of the file format that came with it."""

TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
    torch.uint8: TensorProto.UINT8,
    torch.bool: TensorProto.BOOL,
}


@dataclass(frozen=True, slots=True)
class Tiles:
    """A size that is a multiple of the number of tiles in a batch."""

    multiple: int


Size = int | Tiles


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the graph."""

    name: str
    dtype: torch.dtype
    shape: tuple[Size, ...]


Operand = Value | Tensor
"""A tensor of the graph, or one that is known."""


class OnnxGraph:
    """Nodes and constants of a graph.

    Args:
        batch: the input whose first axis counts the tiles.
    """

    def __init__(self, batch: str) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self._batch = batch
        self._made: dict[object, tuple[str, ...]] = {}

    def add(self, operator: str, *inputs: Operand | str, **attributes: Any) -> str:
        """Add an operation, and return the name of its result."""
        return self.add_all(1, operator, *inputs, **attributes)[0]

    def add_all(
        self, outputs: int, operator: str, *inputs: Operand | str, **attributes: Any
    ) -> tuple[str, ...]:
        """Add an operation unless there is an equal one; return the names of its results."""
        names = tuple(self.name(x) for x in inputs)
        key = (operator, outputs, names, repr(sorted(attributes.items())))
        if key not in self._made:
            results = tuple(f"{operator}_{len(self.nodes)}_{i}" for i in range(outputs))
            self.nodes.append(helper.make_node(operator, names, results, **attributes))
            self._made[key] = results
        return self._made[key]

    def name(self, x: Operand | str) -> str:
        """Return the name of an operand; a known tensor becomes a constant of the graph."""
        if isinstance(x, str):
            return x
        return x.name if isinstance(x, Value) else self._constant(x)

    def _constant(self, tensor: Tensor) -> str:
        array = tensor.detach().cpu().contiguous().numpy()
        content = hashlib.sha256(array.tobytes()).hexdigest()[:24]
        name = f"constant_{'x'.join(map(str, array.shape))}_{array.dtype}_{content}"
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def integers(self, values: Sequence[int]) -> str:
        """Return a constant of int64, (n,)."""
        return self._constant(torch.tensor(list(values), dtype=torch.int64))

    def sizes(self, shape: Sequence[Size]) -> str:
        """Return sizes, of which some follow the batch, as a tensor (n,)."""
        if not any(isinstance(size, Tiles) for size in shape):
            return self.integers([int(size) for size in shape])  # type: ignore[arg-type]
        parts = [self._tiles(n) if isinstance(n, Tiles) else self.integers([n]) for n in shape]
        return parts[0] if len(parts) == 1 else self.add("Concat", *parts, axis=0)

    def _tiles(self, size: Tiles) -> str:
        count = self.add("Shape", self._batch, start=0, end=1)
        return self.add("Mul", count, self.integers([size.multiple]))

    def cast(self, x: Operand, dtype: torch.dtype) -> Operand | str:
        """Return an operand in another type."""
        if x.dtype == dtype:
            return x
        return x.to(dtype) if isinstance(x, Tensor) else self.add("Cast", x, to=TYPES[dtype])

    def to_proto(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        defaults: Sequence[TensorProto],
        outputs: Sequence[onnx.ValueInfoProto],
    ) -> onnx.GraphProto:
        """Return the graph.

        Args:
            name: of the graph.
            inputs: of the graph.
            defaults: values of inputs that may be left out.
            outputs: of nodes that have been added.
        """
        constants = [*defaults, *self.constants.values()]
        return helper.make_graph(self.nodes, name, inputs, outputs, initializer=constants)
