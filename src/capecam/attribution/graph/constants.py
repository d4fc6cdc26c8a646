"""What a captured graph computes from its weights alone."""

from __future__ import annotations

from itertools import count
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from capecam.attribution.graph.operations import Writes, is_pure


class Constants:
    """Values of a graph that do not depend on its inputs, each computed when it is asked for.

    Args:
        graph: as captured; nodes may be added to it and removed.
    """

    def __init__(self, graph: GraphModule) -> None:
        self._graph, self._writes = graph, Writes(graph)
        self._values: dict[Node, Any] = {}

    def value(self, node: Node) -> Any:
        """Return the result of a node; None if it depends on the inputs, or may be changed."""
        if node not in self._values:
            self._values[node] = None if self._writes.change(node) else self._computed(node)
        return self._values[node]

    def tensor(self, node: Node) -> Tensor:
        """Return the value of a node that is known to be a constant tensor.

        Raises:
            TypeError: it is none.
        """
        value = self.value(node)
        if not isinstance(value, Tensor):
            raise TypeError(f"{node} is not a constant tensor of the graph")
        return value

    def are_known(self, *nodes: Node | None) -> bool:
        """Return True if all nodes, but for those that are None, are constant tensors."""
        return all(node is None or isinstance(self.value(node), Tensor) for node in nodes)

    def add(self, value: Tensor) -> Node:
        """Insert a new constant where the graph inserts now, and return its node."""
        name = next(name for i in count() if not hasattr(self._graph, name := f"_constant{i}"))
        self._graph.register_buffer(name, value, persistent=False)
        node = self._graph.graph.get_attr(name)
        self._values[node] = value
        return node

    @torch.no_grad()
    def _computed(self, node: Node) -> Any:
        if node.op == "get_attr":
            found = attrgetter(str(node.target))(self._graph)
            return found.detach() if isinstance(found, Tensor) else None
        if node.op != "call_function" or not is_pure(node):
            return None
        values = {operand: self.value(operand) for operand in node.all_input_nodes}
        if any(value is None for value in values.values()):
            return None
        args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
        return node.target(*args, **kwargs)  # type: ignore[operator]
