"""Passes that make a captured graph do less, and give the same results bit for bit.

Each changes the graph, and returns the number of operations that it took away.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from capecam.attribution.graph.cost import ALLOCATIONS, is_view

MAX_GROWTH = 2
"""Memory of all constants, as a multiple of that of the weights; on top of it, ``SMALL``."""

SMALL = 1 << 24
"""Bytes of constants that any network may have: the matrices of its upsampling take 2 MB
(FPN resnext50, 320 px)."""


class Writes:
    """The tensors of a graph that operations write into, found from their declarations.

    Args:
        graph: as captured.
    """

    def __init__(self, graph: GraphModule) -> None:
        self._origins: dict[Node, Node] = {}
        self._written: set[Node] = set()
        for node in graph.graph.nodes:
            written = list(written_by(node))
            source = written[0] if written else _viewed(node)
            self._origins[node] = node if source is None else self._origins[source]
            self._written.update(self._origins[x] for x in written)

    def change(self, node: Node) -> bool:
        """Return True if the memory of a tensor may be written into after it was made."""
        return self._origins[node] in self._written


def written_by(node: Node) -> Iterator[Node]:
    """Yield the operands that an operation writes into."""
    if not isinstance(node.target, OpOverload):
        return
    for place, argument in enumerate(node.target._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = node.args[place] if place < len(node.args) else None
            value = node.kwargs.get(argument.name, given)
            yield from (x for x in pytree.tree_leaves(value) if isinstance(x, Node))


def _viewed(node: Node) -> Node | None:
    """Return the node whose memory the result of a node may be; None if it has its own."""
    view = isinstance(node.target, OpOverload) and is_view(node.target)
    if view or node.target is operator.getitem:
        return node.all_input_nodes[0] if node.all_input_nodes else None
    return None


def is_pure(node: Node) -> bool:
    """Return True for an operation that gives the same for the same operands, and does no more."""
    if node.target is operator.getitem:
        return True
    target = node.target
    return (
        isinstance(target, OpOverload)
        and not target._schema.is_mutable
        and torch.Tag.nondeterministic_seeded not in target.tags
        and target._schema.name.removeprefix("aten::") not in ALLOCATIONS
    )


@torch.no_grad()
def compute_constants(graph: GraphModule, *_inputs: Tensor) -> int:
    """Compute once what depends on weights alone, and keep the results as constants.

    Such are weights in 16 bits, and the matrices by which upsampling is transposed. Together they
    take about as much memory as the weights do; what is more stays an operation.
    """
    values, before = _constants(graph), len(graph.graph.nodes)
    weights, writes = _memory(values.values()), Writes(graph)
    for node in list(graph.graph.nodes):
        if _is_constant(node, values, writes):
            args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*args, **kwargs)
    kept = list[Tensor]()
    for node, value in values.items():
        if node.op == "get_attr" or not _is_tensor(value) or all(x in values for x in node.users):
            continue
        kept.append(value)
        if sum((_memory(kept) | weights).values()) > MAX_GROWTH * sum(weights.values()) + SMALL:
            break
        _replace_by_constant(graph, node, value)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return before - len(graph.graph.nodes)


def _constants(graph: GraphModule) -> dict[Node, Any]:
    """Return the constants of a graph by their nodes."""
    nodes = (node for node in graph.graph.nodes if node.op == "get_attr")
    return {node: operator.attrgetter(node.target)(graph) for node in nodes}


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _memory(values: Iterable[object]) -> dict[int, int]:
    """Return the bytes of each memory that tensors are in."""
    storages = (x.untyped_storage() for x in values if isinstance(x, Tensor))
    return {storage._cdata: storage.nbytes() for storage in storages}


def _is_constant(node: Node, values: dict[Node, Any], writes: Writes) -> bool:
    """Return True for an operation on constants whose result nothing writes into."""
    known = all(x in values for x in node.all_input_nodes)
    return node.op == "call_function" and known and is_pure(node) and not writes.change(node)


def _replace_by_constant(graph: GraphModule, node: Node, value: Tensor) -> None:
    name = f"_computed_{node.name}"
    graph.register_buffer(name, value, persistent=False)
    with graph.graph.inserting_before(node):
        node.replace_all_uses_with(graph.graph.get_attr(name))
    graph.graph.erase_node(node)


def share_equal(graph: GraphModule, *_inputs: Tensor) -> int:
    """Let operations that compute the same from the same share one result."""
    writes, first, before = Writes(graph), dict[Hashable, Node](), len(graph.graph.nodes)
    for node in list(graph.graph.nodes):
        known = node.op == "call_function" and is_pure(node)
        if not known or any(map(writes.change, [node, *node.all_input_nodes])):
            continue
        same = first.setdefault(_frozen((node.target, node.args, node.kwargs)), node)
        if same is not node:
            node.replace_all_uses_with(same)
            graph.graph.erase_node(node)
    graph.recompile()
    return before - len(graph.graph.nodes)


def _frozen(value: Any) -> Hashable:
    """Return a value that can be a key; numbers of different types differ."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    if isinstance(value, dict):
        return tuple((key, _frozen(value[key])) for key in sorted(value))
    return type(value), value
