"""Capture a computation with its backward passes as one graph of ATen operations.

The graph is what was dispatched for one batch: autograd, hooks and Python are out of the way, every
shape is fixed, and the weights are its constants. For other tiles it computes the same as long as
nothing was decided by values of the first ones; whoever uses it compares.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx


def capture(function: Callable[..., object], *inputs: Tensor) -> GraphModule:
    """Run a function of tensors, and return the graph of what it computed.

    Args:
        function: returns tensors, in tuples or dicts.
        inputs: of the function, and, of the same shapes, of the graph.

    Returns:
        A module that returns the same structure of tensors; operations that nothing reads are left
        out. It shares the weights.
    """
    graph = make_fx(function)(*inputs)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph
