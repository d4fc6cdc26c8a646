"""Inspect a network by autograd's graph of one forward.

The graph shows which modules run, in which order and on whose output, whatever they are called; and
functional calls, which no list of modules has.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from capecam.errors import SettingsError

NOT_RELU = (
    "Celu", "Clamp", "ClampMin", "Elu", "Gelu", "Glu", "Hardsigmoid", "Hardswish", "Hardtanh",
    "LeakyRelu", "LogSigmoid", "Mish", "Prelu", "PreluKernel", "RreluWithNoise", "Silu", "Softplus",
    "Softshrink", "Threshold",
)  # fmt: skip
"""Activations for which guided backpropagation is not defined, as autograd's nodes name them.
Sigmoid and softmax are not listed: as gates (squeeze-and-excitation) they are no activation."""

VALUES_KEPT = (
    "Alias", "Clone", "Expand", "Permute", "PixelShuffle", "Reshape", "Select", "Slice", "Squeeze",
    "ToCopy", "Transpose", "Unsqueeze", "UnsafeView", "Upsample", "View",
)  # fmt: skip
"""Operations after which values mean what they did before, as the names of nodes begin."""

PROBE_PX = 128
"""Edge of the tile with which a network is inspected; the strides of all encoders divide it."""

FIXED_PX = (224, 256, 320, 384, 512)
"""Edges that are tried if a network refuses that one."""

REFUSALS = RuntimeError, ValueError, AssertionError
"""Errors with which networks refuse a tile's size."""


class Output(NamedTuple):
    """A tensor that a module returned, without its values."""

    node: Node | None
    """Node that computed it; None if it does not depend on the pixels."""
    shape: tuple[int, ...]


class Call(NamedTuple):
    """One call of a module."""

    module: nn.Module
    source: Node | None
    """Node that computed its input."""
    outputs: tuple[Output, ...]
    """The tensor that it returned, or those in a list, tuple or mapping."""

    @property
    def result(self) -> Node | None:
        """Node that computed its output, if that is one tensor."""
        return self.outputs[0].node if len(self.outputs) == 1 else None


class Trace(NamedTuple):
    """One forward of a network."""

    calls: list[Call]
    """Calls of the modules that were watched, in the order in which they returned."""
    root: Node | None
    """Node that computed the logits."""
    size: int
    """Edge of the tile."""


def why_not_guided(network: nn.Module) -> str | None:
    """Explain why a network has no guided gradient; None if every activation is an ``nn.ReLU``."""
    calls, root, _ = trace_forward(network, lambda module: isinstance(module, nn.ReLU))
    names = [operation(node) for node in ancestors(root)]
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


def normed_convolutions(network: nn.Module) -> dict[nn.Conv2d, nn.BatchNorm2d]:
    """Return each convolution whose output is read by one batch norm alone.

    A hooked target layer is none of them: its batch norm reads the copy that the hook returns.
    """
    # Subclasses may do more (standardise weights, activate), so exact types only.
    calls, root, _ = trace_forward(network, lambda m: type(m) in (nn.Conv2d, nn.BatchNorm2d))
    times = Counter(call.module for call in calls)
    readers = Counter(parent for node in ancestors(root) for parent in _parents(node))
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


def sizes(network: nn.Module, preferred: int = PROBE_PX) -> Iterator[int]:
    """Yield edges of tiles that a network may take: transformers may be built for one alone."""
    built_for = (getattr(module, "img_size", None) for module in network.modules())
    yield from (preferred, *(size[0] for size in built_for if isinstance(size, tuple)), *FIXED_PX)


def why_not_size(network: nn.Module, size: int) -> str | None:
    """Explain why a network refuses tiles of a size; None if it takes them."""
    try:
        with torch.no_grad():
            network(black_tile(network, size))
    except REFUSALS as error:
        return shortened(error)
    return None


def trace_forward(network: nn.Module, interesting: Callable[[nn.Module], bool]) -> Trace:
    """Run one forward, and note the calls of interesting modules.

    Raises:
        SettingsError: the network takes tiles of none of the sizes that are tried.
    """
    reasons = []
    for size in sizes(network):
        try:
            return _trace(network, interesting, size)
        except REFUSALS as error:
            reasons.append(shortened(error))
    raise SettingsError(f"the network takes no tile: {reasons[0]}; correct model.options")


@torch.enable_grad()
def _trace(network: nn.Module, interesting: Callable[[nn.Module], bool], size: int) -> Trace:
    calls: list[Call] = []

    def record(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        sources = [x.grad_fn for x in tensors_in(inputs)]
        outputs = (Output(x.grad_fn, tuple(x.shape)) for x in tensors_in(output))
        calls.append(Call(module, sources[0] if sources else None, tuple(outputs)))

    with _evaluating(network), _hooked([*filter(interesting, network.modules())], record):
        logits = network(black_tile(network, size).requires_grad_())
    return Trace(calls, logits.grad_fn, size)


def black_tile(network: nn.Module, size: int) -> Tensor:
    """Return an input (1, 3, size, size) of 0, of the network's type and on its device."""
    parameter = next(network.parameters())
    return torch.zeros(1, 3, size, size, dtype=parameter.dtype, device=parameter.device)


def shortened(error: Exception) -> str:
    """Return the message of an error as one line."""
    return " ".join(str(error).split())[:200]


def tensors_in(value: object) -> list[Tensor]:
    """Return the tensors in a module's inputs or output, however they are nested."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = tuple(value.values())
    parts = value if isinstance(value, (list, tuple)) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


@contextmanager
def _hooked(modules: list[nn.Module], hook: Callable[..., None]) -> Iterator[None]:
    """Register a forward hook before all others inside the context."""
    handles = [module.register_forward_hook(hook, prepend=True) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into eval mode inside the context, so that a forward changes no statistics."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def ancestors(root: Node | None) -> set[Node]:
    """Return all nodes of a graph that ends in one."""
    return set() if root is None else _reachable(root, _parents)


def _reachable(first: Node, following: Callable[[Node], Iterable[Node]]) -> set[Node]:
    nodes: set[Node] = set()
    stack = [first]
    while stack:
        node = stack.pop()
        if node not in nodes:
            nodes.add(node)
            stack.extend(following(node))
    return nodes


def original(node: Node | None) -> Node | None:
    """Return the node whose output a node copies (``contiguous``), or the node itself."""
    while node is not None and node.name().startswith("Clone"):
        node = next(_parents(node), None)
    return node


def last_operation(node: Node | None) -> str:
    """Return the name of the operation that computed the values which nodes up to this one
    resample, reshape or select; "" if there is none."""
    while node is not None and node.name().startswith(VALUES_KEPT):
        node = next(_parents(node), None)
    return "" if node is None else operation(node)


def operation(node: Node) -> str:
    """Return the name of a node's operation, such as ``Relu`` of ``ReluBackward0``."""
    return re.sub(r"Backward\d*$", "", node.name())


def _parents(node: Node) -> Iterator[Node]:
    return (parent for parent, _ in node.next_functions if parent is not None)
