"""Batch norms of a captured graph that have fixed statistics: a factor and a summand a channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from capecam.attribution.graph.constants import Constants

aten = torch.ops.aten

BATCH_NORMS = (aten.native_batch_norm.default, aten.cudnn_batch_norm.default)
"""Batch norms as they are captured on a CPU and on a GPU; their arguments are alike."""


@dataclass(frozen=True, slots=True)
class BatchNorm:
    """Arguments of a batch norm with fixed statistics."""

    x: Node
    weight: Node | None
    bias: Node | None
    mean: Node
    variance: Node
    eps: float

    @property
    def parameters(self) -> tuple[Node | None, ...]:
        """Nodes of the values of every channel."""
        return self.weight, self.bias, self.mean, self.variance

    def factors(self, constants: Constants, bias: Node | None) -> tuple[Tensor, Tensor]:
        """Return the (C,) float64 factor and summand; ``bias`` is added before the batch norm.

        The parameters are taken as they are before conversions.
        """

        def exact(node: Node) -> Tensor:
            return constants.tensor(unconverted(node)).double()

        factor = 1 / (exact(self.variance) + self.eps).sqrt()
        if self.weight is not None:
            factor = factor * exact(self.weight)
        shift = -exact(self.mean) * factor
        if bias is not None:
            shift = shift + exact(bias) * factor
        if self.bias is not None:
            shift = shift + exact(self.bias)
        return factor, shift


def read_batch_norm(node: Node) -> BatchNorm | None:
    """Return the batch norm that a node computes; None if it is none, or makes statistics."""
    if node.target not in BATCH_NORMS:
        return None
    arguments: Any = node.args
    x, weight, bias, mean, variance, training, _, eps = arguments
    return None if training or mean is None else BatchNorm(x, weight, bias, mean, variance, eps)


def unconverted(node: Node) -> Node:
    """Return the operand of a conversion; of other nodes themselves."""
    operand = node.args[0] if node.target is aten._to_copy.default else node
    return operand if isinstance(operand, Node) else node
