"""Find out which tensors of a graph share memory, and when each memory is read last."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses import FakeTensorMode
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree


class Storages:
    """The memory of all tensors of a graph, found by running it without values.

    Args:
        graph: as captured.
        inputs: of the shapes that it was captured with.
    """

    def __init__(self, graph: GraphModule, *inputs: Tensor) -> None:
        self._results: dict[Node, object] = {}
        self._makers: dict[int, Node] = {}
        self._last: dict[int, Node] = {}
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        with mode:
            _Recorder(graph, self._results).run(*(mode.from_tensor(x) for x in inputs))
        for node in graph.graph.nodes:
            for storage in self._of(node):
                self._makers.setdefault(storage, node)
            for read in node.all_input_nodes:
                self._last.update(dict.fromkeys(self._of(read), node))

    def tensor(self, node: object) -> Tensor | None:
        """Return a tensor of no values like that of a node; None if it is no tensor."""
        result = self._results.get(node) if isinstance(node, Node) else None
        return result if isinstance(result, Tensor) else None

    def ends_at(self, value: Node, node: Node) -> bool:
        """Return True if all memory of a value is the graph's own, and ``node`` reads it last."""
        tensor = self.tensor(value)
        if tensor is None:
            return False
        storage = tensor.untyped_storage()
        return (
            self._last[storage._cdata] is node
            and self._makers[storage._cdata].op == "call_function"
            and storage.nbytes() == tensor.numel() * tensor.element_size()
        )

    def overlap(self, one: Node, other: Node) -> bool:
        """Return True if two values share memory."""
        return bool(self._of(one) & self._of(other))

    def _of(self, node: Node) -> set[int]:
        leaves = pytree.tree_leaves(self._results.get(node))
        return {x.untyped_storage()._cdata for x in leaves if isinstance(x, Tensor)}


class _Recorder(Interpreter):
    """Keeps what every node of a graph returns."""

    def __init__(self, graph: GraphModule, results: dict[Node, object]) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self._results = results

    def run_node(self, n: Node) -> object:
        """Run a node, and keep its result."""
        self._results[n] = super().run_node(n)
        return self._results[n]


def alike(one: Tensor, other: Tensor) -> bool:
    """Return True for tensors of one shape, type and layout."""
    return (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())


aten = torch.ops.aten

_IN_PLACE: dict[object, OpOverload] = {
    aten.add.Tensor: aten.add_.Tensor,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.div.Tensor: aten.div_.Tensor,
    aten.relu.default: aten.relu_.default,
    aten.threshold_backward.default: aten.threshold_backward.grad_input,
}

_COMMUTATIVE = (aten.add.Tensor, aten.mul.Tensor)


def reuse_memory(graph: GraphModule, *inputs: Tensor) -> int:
    """Let operations by element write into memory that is read there for the last time.

    On a CPU, memory that was just allocated has to be paged in, and reading and writing one place
    is half the traffic. The results are the same, bit for bit.

    Args:
        graph: is changed.
        inputs: of the shapes that it was captured with.

    Returns:
        The number of operations that were changed.
    """
    storages, count = Storages(graph, *inputs), 0
    for node in graph.graph.nodes:
        if node.target in _IN_PLACE:
            places = (0, 1) if node.target in _COMMUTATIVE else (0,)
            place = next((place for place in places if _fits(node, place, storages)), None)
            if place is not None:
                _write_in_place(node, place)
                count += 1
    graph.recompile()
    return count


def _fits(node: Node, place: int, storages: Storages) -> bool:
    """Return True if the result of a node can take the memory of one of its operands."""
    value, result = node.args[place], storages.tensor(node)
    if not isinstance(value, Node) or result is None or node.kwargs:
        return False
    operand = storages.tensor(value)
    if operand is None or not alike(operand, result) or not storages.ends_at(value, node):
        return False
    others = [x for i, x in enumerate(node.args) if i != place and isinstance(x, Node)]
    return not any(storages.overlap(value, other) for other in others)


def _write_in_place(node: Node, place: int) -> None:
    value = node.args[place]
    if node.target is aten.threshold_backward.default:
        node.kwargs = {"grad_input": value}
    elif place:
        node.args = (value, node.args[0])
    node.target = _IN_PLACE[node.target]
