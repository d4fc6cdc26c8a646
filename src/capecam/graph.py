"""What autograd's graph of one forward tells about a network.

It also shows functional calls, which no list of modules names.
"""

from __future__ import annotations

import re

from torch.autograd.graph import Node

NOT_RELU = (
    "Celu", "Clamp", "ClampMin", "Elu", "Gelu", "Glu", "Hardsigmoid", "Hardswish", "Hardtanh",
    "LeakyRelu", "LogSigmoid", "Mish", "Prelu", "PreluKernel", "RreluWithNoise", "Silu", "Softplus",
    "Softshrink", "Threshold",
)  # fmt: skip
"""Activations for which guided backpropagation is not defined, as autograd's nodes name them.
Sigmoid and softmax are left out: as gates (squeeze-and-excitation) they are no activation."""


def not_only_relu(root: Node | None, hooked: int) -> str | None:
    """Why a network has no guided gradient, or None: every activation must be an ``nn.ReLU``.

    Args:
        root: of the graph from pixels to logits.
        hooked: how many ``nn.ReLU`` modules have run.
    """
    names = [re.sub(r"Backward\d*$", "", node.name()) for node in nodes(root)]
    others = sorted(set(names) & set(NOT_RELU))
    if others:
        return f"the network uses {', '.join(others)} where a ReLU is needed"
    relus = names.count("Relu")
    if relus > hooked:
        return f"{relus - hooked} of the network's {relus} ReLUs are functional calls, not nn.ReLU"
    return None if relus else "the network has no ReLU"


def nodes(root: Node | None) -> set[Node]:
    """Every node of a graph."""
    seen: set[Node] = set()
    stack = [root] if root is not None else []
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack.extend(parent for parent, _ in node.next_functions if parent is not None)
    return seen
