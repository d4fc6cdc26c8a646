"""Steps from a captured graph to what is replayed, by name and in their order.

What each is worth on a GPU is not measured yet (docs/performance.md); benchmarks/graph_steps.py
measures each alone and all together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from capecam.attribution.comparison import map_error
from capecam.attribution.graph.capture import capture
from capecam.attribution.graph.cuda_graph import CudaGraph
from capecam.attribution.graph.network_passes import fold_batch_norms, use_channels_last
from capecam.attribution.graph.passes import compute_constants, share_equal
from capecam.attribution.graph.storage import reuse_memory
from capecam.attribution.maps import Explanation
from capecam.attribution.methods import GUIDED
from capecam.errors import SettingsError

Replay = Callable[..., Any]
Inputs = tuple[Tensor, ...]

TOLERANCE = {"fp32": 1e-4}
"""Maximum of 1 - correlation of a class's maps with autograd's, where a step rounds differently."""

TOLERANCE_OF_OTHERS = 0.01
"""The same of other precisions, which ``autotune.MIN_CORRELATION`` asks of them, too. With the
sample model folding lost .0032 in bf16 and .0012 in fp16, and channels-last .0011 and .0002
(4 tiles of 192 px on a CPU); in float32 channels-last lost less than 1e-6."""

GATED = ("gradcam", "gradcampp", GUIDED)
"""Maps that the tolerance is for. Others divide by small sums: with 16 bits XGrad-CAM of the sample
model loses .3 of its correlation whoever computes it."""


@dataclass(frozen=True, slots=True)
class Step:
    """A change of a graph."""

    name: str
    does: str
    """A sentence for people."""
    is_exact: bool
    """True if no bit of the results may change."""
    change: Callable[[GraphModule, Inputs], Replay]
    """Takes a graph and its inputs, and returns the graph or what replays it."""


def _constants(graph: GraphModule, inputs: Inputs) -> Replay:
    compute_constants(graph, *inputs)
    share_equal(graph, *inputs)
    return graph


def _folded(graph: GraphModule, inputs: Inputs) -> Replay:
    fold_batch_norms(graph, *inputs)
    return graph


def _channels_last(graph: GraphModule, inputs: Inputs) -> Replay:
    use_channels_last(graph, *inputs)
    return graph


def _kernels(graph: GraphModule, inputs: Inputs) -> Replay:
    try:  # Triton may not be installed, and is imported only if it is asked for
        module = import_module("capecam.attribution.graph.kernel_substitution")
    except ImportError as error:
        raise SettingsError(f"the step kernels is not possible: {error}; leave it out") from error
    module.use_kernels(graph, *inputs)
    return graph


def _inductor(graph: GraphModule, inputs: Inputs) -> Replay:
    """Compile the graph as it is: no gradient is left for the compiler to take.

    What ``torch.compile`` made of gradients was silently wrong (pytorch#136662, #173883).
    """
    structure = list[pytree.TreeSpec]()

    def flat(*tensors: Tensor) -> list[Any]:
        leaves, spec = pytree.tree_flatten(graph(*tensors))
        structure.append(spec)
        return leaves

    compiled = torch.compile(capture(flat, *inputs), fullgraph=True, dynamic=False)

    def replay(*tensors: Tensor) -> Any:
        with torch.no_grad():
            return pytree.tree_unflatten(compiled(*tensors), structure[0])

    return replay


STEPS = (
    Step("folded", "Batch norms go into convolutions of 16 bits.", False, _folded),
    Step("constants", "What depends on weights alone is computed once.", True, _constants),
    Step("channels_last", "Convolutions work channels-last.", False, _channels_last),
    Step("kernels", "Triton kernels replace chains of operations.", False, _kernels),
    Step("inductor", "Operations by element are fused by a compiler.", False, _inductor),
)
"""Steps in the order in which they are taken; ``cuda_graph`` comes last."""

LAYOUT_STEPS = {"channels_last", "kernels"}
"""Steps after which only a run tells which tensors share memory."""

CUDA_GRAPH = "cuda_graph"
"""Step in which the kernels are recorded, and launched together."""

ON_CUDA = ("constants", CUDA_GRAPH)
"""Steps on a GPU if none are named: those that change no bit."""

NAMES = (*(step.name for step in STEPS), CUDA_GRAPH)


def default_steps(device: torch.device) -> tuple[str, ...]:
    """Return the names of the steps to take on a device."""
    return ON_CUDA if device.type == "cuda" else ()


def check_steps(names: Iterable[str], device: torch.device) -> None:
    """Raise if a step does not exist, or not on this device.

    Raises:
        SettingsError: with the name.
    """
    for name in names:
        if name not in NAMES:
            raise SettingsError(f"step must be one of {', '.join(NAMES)}, got {name!r}")
        if name == CUDA_GRAPH and device.type != "cuda":
            raise SettingsError(f"the step {name} needs a GPU, got device {device}; leave it out")


def take_steps(
    names: Sequence[str], graph: GraphModule, inputs: Inputs, pool: Any = None
) -> Replay:
    """Take steps, in their own order, and return what replays the graph.

    Args:
        names: of the steps.
        graph: as captured; is changed.
        inputs: of the shapes that it was captured with.
        pool: see :class:`CudaGraph`.
    """
    replay: Replay = graph
    for step in STEPS:
        if step.name in names:
            replay = step.change(graph, inputs)
    if isinstance(replay, GraphModule) and _reuses_memory(names, inputs):
        reuse_memory(replay, *inputs)
    return CudaGraph(replay, inputs, pool) if CUDA_GRAPH in names else replay


def _reuses_memory(names: Iterable[str], inputs: Inputs) -> bool:
    """Return True if operations may write over what they read: on a CPU, which it is for."""
    return all(x.device.type == "cpu" for x in inputs) and not LAYOUT_STEPS & set(names)


def tolerance(names: Iterable[str], precision: str) -> float:
    """Return the maximum of :func:`correlation_lost`; 0 if every result has to be equal."""
    if all(step.is_exact for step in STEPS if step.name in set(names)):
        return 0.0
    return TOLERANCE.get(precision, TOLERANCE_OF_OTHERS)


def correlation_lost(found: Explanation, expected: Explanation) -> float:
    """Return 1 - correlation of ``GATED`` maps, or of all without them, where it is largest.

    Values that are not finite are as far off as can be.
    """
    names = [name for name in GATED if name in expected.heat] or list(expected.heat)
    if not all(bool(found.heat[name].isfinite().all()) for name in names):
        return 1.0
    heat, reference = ({name: e.heat[name] for name in names} for e in (found, expected))
    return max((1 - r for r in map_error(heat, reference).correlation.values()), default=0.0)
