"""Replay of a captured graph as one CUDA graph: the kernels are launched together, not by Python.

No GPU has run this yet: tests check the order of its calls on a stand-in (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

WARM_UPS = 3
"""Number of runs before the capture, in which libraries choose algorithms and allocate workspaces:
as in docs.pytorch.org/docs/stable/notes/cuda.html, "Whole-network capture"."""


class CudaGraph:
    """A computation with fixed memory, recorded once and replayed for other inputs.

    Inputs are copied into its own; results are copied out, because the next replay overwrites them,
    and so may that of another graph in the same pool: a batch's maps are still read when the next
    one is computed. That moves 12 bytes a pixel and map, a thousandth of what is read and written.

    Args:
        function: of tensors on the GPU; waits for no result, and decides nothing by values.
        inputs: of the shapes, types and device of all that follow.
        pool: memory to share with another graph, of which one runs at a time; a pool of its own if
            None. The other one has to be there still: a pool that no graph uses is given back, and
            its number must not be used again.
    """

    def __init__(
        self, function: Callable[..., Any], inputs: tuple[Tensor, ...], pool: Any = None
    ) -> None:
        self._inputs = [x.clone() for x in inputs]
        self._function = function  # its weights are read at addresses that were recorded
        self._warm_up()
        self._graph = torch.cuda.CUDAGraph()
        # Other threads copy pixels to the GPU meanwhile, and may allocate.
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._results = function(*self._inputs)

    @property
    def pool(self) -> Any:
        """Memory that other graphs can share."""
        return self._graph.pool()

    def _warm_up(self) -> None:
        """Run on another stream, as a capture does, and wait for it."""
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._function(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)

    def __call__(self, *inputs: Tensor) -> Any:
        """Replay for other inputs; no host synchronisation."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        self._graph.replay()
        return pytree.tree_map_only(Tensor, torch.clone, self._results)
