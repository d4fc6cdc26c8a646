"""What the operations of a captured graph read, write and depend on, from their declarations."""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from capecam.attribution.graph.cost import ALLOCATIONS, is_view


class Writes:
    """The tensors of a graph that operations write into.

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
        return self._origins.get(node, node) in self._written


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
