"""The graph that a GPU would run, captured on a CPU and run on tensors without values.

A machine without a GPU can tell whether a graph runs on one: FakeTensorMode knows the device, type,
shape and layout of every tensor, and raises where they do not go together, or where an operation
needs values, for which a GPU would be waited for. Autograd on such tensors wants a CUDA context, so
that a graph is captured from :class:`CudaOperations` on a CPU, and its devices are rewritten.

One thing still differs from a graph that is captured on a GPU, where a batch norm may be
``cudnn_batch_norm`` instead of ``native_batch_norm``: it computes the same from the same tensors.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx import GraphModule, Interpreter, Node
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from capecam.attribution.backward import DeterministicUpsampling
from capecam.attribution.device import HALF, half_precision
from capecam.attribution.engine import Engine

CUDA = torch.device("cuda", 0)

IN_FLOAT32 = frozenset({
    "cosh", "cumprod", "cumsum", "exp", "group_norm", "interpolate", "layer_norm", "log",
    "log_softmax", "norm", "pow", "prod", "reciprocal", "rsqrt", "softmax", "softplus", "sum",
})  # fmt: skip
"""Functions that a network may call and that ``torch.autocast("cuda")`` runs in float32, but
``torch.autocast("cpu")`` in 16 bits: docs.pytorch.org/docs/stable/amp.html, "CUDA Ops that can
autocast to float32", and what a test finds with PyTorch 2.14."""


class CudaAutocast(TorchFunctionMode):
    """Context in which a CPU's autocast uses float32 where a GPU's does.

    A GPU's autocast leaves the tensors of a CPU alone. Both use 16 bits for convolutions, linear
    layers and matrix products.
    """

    def __torch_function__(
        self, func: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        run = partial(func, **(kwargs or {}))
        if getattr(func, "__name__", "") not in IN_FLOAT32:
            return run(*args)
        with torch.autocast("cpu", enabled=False):
            return run(*pytree.tree_map_only(Tensor, _in_float32, args))


def _in_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in HALF.values() else x


class CudaOperations(Engine):
    """Engine on a CPU that runs the operations of one on a GPU: for capture, slow otherwise."""

    def _gradient_layout(self) -> torch.memory_format:
        return torch.contiguous_format

    def _forward_context(self) -> AbstractContextManager[object]:
        contexts = ExitStack()
        contexts.enter_context(half_precision(self.precision, self.device))
        if self.precision in HALF:
            contexts.enter_context(CudaAutocast())
        contexts.enter_context(DeterministicUpsampling())
        return contexts


class OnFakeCuda(Interpreter):
    """Run of a graph on a GPU that does not exist, node by node.

    Args:
        graph: as captured on a CPU, or on a GPU.

    Raises:
        RuntimeError: by :meth:`run`, with the node: types, shapes or devices that do not go
            together, a tensor that is not on the GPU, or an operation that needs values.
    """

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self.mode = FakeTensorMode()
        self._constants: dict[int, Tensor] = {}

    def fake(self, x: Tensor) -> Tensor:
        """Return a tensor on the GPU like this one, without values."""
        with self.mode:
            return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=CUDA)

    def run_node(self, n: Node) -> Any:
        """Run a node, and check where its result is."""
        result = super().run_node(n)
        for x in pytree.tree_leaves(result):
            if isinstance(x, Tensor) and x.device != CUDA:
                raise RuntimeError(f"{n.format_node()} is on {x.device}, not on {CUDA}")
        return result

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return a constant of the graph, without its values."""
        constant = super().get_attr(target, args, kwargs)
        if not isinstance(constant, Tensor):
            return constant
        return self._constants.setdefault(id(constant), self.fake(constant))

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation on the GPU, whatever device it names."""
        args, kwargs = pytree.tree_map_only(torch.device, _on_cuda, (args, kwargs))
        with self.mode:
            return super().call_function(target, args, kwargs)


def _on_cuda(_device: torch.device) -> torch.device:
    return CUDA


def on_fake_cuda(graph: GraphModule, *inputs: Tensor) -> Any:
    """Run a graph on a GPU that does not exist, and return its results, which have no values.

    Args:
        graph: as captured on a CPU, or on a GPU.
        inputs: of the shapes that it was captured with; values are not used.

    Raises:
        RuntimeError: see :class:`OnFakeCuda`.
    """
    gpu = OnFakeCuda(graph)
    return gpu.run(*map(gpu.fake, inputs))
