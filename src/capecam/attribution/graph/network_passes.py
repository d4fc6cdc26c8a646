"""Passes that make the network of a captured graph cheaper on a GPU, and round differently.

Each changes the graph, and returns the number of places that it changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter, getitem
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

aten = torch.ops.aten

NORMS: tuple[object, ...] = (aten.native_batch_norm.default, aten.cudnn_batch_norm.default)
"""Batch norms as they are captured on a CPU and on a GPU; their first arguments are alike."""

CONVOLUTIONS: dict[object, int] = {
    aten.convolution.default: 1,
    aten.convolution_backward.default: 2,
}
"""Place of the weight among the arguments."""

GROUP_NORMS = {
    aten.native_group_norm.default: (0,),
    aten.native_group_norm_backward.default: (0, 1),
}
"""Places of the arguments that CUDA's kernels expect in the order of their axes."""


@torch.no_grad()
def fold_batch_norms(graph: GraphModule, *_inputs: Tensor) -> int:
    """Put batch norms into the weights of the convolutions before them, where those have 16 bits.

    There a batch norm moves as many bytes as the convolution; in float32 folding would open and
    close ReLUs for as little. The product is taken in float64, and rounded once.
    """
    norms = [node for node in graph.graph.nodes if _can_fold(graph, node)]
    for norm in norms:
        _fold(graph, norm)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return len(norms)


def _can_fold(graph: GraphModule, norm: Any) -> bool:
    """Return True for a batch norm that alone reads a convolution of 16 bits."""
    if norm.target not in NORMS or norm.args[5]:
        return False
    convolution, users = norm.args[0], list(norm.users)
    plain = isinstance(convolution, Node) and convolution.target is aten.convolution.default
    if not plain or convolution.args[6] or len(convolution.users) > 1:  # args[6]: it is transposed
        return False
    if len(users) != 1 or users[0].target is not getitem:
        return False
    constants = (*norm.args[1:5], *(x for x in convolution.args[1:3] if x is not None))
    known = all(_constant(graph, x) is not None for x in constants)
    return known and _dtype(graph, convolution.args[1]).itemsize == 2


def _constant(graph: GraphModule, node: Any) -> Tensor | None:
    """Return the value of a constant, or of the one that a node converts; None if there is none."""
    if isinstance(node, Node) and node.target is aten._to_copy.default:
        node = node.args[0]
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    value: Tensor = attrgetter(str(node.target))(graph)
    return value


def _exact(graph: GraphModule, node: Any) -> Tensor:
    """Return the value of a constant before its conversion, in float64."""
    value = _constant(graph, node)
    if value is None:
        raise ValueError(f"{node} is not a constant of the graph")
    return value.double()


def _dtype(graph: GraphModule, node: Any) -> torch.dtype:
    """Return the type of a constant, after its conversion."""
    if node.target is aten._to_copy.default:
        dtype: torch.dtype = node.kwargs["dtype"]
    else:
        dtype = attrgetter(node.target)(graph).dtype
    return dtype


def _fold(graph: GraphModule, norm: Any) -> None:
    convolution, epsilon = norm.args[0], norm.args[7]
    x, weight, bias, *geometry = convolution.args
    gamma, beta, mean, variance = (_exact(graph, node) for node in norm.args[1:5])
    factor, dtype = gamma / (variance + epsilon).sqrt(), _dtype(graph, weight)
    shift = beta - mean * factor
    if bias is not None:
        shift += _exact(graph, bias) * factor
    folded = (_exact(graph, weight) * factor[:, None, None, None]).to(dtype)
    with graph.graph.inserting_before(convolution):
        new_weight = _new_constant(graph, f"_folded_weight_{norm.name}", folded)
        new_bias = _new_constant(graph, f"_folded_bias_{norm.name}", shift.to(dtype))
    convolution.args = (x, new_weight, new_bias, *geometry)
    (result,) = norm.users
    result.replace_all_uses_with(convolution)


def _new_constant(graph: GraphModule, name: str, value: Tensor) -> Node:
    graph.register_buffer(name, value, persistent=False)
    return graph.graph.get_attr(name)


@torch.no_grad()
def use_channels_last(graph: GraphModule, *_inputs: Tensor) -> int:
    """Lay out the weights of convolutions channels-last, which results and gradients follow.

    Group norms get their operands in the order of the axes, as CUDA's kernels expect; a view that
    another layout does not allow becomes a copy.
    """
    weights = list(dict.fromkeys(_weights(graph)))
    for node in weights:
        value: Tensor = attrgetter(str(node.target))(graph)
        name = f"_channels_last_{node.name}"
        graph.register_buffer(
            name, value.clone(memory_format=torch.channels_last), persistent=False
        )
        node.target = name
    for node in graph.graph.nodes:
        if node.target is aten.view.default:
            node.target = aten.reshape.default
        for place in GROUP_NORMS.get(node.target, ()):
            with graph.graph.inserting_before(node):
                ordered = graph.graph.call_function(aten.contiguous.default, (node.args[place],))
            node.update_arg(place, ordered)
    graph.recompile()
    return len(weights)


def _weights(graph: GraphModule) -> Iterator[Any]:
    """Yield the constants that are weights of convolutions, or are converted to them."""
    for node in graph.graph.nodes:
        if node.target in CONVOLUTIONS:
            weight: Any = node.args[CONVOLUTIONS[node.target]]
            source = weight.args[0] if weight.target is aten._to_copy.default else weight
            if source.op == "get_attr":
                yield source
