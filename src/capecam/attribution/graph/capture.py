"""Capture a computation with its backward passes as one graph of ATen operations.

The graph is what is dispatched for a batch of one shape: autograd, hooks and Python are out of the
way, and the weights are its constants. Nothing is computed meanwhile, so that it takes no memory
(FPN resnext50_32x4d, four tiles of 320 px: 0.7 GB less than with values), and an operation that
looks at values to decide what to do raises.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx


def capture(function: Callable[..., object], *inputs: Tensor) -> GraphModule:
    """Return the graph of what a function of tensors computes.

    Args:
        function: returns tensors, in tuples or dicts.
        inputs: of the function, and, of the same shapes, of the graph; values are not used.

    Returns:
        A module that returns the same structure of tensors; operations that nothing reads are left
        out. It shares the weights.

    Raises:
        RuntimeError: an operation needs values.
    """

    def run(*tensors: Tensor) -> object:  # make_fx counts the arguments of a bound method wrongly
        return function(*tensors)

    graph = make_fx(run, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph
