"""Inspect a network by autograd's graph of one forward.

The graph shows which modules run, in which order and on whose output, whatever they are called; and
functional calls, which no list of modules has.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

NOT_RELU = (
    "Celu", "Clamp", "ClampMin", "Elu", "Gelu", "Glu", "Hardsigmoid", "Hardswish", "Hardtanh",
    "LeakyRelu", "LogSigmoid", "Mish", "Prelu", "PreluKernel", "RreluWithNoise", "Silu", "Softplus",
    "Softshrink", "Threshold",
)  # fmt: skip
"""Activations for which guided backpropagation is not defined, as autograd's nodes name them.
Sigmoid and softmax are not listed: as gates (squeeze-and-excitation) they are no activation."""

PROBE_PX = 128
"""Edge of the tile with which a network is inspected; the strides of all encoders divide it."""


class _Call(NamedTuple):
    """One call of a module."""

    module: nn.Module
    source: Node | None
    """Node that computed its input."""
    result: Node | None
    """Node that computed its output."""


def why_not_guided(network: nn.Module) -> str | None:
    """Explain why a network has no guided gradient; None if every activation is an ``nn.ReLU``."""
    calls, root = _watch(network, lambda module: isinstance(module, nn.ReLU))
    names = [re.sub(r"Backward\d*$", "", node.name()) for node in _nodes(root)]
    others = sorted(set(names) & set(NOT_RELU))
    if others:
        return f"the network uses {', '.join(others)} where a ReLU is needed"
    functional = names.count("Relu") - len(calls)
    if functional > 0:
        return (
            f"{functional} of the network's {names.count('Relu')} ReLUs are functional calls, "
            "not nn.ReLU"
        )
    return None if calls else "the network has no ReLU"


def executed_modules(
    network: nn.Module, interesting: Callable[[nn.Module], bool]
) -> list[nn.Module]:
    """Return the interesting modules in the order of their calls in one forward."""
    return [call.module for call in _watch(network, interesting)[0]]


def normed_convolutions(network: nn.Module) -> dict[nn.Conv2d, nn.BatchNorm2d]:
    """Return each convolution whose output is read by one batch norm alone.

    A hooked target layer is none of them: its batch norm reads the copy that the hook returns.
    """
    # Subclasses may do more (standardise weights, activate), so exact types only.
    calls, root = _watch(network, lambda module: type(module) in (nn.Conv2d, nn.BatchNorm2d))
    times = Counter(call.module for call in calls)
    readers = Counter(parent for node in _nodes(root) for parent in _parents(node))
    by_result = {
        call.result: call.module
        for call in calls
        if isinstance(call.module, nn.Conv2d)
        and call.result is not None
        and times[call.module] == readers[call.result] == 1
    }
    return {
        by_result[call.source]: call.module
        for call in calls
        if isinstance(call.module, nn.BatchNorm2d)
        and call.module.running_var is not None
        and times[call.module] == 1
        and call.source in by_result
    }


@torch.enable_grad()
def _watch(
    network: nn.Module, interesting: Callable[[nn.Module], bool]
) -> tuple[list[_Call], Node | None]:
    """Run one forward; return the calls of interesting modules, and the root of its graph."""
    calls: list[_Call] = []
    parameter = next(network.parameters())
    pixels = torch.zeros(1, 3, PROBE_PX, PROBE_PX, dtype=parameter.dtype, device=parameter.device)

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append(_Call(module, inputs[0].grad_fn, output.grad_fn))

    with _hooked([m for m in network.modules() if interesting(m)], record):
        logits = network(pixels.requires_grad_())
    return calls, logits.grad_fn


@contextmanager
def _hooked(modules: list[nn.Module], hook: Callable[..., None]) -> Iterator[None]:
    """Register a forward hook before all others inside the context."""
    handles = [module.register_forward_hook(hook, prepend=True) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _nodes(root: Node | None) -> set[Node]:
    """Return all nodes of a graph."""
    nodes: set[Node] = set()
    stack = [root] if root is not None else []
    while stack:
        node = stack.pop()
        if node not in nodes:
            nodes.add(node)
            stack.extend(_parents(node))
    return nodes


def _parents(node: Node) -> Iterator[Node]:
    return (parent for parent, _ in node.next_functions if parent is not None)
