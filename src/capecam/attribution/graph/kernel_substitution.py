"""Replace operations of a captured graph by calls of the kernels.

A convolution takes what follows it: a batch norm, a sum, a ReLU; its gradient by the input takes
the sum with another branch's gradient, the mask of the ReLU before, and what makes it guided. The
results are those of the operations, but for rounding: sums of another order, one rounding at the
end instead of one after each operation, and batch norms as a factor and a summand.
"""

from __future__ import annotations

from collections.abc import Collection
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from capecam.attribution.graph.batch_norms import BatchNorm, read_batch_norm
from capecam.attribution.graph.constants import Constants
from capecam.attribution.graph.kernel_patterns import (
    Chain,
    Chains,
    Convolution,
    read_convolution,
)
from capecam.attribution.graph.storage import Storages
from capecam.errors import SettingsError

GROUPED = "grouped"
DENSE = "dense"
MASKS = "masks"

KINDS = (GROUPED, DENSE, MASKS)
"""Kinds of kernels: convolutions of 3 x 3 in groups, of 1 x 1, and pointwise operations beside the
mask of a ReLU's gradient."""


STRIDES = 2
"""Maximum stride of a convolution: that of residual networks, and what the tests cover."""


def use_kernels(
    graph: GraphModule, *inputs: Tensor, kinds: Collection[str] = KINDS, tf32: bool | None = None
) -> int:
    """Replace operations of a graph by calls of Triton kernels, which need a GPU.

    Only convolutions of channels-last images are replaced (``triton_kernels.convolve``). Do it
    before memory is reused (``reuse_memory``), which hides operations in others.

    Args:
        graph: is changed.
        inputs: of the shapes that it was captured with.
        kinds: of kernels to use.
        tf32: round factors of float32 to TF32; as cuDNN may do now if None.

    Returns:
        The number of calls.

    Raises:
        SettingsError: Triton is not installed.
    """
    operations = _operations()
    allowed = torch.backends.cudnn.allow_tf32 if tf32 is None else tf32
    rewriter = _Rewriter(graph, Storages(graph, *inputs), operations, kinds, allowed)
    return rewriter.run()


def _operations() -> ModuleType:
    """Import the operations, for which Triton is needed."""
    try:
        from capecam.attribution.graph import kernel_operations  # noqa: PLC0415 Triton is optional
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "triton":
            raise
        raise SettingsError(
            "Triton is not installed, and the kernels are written in it; pip install triton, or "
            "leave the kernels out"
        ) from error
    return kernel_operations


class _Rewriter:
    """Finds chains of operations, and replaces each by one call."""

    def __init__(
        self,
        graph: GraphModule,
        storages: Storages,
        operations: Any,
        kinds: Collection[str],
        tf32: bool,
    ) -> None:
        self._graph, self._storages, self._operations = graph, storages, operations
        self._kinds, self._tf32 = kinds, tf32
        self._constants = Constants(graph)
        self._weights: dict[object, Node] = {}
        self._replaced: dict[Node, Node] = {}

    def run(self) -> int:
        """Replace all chains, and return their number."""
        order = {node: i for i, node in enumerate(self._graph.graph.nodes)}
        chains = Chains(self._graph, self._storages, self._accepts, self._operations.TYPES)
        found = list(chains.convolutions())
        if MASKS in self._kinds:
            found += chains.masks()
        for chain in sorted(found, key=lambda chain: order[chain.end]):
            self._replace(chain)
        self._graph.graph.eliminate_dead_code()
        self._graph.recompile()
        return len(found)

    def _accepts(self, node: Node) -> bool:
        """Return True for a convolution that there is a kernel for, or a fixed batch norm."""
        if norm := read_batch_norm(node):
            return self._constants.are_known(*norm.parameters)
        conv = read_convolution(node)
        if conv is None or (DENSE if conv.groups == 1 else GROUPED) not in self._kinds:
            return False
        weight, x = self._constants.value(conv.weight), self._storages.tensor(node.args[0])
        if weight is None or x is None or weight.dtype != x.dtype or x.ndim != 4:
            return False
        shape = weight.shape
        plain = conv.padding == shape[-1] // 2 and conv.stride <= STRIDES
        known: bool = self._operations.has_kernel(shape, conv.groups)
        return plain and known and self._constants.are_known(conv.bias)

    def _replace(self, chain: Chain) -> None:
        """Put one call in the place of a chain's last operation."""
        with self._graph.graph.inserting_before(chain.end):
            conv = read_convolution(chain.nodes[0])
            call = self._mask(chain) if conv is None else self._convolve(chain, conv)
        call.meta.update(chain.end.meta)
        self._replaced[chain.end] = call
        chain.end.replace_all_uses_with(call)
        for node in reversed(chain.nodes):
            self._graph.graph.erase_node(node)

    def _convolve(self, chain: Chain, conv: Convolution) -> Node:
        result = self._storages.tensor(chain.end)
        if result is None:
            raise TypeError(f"{chain.end} is not a tensor")
        scale, shift = self._factors(chain.norm, conv.bias)
        return self._graph.graph.call_function(
            torch.ops.capecam.convolve.default,
            (
                self._now(chain.x),
                self._weight(conv),
                list(result.shape[2:]),
                conv.stride,
                conv.transposed,
                scale,
                shift,
                self._now(chain.other),
                self._now(chain.mask),
                chain.relu,
                self._tf32,
            ),
        )

    def _mask(self, chain: Chain) -> Node:
        return self._graph.graph.call_function(
            torch.ops.capecam.mask_gradient.default,
            (self._now(chain.x), self._now(chain.other), self._now(chain.mask), chain.relu),
        )

    def _now(self, node: Node | None) -> Node | None:
        """Return the node that computes what a node computed before."""
        return None if node is None else self._replaced.get(node, node)

    def _weight(self, conv: Convolution) -> Node:
        """Return the packed weight; calls share it."""
        key = (conv.weight.target if conv.weight.op == "get_attr" else conv.weight, conv.transposed)
        if key not in self._weights:
            weight = self._constants.tensor(conv.weight)
            packed = self._operations.packed_weight(weight, conv.groups, conv.transposed)
            self._weights[key] = self._constants.add(packed)
        return self._weights[key]

    def _factors(
        self, norm: BatchNorm | None, bias: Node | None
    ) -> tuple[Node | None, Node | None]:
        """Return the factor and the summand of every channel, for batch norm and bias."""
        if norm is not None:
            factor, shift = norm.factors(self._constants, bias)
            return self._constants.add(factor.float()), self._constants.add(shift.float())
        if bias is None:
            return None, None
        return None, self._constants.add(self._constants.tensor(bias).float())
