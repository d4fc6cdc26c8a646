"""Find operations of a captured graph that one kernel can compute together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from operator import getitem
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node

from capecam.attribution.graph.batch_norms import BATCH_NORMS, BatchNorm, read_batch_norm
from capecam.attribution.graph.storage import Storages, alike

aten = torch.ops.aten

_ADDS = (aten.add.Tensor, aten.add_.Tensor)
_RELUS = (aten.relu.default, aten.relu_.default)


@dataclass(frozen=True, slots=True)
class Convolution:
    """Arguments of a convolution, or of its gradient by the input."""

    weight: Node
    bias: Node | None
    stride: int
    padding: int
    groups: int
    transposed: bool
    """It is the gradient."""


def arguments(node: Node) -> Any:
    """Return the arguments of a node, whose types are those of its operation."""
    return node.args


def read_convolution(node: Node) -> Convolution | None:
    """Return the convolution that a node computes; None if it is none, or uneven."""
    if node.target is aten.convolution.default:
        _, weight, bias, *geometry = arguments(node)
        transposed = False
    elif node.target is aten.convolution_backward.default and node.args[-1] == [True, False, False]:
        _, _, weight, _, *geometry, _ = arguments(node)
        transposed, bias = True, None
    else:
        return None
    stride, padding, dilation, reverse, _, groups = geometry
    even = all(len(sizes) == 2 and sizes[0] == sizes[1] for sizes in (stride, padding, dilation))
    if reverse or not even or dilation[0] != 1:
        return None
    return Convolution(weight, bias, stride[0], padding[0], groups, transposed)


@dataclass(frozen=True, slots=True)
class Chain:
    """Operations, each of which is the only reader of the one before it."""

    nodes: tuple[Node, ...]
    """In the order of the graph."""
    x: Node
    """Read by the first."""
    norm: BatchNorm | None = None
    other: Node | None = None
    """Added."""
    mask: Node | None = None
    """Output of the ReLU of which this is the gradient."""
    relu: bool = False
    """The last is a ReLU, or of a gradient, what makes it guided."""

    @property
    def end(self) -> Node:
        """Node whose result is the chain's."""
        return self.nodes[-1]

    @property
    def reads(self) -> tuple[Node, ...]:
        """Tensors that depend on the tile."""
        return tuple(node for node in (self.x, self.other, self.mask) if node is not None)


class Chains:
    """The chains of a graph.

    Args:
        graph: as captured.
        storages: of the graph.
        accepts: returns True for a convolution or a batch norm that kernels can compute.
        types: of tensors that kernels know.
    """

    def __init__(
        self,
        graph: GraphModule,
        storages: Storages,
        accepts: Callable[[Node], bool],
        types: tuple[torch.dtype, ...],
    ) -> None:
        self._nodes = list(graph.graph.nodes)
        self._position = {node: i for i, node in enumerate(self._nodes)}
        self._storages, self._accepts, self._types = storages, accepts, types
        self._taken = set[Node]()

    def convolutions(self) -> Iterator[Chain]:
        """Yield convolutions of channels-last images with what follows them; take their nodes."""
        for node in self._nodes:
            if read_convolution(node) and self._accepts(node):
                chain = self._convolution(node)
                if chain is not None and self._is_safe(chain):
                    yield self._take(chain)

    def masks(self) -> Iterator[Chain]:
        """Yield what is done besides a ReLU's mask of a gradient, and take the nodes."""
        for node in self._nodes:
            if node.target is aten.threshold_backward.default and node not in self._taken:
                chain = self._masked(node)
                if chain is not None and len(chain.nodes) > 1 and self._is_safe(chain):
                    yield self._take(chain)

    def _take(self, chain: Chain) -> Chain:
        self._taken.update(chain.nodes)
        return chain

    def _convolution(self, node: Node) -> Chain | None:
        chain = Chain((node,), arguments(node)[0])
        if node.target is aten.convolution.default:
            chain = self._with_norm(chain)
        else:
            first = self._reader(node, getitem)
            if first is None:
                return None
            chain = replace(chain, nodes=(node, first))
        chain = self._with_sum(chain)
        if node.target is aten.convolution_backward.default:
            chain = self._with_mask(chain)
        chain = self._with_relu(chain)
        found, x = self._storages.tensor(chain.end), self._storages.tensor(chain.x)
        if found is None or x is None or found.dtype != x.dtype:
            return None
        known = found.dtype in self._types and _is_last(found) and _is_last(x)
        return chain if known else None

    def _masked(self, node: Node) -> Chain | None:
        gradient, mask, threshold = arguments(node)
        if node.kwargs or threshold != 0 or not self._alike(gradient, mask):
            return None
        chain = Chain((node,), gradient, mask=mask)
        if set(gradient.users) == {node} and self._is_plain_sum(gradient):
            x, other = arguments(gradient)
            chain = replace(chain, nodes=(gradient, node), x=x, other=other)
        chain = self._with_relu(chain)
        found = self._storages.tensor(gradient)
        known = found is not None and found.dtype in self._types and _is_dense(found)
        return chain if known else None

    def _is_plain_sum(self, node: Node) -> bool:
        """Return True for a sum of two tensors like itself that is not part of a chain."""
        if node.target is not aten.add.Tensor or node in self._taken or node.kwargs:
            return False
        return all(self._alike(node, summand) for summand in node.args)

    def _with_norm(self, chain: Chain) -> Chain:
        norm = self._reader(chain.end, *BATCH_NORMS)
        if norm is None or norm.args[0] is not chain.end or not self._accepts(norm):
            return chain
        result = self._reader(norm, getitem)
        if result is None or result.args[1] != 0:
            return chain
        return replace(chain, nodes=(*chain.nodes, norm, result), norm=read_batch_norm(norm))

    def _with_sum(self, chain: Chain) -> Chain:
        add = self._reader(chain.end, *_ADDS)
        if add is None or add.kwargs:
            return chain
        first, second = arguments(add)
        other = second if first is chain.end else first
        # What is added to something else in place writes there; others may read it.
        in_place = add.target is aten.add_.Tensor and first is not chain.end
        if in_place or first is second or not self._same_kind(chain.end, other):
            return chain
        return replace(chain, nodes=(*chain.nodes, add), other=other)

    def _with_mask(self, chain: Chain) -> Chain:
        node = self._reader(chain.end, aten.threshold_backward.default)
        if node is None or node.kwargs or node.args[0] is not chain.end or node.args[2] != 0:
            return chain
        if not self._same_kind(chain.end, node.args[1]):
            return chain
        return replace(chain, nodes=(*chain.nodes, node), mask=arguments(node)[1])

    def _with_relu(self, chain: Chain) -> Chain:
        relu = self._reader(chain.end, *_RELUS)
        if relu is None:
            return chain
        return replace(chain, nodes=(*chain.nodes, relu), relu=True)

    def _reader(self, node: Node, *targets: Callable[..., object] | OpOverload) -> Node | None:
        """Return the only reader of a node, if it is one of these operations, and free."""
        if len(node.users) != 1:
            return None
        reader = next(iter(node.users))
        return reader if reader.target in targets and reader not in self._taken else None

    def _same_kind(self, one: object, other: object) -> bool:
        """Return True for tensors of one shape and type."""
        a, b = self._storages.tensor(one), self._storages.tensor(other)
        return a is not None and b is not None and (a.shape, a.dtype) == (b.shape, b.dtype)

    def _alike(self, one: object, other: object) -> bool:
        """Return True for tensors of one shape, type and layout."""
        a, b = self._storages.tensor(one), self._storages.tensor(other)
        return a is not None and b is not None and alike(a, b)

    def _is_safe(self, chain: Chain) -> bool:
        """Return True if what the chain reads is the same when its last operation runs."""
        first, last = (self._position[node] for node in (chain.nodes[0], chain.end))
        for read in chain.reads:
            start = max(first, self._position[read] + 1)
            for node in self._nodes[start:last]:
                if node not in chain.nodes and self._writes(node, read):
                    return False
        return True

    def _writes(self, node: Node, read: Node) -> bool:
        """Return True if a node may write into a tensor."""
        target = node.target
        if not isinstance(target, OpOverload) or not target._schema.is_mutable:
            return False
        return any(self._storages.overlap(arg, read) for arg in node.all_input_nodes)


def _is_last(x: Tensor) -> bool:
    """Return True for a channels-last image."""
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _is_dense(x: Tensor) -> bool:
    """Return True for a tensor without gaps, contiguous or channels-last."""
    return x.is_contiguous() or _is_last(x)
