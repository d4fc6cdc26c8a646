"""Count what a graph costs a GPU, without one: kernels, floating-point operations and bytes.

A bound from below. Every operation that is no view is one kernel, though a reduction or a
convolution may launch several; it reads each tensor once and writes its results once, as if caches
held what it reads twice and nothing of the operation before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import flop_registry

from capecam.attribution.graph.fake import OnFakeCuda

ALLOCATIONS = ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided")
"""Operations that write nothing; a convolution's gradient takes only the shape from them."""

UNANNOTATED_VIEWS = ("_unsafe_view", "_reshape_alias")


@dataclass(frozen=True, slots=True)
class Kernel:
    """Cost of one operation for a batch."""

    operation: str
    """Name of the ATen operation, without its overload."""
    flops: int
    """Number of multiplications and additions of convolutions and matrix products; 0 of others."""
    bytes: int
    """Bytes read and written."""


@dataclass(frozen=True)
class Cost:
    """Cost of a graph for a batch."""

    kernels: tuple[Kernel, ...]

    @property
    def count(self) -> int:
        """Number of kernels."""
        return len(self.kernels)

    @cached_property
    def flops(self) -> int:
        """Number of multiplications and additions of convolutions and matrix products."""
        return sum(kernel.flops for kernel in self.kernels)

    @cached_property
    def bytes(self) -> int:
        """Bytes read and written."""
        return sum(kernel.bytes for kernel in self.kernels)

    def bytes_by_operation(self) -> Counter[str]:
        """Return the bytes read and written by the operations of each name."""
        total: Counter[str] = Counter()
        for kernel in self.kernels:
            total[kernel.operation] += kernel.bytes
        return total


def count_cost(graph: GraphModule, *inputs: Tensor) -> Cost:
    """Count what a graph costs a GPU, without one.

    Args:
        graph: as captured.
        inputs: of the shapes that it was captured with; values are not used.

    Raises:
        RuntimeError: the graph does not run on a GPU (:class:`OnFakeCuda`).
    """
    counter = _Counter(graph)
    counter.run(*map(counter.fake, inputs))
    return Cost(tuple(counter.kernels))


class _Counter(OnFakeCuda):
    """Run on a GPU that does not exist, which counts."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.kernels: list[Kernel] = []
        self._unwritten: set[int] = set()

    def run_node(self, n: Node) -> Any:
        """Run a node, and count it."""
        result = super().run_node(n)
        if isinstance(n.target, OpOverload):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            self._count(n.target, args, kwargs, result)
        return result

    def _count(self, target: OpOverload, args: Any, kwargs: Any, result: Any) -> None:
        name = target._schema.name.removeprefix("aten::")
        if name in ALLOCATIONS:
            self._unwritten.add(id(result))
        elif not (is_view(target) and _share(args[0], result)):
            read = [x for x in _tensors((args, kwargs)) if id(x) not in self._unwritten]
            moved = sum(map(_bytes, read)) + sum(map(_bytes, _tensors(result)))
            self.kernels.append(Kernel(name, _flops(target, args, kwargs, result), moved))


def is_view(operation: OpOverload) -> bool:
    """Return True if an operation's result is memory of its first argument, unchanged."""
    schema = operation._schema
    aliases = [value.alias_info for value in schema.returns if value.alias_info is not None]
    named = schema.name.removeprefix("aten::") in UNANNOTATED_VIEWS
    return named or any(not alias.is_write for alias in aliases)


def _share(x: Tensor, result: Any) -> bool:
    """Return True if results are memory of x: a view, and not the copy that some views are."""
    memory = x.untyped_storage()._cdata
    return all(y.untyped_storage()._cdata == memory for y in _tensors(result))


def _tensors(values: Any) -> Iterator[Tensor]:
    """Yield the tensors in a structure, each once."""
    leaves = (x for x in pytree.tree_leaves(values) if isinstance(x, Tensor))
    yield from {id(x): x for x in leaves}.values()


def _bytes(x: Tensor) -> int:
    """Return the number of bytes that a tensor takes; one repeated by stride 0 counts once."""
    count = 1
    for size, stride in zip(x.shape, x.stride(), strict=True):
        count *= size if stride else min(size, 1)
    return count * x.element_size()


def _flops(target: OpOverload, args: Any, kwargs: Any, result: Any) -> int:
    formula = flop_registry.get(target.overloadpacket)
    return int(formula(*args, **kwargs, out_val=result)) if formula else 0
