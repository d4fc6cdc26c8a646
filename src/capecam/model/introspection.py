"""What autograd's graph of one forward tells about a network.

It shows what runs, in which order and what reads what, whatever the modules are called; and
functional calls, which no list of modules names.
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
Sigmoid and softmax are left out: as gates (squeeze-and-excitation) they are no activation."""

PROBE_PX = 128
"""Edge of the tile with which a network is looked over; the strides of all encoders divide it."""


class _Call(NamedTuple):
    """One run of a module."""

    module: nn.Module
    source: Node | None
    """What made its input."""
    result: Node | None
    """What made its output."""


def why_not_guided(network: nn.Module) -> str | None:
    """Why a network has no guided gradient, or None: every activation must be an ``nn.ReLU``."""
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
    """The interesting modules in the order in which a forward runs them, each as often."""
    return [call.module for call in _watch(network, interesting)[0]]


def normed_convolutions(network: nn.Module) -> dict[nn.Conv2d, nn.BatchNorm2d]:
    """Every convolution whose output one batch norm reads, and nothing else.

    Not a hooked target layer whose hook hands on a copy: the batch norm then reads the copy.
    """
    # Subclasses may do more (standardise weights, activate), so exact types only.
    calls, root = _watch(network, lambda module: type(module) in (nn.Conv2d, nn.BatchNorm2d))
    times = Counter(call.module for call in calls)
    readers = Counter(parent for node in _nodes(root) for parent in _parents(node))
    made_by = {
        call.result: call.module
        for call in calls
        if isinstance(call.module, nn.Conv2d)
        and call.result is not None
        and times[call.module] == readers[call.result] == 1
    }
    return {
        made_by[call.source]: call.module
        for call in calls
        if isinstance(call.module, nn.BatchNorm2d)
        and call.module.running_var is not None
        and times[call.module] == 1
        and call.source in made_by
    }


@torch.enable_grad()
def _watch(
    network: nn.Module, interesting: Callable[[nn.Module], bool]
) -> tuple[list[_Call], Node | None]:
    """The runs of interesting modules in one forward, and the root of its graph."""
    calls: list[_Call] = []
    parameter = next(network.parameters())
    pixels = torch.zeros(1, 3, PROBE_PX, PROBE_PX, dtype=parameter.dtype, device=parameter.device)

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append(_Call(module, inputs[0].grad_fn, output.grad_fn))

    with _hooked([m for m in network.modules() if interesting(m)], note):
        logits = network(pixels.requires_grad_())
    return calls, logits.grad_fn


@contextmanager
def _hooked(modules: list[nn.Module], hook: Callable[..., None]) -> Iterator[None]:
    """A forward hook before all others, and none afterwards."""
    handles = [module.register_forward_hook(hook, prepend=True) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _nodes(root: Node | None) -> set[Node]:
    """Every node of a graph."""
    seen: set[Node] = set()
    stack = [root] if root is not None else []
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(_parents(node))
    return seen


def _parents(node: Node) -> Iterator[Node]:
    return (parent for parent, _ in node.next_functions if parent is not None)
