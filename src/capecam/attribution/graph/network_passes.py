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

from capecam.attribution.graph.batch_norms import BatchNorm, read_batch_norm, unconverted
from capecam.attribution.graph.constants import Constants

aten = torch.ops.aten

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


def fold_batch_norms(graph: GraphModule, *_inputs: Tensor) -> int:
    """Put batch norms into the weights of the convolutions before them, where those have 16 bits.

    There a batch norm moves as many bytes as the convolution; in float32 folding would open and
    close ReLUs for as little. The product is taken in float64, and rounded once.
    """
    constants, folded = Constants(graph), 0
    for node in list(graph.graph.nodes):
        norm = read_batch_norm(node)
        if norm is not None and _can_fold(constants, node, norm):
            _fold(graph, constants, node, norm)
            folded += 1
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return folded


def _can_fold(constants: Constants, node: Node, norm: BatchNorm) -> bool:
    """Return True for a batch norm that alone reads a convolution of 16 bits."""
    convolution: Any = norm.x
    if convolution.target is not aten.convolution.default or len(convolution.users) > 1:
        return False
    _, weight, bias, _, _, _, transposed, *_ = convolution.args
    alone = [user.target for user in node.users] == [getitem]
    known = constants.are_known(*norm.parameters, weight, bias)
    return alone and known and not transposed and constants.tensor(weight).itemsize == 2


def _fold(graph: GraphModule, constants: Constants, node: Node, norm: BatchNorm) -> None:
    convolution: Any = norm.x
    x, weight, bias, *geometry = convolution.args
    factor, shift = norm.factors(constants, bias)
    folded = constants.tensor(unconverted(weight)).double() * factor[:, None, None, None]
    dtype = constants.tensor(weight).dtype
    with graph.graph.inserting_before(convolution):
        new_weight, new_bias = constants.add(folded.to(dtype)), constants.add(shift.to(dtype))
    convolution.args = (x, new_weight, new_bias, *geometry)
    (result,) = node.users
    result.replace_all_uses_with(convolution)


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
            source = unconverted(weight)
            if source.op == "get_attr":
                yield source
