"""Engine that replays graphs of its own passes, where they give the same results."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from capecam.attribution.graph.capture import capture
from capecam.attribution.graph.cuda_graph import CudaGraph
from capecam.attribution.graph.replaying_engine import Replay, ReplayingEngine
from capecam.attribution.graph.steps import (
    check_steps,
    correlation_lost,
    default_steps,
    take_steps,
    tolerance,
)
from capecam.attribution.maps import Explanation
from capecam.model.model import Model
from capecam.settings import DEFAULT_METHODS

log = logging.getLogger(__name__)

PATIENCE = 8
"""Capturing takes as long as three batches (FPN resnext50_32x4d, four tiles of 320 px on 2 cores:
10 s)."""

MAX_GRAPHS = 16


class Kind(NamedTuple):
    """Properties of a batch that a graph is fixed to."""

    shape: torch.Size
    """Shape of the pixels, (B, 3, H, W)."""
    classes: tuple[int, ...] | None


class GraphEngine(ReplayingEngine):
    """Engine that captures a graph for each kind of batch, and uses it if it is exact.

    The graph has to repeat what autograd gives for tiles of the run, bit for bit; if not, a warning
    says how far it is off, and autograd goes on. Steps that round differently have a tolerance
    instead. For other arguments and errors see :class:`Engine`.

    Args:
        steps: to take from a graph to what is replayed (``attribution.graph.steps``); those of the
            device that change no bit if None.
    """

    patience, max_kinds = PATIENCE, MAX_GRAPHS

    def __init__(
        self,
        model: Model,
        methods: Sequence[str] = DEFAULT_METHODS,
        *,
        steps: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, methods, **options)
        self.steps = default_steps(self.device) if steps is None else tuple(steps)
        check_steps(self.steps, self.device)

    def kind(self, pixels: Tensor, classes: tuple[int, ...] | None) -> Kind:
        """Return what a graph is fixed to."""
        return Kind(pixels.shape, classes)

    def prepare(
        self, expected: Explanation, pixels: Tensor, valid: Tensor, classes: tuple[int, ...] | None
    ) -> Replay | None:
        """Return what replays a graph that repeats an explanation; None if there is none."""
        try:
            graph = capture(self.by_autograd(classes), pixels, valid)
            replay = take_steps(self.steps, graph, (pixels, valid), self._graph_pool())
            found = replay(pixels, valid)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            log.warning("autograd explains the tiles: no graph of the network: %s", error)
            return None
        accepted = tolerance(self.steps, self.precision)
        measure = correlation_lost if accepted else difference
        off = measure(found, expected)
        if not off <= accepted:
            log.warning("the graph of the network is %.1e off; autograd explains the tiles", off)
            return None
        return replay

    def _graph_pool(self) -> Any:
        """Return the memory of a CUDA graph to share; None if there is no such graph.

        All can share it, because one runs at a time and its results are copied out.
        """
        graphs = (graph for graph in self.replays.values() if isinstance(graph, CudaGraph))
        return next((graph.pool for graph in graphs), None)


def difference(found: Explanation, expected: Explanation) -> float:
    """Return the largest difference between two explanations, relative to each tensor's largest."""
    pairs = zip(pytree.tree_leaves(found), pytree.tree_leaves(expected), strict=True)
    return max(_difference(one, other) for one, other in pairs)


def _difference(found: Tensor, expected: Tensor) -> float:
    if torch.equal(found, expected):
        return 0.0
    apart = (found.double() - expected.double()).abs().max()
    return float(apart / expected.double().abs().max())
