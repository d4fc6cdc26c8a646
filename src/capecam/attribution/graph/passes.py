"""Passes that make a captured graph do less, and give the same results bit for bit.

Each changes the graph, and returns the number of operations that it took away.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node

from capecam.attribution.graph.constants import Constants
from capecam.attribution.graph.operations import Writes, is_pure

MAX_GROWTH = 2
"""Memory of all constants, as a multiple of that of the weights; on top of it, ``SMALL``."""

SMALL = 1 << 24
"""Bytes of constants that any network may have: the matrices of its upsampling take 2 MB
(FPN resnext50, 320 px)."""


def compute_constants(graph: GraphModule, *_inputs: Tensor) -> int:
    """Compute once what depends on weights alone, and keep the results as constants.

    Such are weights in 16 bits, and the matrices by which upsampling is transposed. Together they
    take about as much memory as the weights do; what is more stays an operation.
    """
    constants, before = Constants(graph), len(graph.graph.nodes)
    known = [node for node in graph.graph.nodes if constants.value(node) is not None]
    weights = _memory(constants.value(node) for node in known if node.op == "get_attr")
    computed, kept = set(known), list[Tensor]()
    for node in known:
        value = constants.value(node)
        if (
            node.op == "get_attr"
            or not isinstance(value, Tensor)
            or computed.issuperset(node.users)
        ):
            continue
        kept.append(value)
        if sum((_memory(kept) | weights).values()) > MAX_GROWTH * sum(weights.values()) + SMALL:
            break
        with graph.graph.inserting_before(node):
            node.replace_all_uses_with(constants.add(value))
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return before - len(graph.graph.nodes)


def _memory(values: Iterable[object]) -> dict[int, int]:
    """Return the bytes of each memory that tensors are in."""
    storages = (x.untyped_storage() for x in values if isinstance(x, Tensor))
    return {storage._cdata: storage.nbytes() for storage in storages}


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
