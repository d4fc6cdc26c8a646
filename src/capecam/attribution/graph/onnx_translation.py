"""Translate a captured graph into ONNX, for batches of any number of tiles.

A graph is captured for one batch. Here it is captured for two and for three tiles: sizes that
differ follow the batch, all else is fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functionalize
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from capecam.attribution.graph.capture import capture
from capecam.attribution.graph.decompositions import decompositions
from capecam.attribution.graph.onnx_call import Call
from capecam.attribution.graph.onnx_graph import OnnxGraph, Size, Tiles, Value
from capecam.attribution.graph.onnx_operators import SHAPED, WRITERS
from capecam.errors import SettingsError

COUNTS = (2, 3)
"""Numbers of tiles of the two captures; axes of one element would broadcast."""


def forward_graph(function: Callable[..., object], *inputs: Tensor) -> GraphModule:
    """Capture a computation with its backward passes as a graph of forward operations alone.

    Args:
        function: returns tensors, in tuples or dicts.
        inputs: of the function.

    Returns:
        A module without operations in place, and without backward operations but those that
        ``onnx_operators`` writes.
    """
    graph = functionalize(capture(function, *inputs))
    graph = make_fx(graph, decomposition_table=decompositions())(*inputs)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def translate(
    graphs: Sequence[GraphModule], names: Sequence[str]
) -> tuple[OnnxGraph, list[Value | Tensor]]:
    """Write a graph of forward operations as ONNX.

    Args:
        graphs: the same computation, captured with ``COUNTS`` tiles.
        names: of its inputs.

    Returns:
        The graph, without inputs and outputs, and the results in the order of the graph's.

    Raises:
        SettingsError: an operation has no form in ONNX here, or depends on the number of tiles.
    """
    first, second = (list(graph.graph.nodes) for graph in graphs)
    if [node.target for node in first] != [node.target for node in second]:
        raise SettingsError("the network computes differently for 2 and for 3 tiles; use Engine")
    return _Translation(OnnxGraph(names[0]), graphs[0], names).run(first, second)


class _Translation:
    """Values of the nodes that have been translated."""

    def __init__(self, g: OnnxGraph, graph: GraphModule, names: Sequence[str]) -> None:
        self._g, self._graph, self._names = g, graph, list(names)
        self._values: dict[Node, Any] = {}

    def run(
        self, first: Sequence[Node], second: Sequence[Node]
    ) -> tuple[OnnxGraph, list[Value | Tensor]]:
        for node, other in zip(first, second, strict=True):
            if node.op == "output":
                results = torch.utils._pytree.tree_leaves(self._filled(node.args[0]))
                return self._g, results
            self._check_fixed(node, other)
            self._values[node] = self._translated(node, _shape(node, other))
        raise ValueError("the graph has no output")

    def _check_fixed(self, node: Node, other: Node) -> None:
        """Raise if an argument follows the batch where only the result's shape may."""
        if _operation(node) in SHAPED:
            return
        mine, theirs = (torch.utils._pytree.tree_leaves((n.args, n.kwargs)) for n in (node, other))
        pairs = zip(mine, theirs, strict=True)
        if any(a != b for a, b in pairs if not isinstance(a, Node)):
            raise SettingsError(
                f"the network's operation {_operation(node)} mixes the tiles of a batch; use Engine"
            )

    def _translated(self, node: Node, shape: tuple[Size, ...]) -> Any:
        if node.op == "placeholder":
            return Value(self._names.pop(0), node.meta["val"].dtype, shape)
        if node.op == "get_attr":
            return getattr(self._graph, str(node.target))
        args, kwargs = self._filled(node.args), self._filled(node.kwargs)
        if _is_known(args, kwargs, shape):
            return node.target(*args, **kwargs)  # type: ignore[operator]
        name = _operation(node)
        if name not in WRITERS:
            raise SettingsError(f"the network's operation {name} has no form in ONNX; use Engine")
        meta = node.meta["val"]
        dtype = meta.dtype if isinstance(meta, Tensor) else None
        read = frozenset(int(user.args[1]) for user in node.users if _operation(user) == "getitem")  # type: ignore[arg-type]
        try:
            result = WRITERS[name](self._g, Call(args, dict(kwargs), dtype, shape, read))
        except NotImplementedError as error:
            raise SettingsError(f"{error} has no form in ONNX here; use Engine") from error
        return self._named(result, meta, shape)

    def _named(self, result: Any, meta: Any, shape: tuple[Size, ...]) -> Any:
        """Give a result, or each of a tuple, the type and shape of its node."""
        if isinstance(meta, (tuple, list)):
            # Shapes of other results than the first are not read.
            return tuple(
                None if r is None else self._named(r, m, _following(m, shape))
                for r, m in zip(result, meta, strict=True)
            )
        return Value(result, meta.dtype, shape) if isinstance(result, str) else result

    def _filled(self, args: Any) -> Any:
        """Put values in the place of nodes."""
        return torch.utils._pytree.tree_map(
            lambda x: self._values[x] if isinstance(x, Node) else x, args
        )


def _operation(node: Node) -> str:
    """Return the name of a node's operation, without its overload."""
    name = getattr(node.target, "__name__", str(node.target))
    return str(name).partition(".")[0]


def _is_known(args: Any, kwargs: Any, shape: tuple[Size, ...]) -> bool:
    """Return True if a result depends neither on inputs nor on the number of tiles."""
    leaves = torch.utils._pytree.tree_leaves((args, kwargs))
    follows = any(isinstance(size, Tiles) for size in shape)
    return not follows and not any(isinstance(leaf, Value) for leaf in leaves)


def _shape(node: Node, other: Node) -> tuple[Size, ...]:
    """Return the shape of a node's result, or of the first of several."""
    shapes = [_first(n.meta.get("val")) for n in (node, other)]
    return tuple(_size(n, m) for n, m in zip(*shapes, strict=True))


def _first(meta: Any) -> tuple[int, ...]:
    if isinstance(meta, (tuple, list)):
        return _first(meta[0])
    return tuple(meta.shape) if isinstance(meta, Tensor) else ()


def _size(n: int, m: int) -> Size:
    """Return the size of an axis that has n elements for two tiles, and m for three."""
    if n == m:
        return n
    multiple = m - n
    if n != COUNTS[0] * multiple:
        raise SettingsError(f"an axis has {n} elements for 2 tiles, and {m} for 3; use Engine")
    return Tiles(multiple)


def _following(meta: Any, shape: tuple[Size, ...]) -> tuple[Size, ...]:
    """Return the shape of another result of an operation whose first follows the batch."""
    if not isinstance(meta, Tensor):
        return ()
    follows = [isinstance(size, Tiles) for size in shape[:1]] == [True]
    return (Tiles(meta.shape[0] // COUNTS[0]), *meta.shape[1:]) if follows else tuple(meta.shape)
