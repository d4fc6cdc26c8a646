"""The graph that a GPU would run goes through on fake CUDA tensors; a wrong one does not."""

from __future__ import annotations

import copy

import pytest
import torch
from support.networks import cape_town_model, cape_town_network, images, sample_model
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from capecam.attribution.engine import Engine
from capecam.attribution.graph.capture import capture
from capecam.attribution.graph.fake import CUDA, CudaAutocast, CudaOperations, on_fake_cuda
from capecam.attribution.graph.steps import take_steps
from capecam.attribution.maps import Explanation
from capecam.model.model import Model
from capecam.settings import METHODS

TILES = (torch.zeros(2, 3, 96, 96, dtype=torch.uint8), torch.ones(2, 96, 96, dtype=torch.bool))


def gpu_graph(
    model: Model, precision: str, score: str = "mean", classes: tuple[int, ...] | None = None
) -> GraphModule:
    engine = CudaOperations(model, METHODS, precision=precision, score=score)
    return capture(lambda *tiles: engine.explain(*tiles, classes), *TILES)


def check_explanation(found: Explanation, classes: int = 3) -> None:
    assert found.logits.shape == (2, 4, 96, 96)
    assert found.singular.dtype == torch.int64
    for name in METHODS:
        assert found.heat[name].shape[:2] == (2, classes)
        assert found.heat[name].dtype == torch.float32
        assert found.heat[name].device == CUDA


EACH_PRECISION = pytest.mark.parametrize(
    "precision", ["bf16", pytest.param("fp32", marks=pytest.mark.thorough)]
)


@pytest.mark.parametrize(
    ("precision", "score"),
    [
        pytest.param("fp32", "mean", marks=pytest.mark.thorough),
        pytest.param("bf16", "predicted", marks=pytest.mark.thorough),
        pytest.param("tf32", "predicted", marks=pytest.mark.slow),
        pytest.param("bf16", "mean", marks=pytest.mark.slow),
        pytest.param("fp16", "predicted", marks=pytest.mark.slow),
    ],
)
def test_the_cape_town_graph_runs_on_a_gpu(precision: str, score: str) -> None:
    graph = gpu_graph(cape_town_model(), precision, score)
    check_explanation(on_fake_cuda(graph, *TILES))


@EACH_PRECISION
def test_the_graph_of_the_sample_model_runs_on_a_gpu(precision: str) -> None:
    check_explanation(on_fake_cuda(gpu_graph(sample_model(), precision), *TILES))


@pytest.mark.parametrize("classes", [(0, 2), pytest.param((0,), marks=pytest.mark.thorough)])
def test_the_graph_of_some_classes_runs_on_a_gpu(classes: tuple[int, ...]) -> None:
    graph = gpu_graph(sample_model(), "fp32", "predicted", classes)
    check_explanation(on_fake_cuda(graph, *TILES), len(classes))


@EACH_PRECISION
def test_the_graph_runs_on_a_gpu_after_all_steps(precision: str) -> None:
    graph = gpu_graph(sample_model(), precision)
    take_steps(["folded", "constants", "channels_last"], graph, TILES)
    check_explanation(on_fake_cuda(graph, *TILES))


def test_it_transposes_upsampling_by_matrix_products() -> None:
    graph = gpu_graph(sample_model(), "fp32")
    operations = {node.target for node in graph.graph.nodes}
    assert torch.ops.aten.mm.default in operations
    assert torch.ops.aten.upsample_bilinear2d_backward.default not in operations


def test_the_operations_of_a_gpu_give_the_maps_of_a_cpu() -> None:
    tiles = images(2, 96), TILES[1]
    engine = CudaOperations(sample_model(), METHODS)
    found = capture(engine.explain, *tiles)(*tiles).heat
    heat = Engine(sample_model(), METHODS).explain(*tiles).heat
    for name, maps in found.items():
        torch.testing.assert_close(maps, heat[name], rtol=1e-3, atol=1e-5 * float(heat[name].max()))


def pick(x: Tensor) -> Tensor:
    return x[x > 0]


def test_a_result_of_unknown_size_makes_the_gpu_wait_and_raises() -> None:
    with pytest.raises(RuntimeError, match=r"nonzero|index"):
        on_fake_cuda(make_fx(pick)(torch.randn(8)), torch.randn(8))


def test_a_value_on_the_host_makes_the_gpu_wait_and_raises() -> None:
    graph = make_fx(lambda x: x + 1)(torch.randn(8))
    (add,) = (node for node in graph.graph.nodes if node.op == "call_function")
    with graph.graph.inserting_before(add):
        first = graph.graph.call_function(torch.ops.aten.select.int, (add.args[0], 0, 0))
        item = graph.graph.call_function(torch.ops.aten._local_scalar_dense.default, (first,))
    add.args = (add.args[0], item)
    graph.recompile()
    with pytest.raises(RuntimeError, match="_local_scalar_dense"):
        on_fake_cuda(graph, torch.randn(8))


def test_types_that_do_not_go_together_raise() -> None:
    graph = make_fx(lambda x: F.conv2d(x, torch.ones(1, 3, 1, 1)))(torch.ones(1, 3, 4, 4))
    with pytest.raises(RuntimeError, match="type"):
        on_fake_cuda(graph, torch.ones(1, 3, 4, 4, dtype=torch.bfloat16))


def test_a_shape_that_does_not_go_raises() -> None:
    graph = gpu_graph(sample_model(), "fp32")
    with pytest.raises(RuntimeError):
        on_fake_cuda(graph, TILES[0][..., :64], TILES[1])


def types_of_modules(network: nn.Module, run: object) -> dict[str, torch.dtype]:
    found = dict[str, torch.dtype]()
    for name, module in network.named_modules():

        def keep(_module: object, _x: object, out: object, name: str = name) -> None:
            if isinstance(out, Tensor):
                found[name] = out.dtype

        module.register_forward_hook(keep)
    run(network)
    return found


def test_precisions_are_those_of_the_autocast_of_a_gpu() -> None:
    """The same network under CUDA's own autocast, on tensors without values."""

    def on_gpu(network: nn.Module) -> None:
        state = network.state_dict()
        with FakeTensorMode(), torch.no_grad():
            weights = {
                name: torch.empty(x.shape, dtype=x.dtype, device="cuda")
                for name, x in state.items()
            }
            torch.set_autocast_enabled("cuda", True)
            torch.set_autocast_dtype("cuda", torch.bfloat16)
            try:
                functional_call(network, weights, torch.empty(1, 3, 64, 64, device="cuda"))
            finally:
                torch.set_autocast_enabled("cuda", False)

    def on_cpu(network: nn.Module) -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), CudaAutocast():
            network(torch.zeros(1, 3, 64, 64))

    gpu, cpu = (
        types_of_modules(copy.deepcopy(cape_town_network()), run) for run in (on_gpu, on_cpu)
    )
    assert gpu == cpu
    assert {"float32", "bfloat16"} == {str(dtype).removeprefix("torch.") for dtype in gpu.values()}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.softmax(x, 1), lambda x: F.layer_norm(x, (8,)), lambda x: x.sum(dim=1),
        torch.exp, lambda x: x**2, F.relu, lambda x: x.mean(dim=(2, 3)), torch.sigmoid,
        lambda x: x @ x, lambda x: F.group_norm(x, 2), lambda x: F.adaptive_avg_pool2d(x, 1),
        lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"), torch.rsqrt, F.silu,
        lambda x: F.interpolate(x, scale_factor=2.0), lambda x: F.avg_pool2d(x, 2), F.gelu,
        lambda x: F.max_pool2d(x, 2), lambda x: F.conv2d(x, x), lambda x: F.linear(x, x[0, 0]),
        lambda x: torch.cat([x, x]), lambda x: x * x, lambda x: x + x.float(), F.hardswish,
    ],
)  # fmt: skip
def test_precision_of_an_operation_is_that_of_a_gpu(function: object) -> None:
    x = torch.rand(2, 4, 8, 8, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16), CudaAutocast():
        here = function(x).dtype
    with FakeTensorMode():
        torch.set_autocast_enabled("cuda", True)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        try:
            there = function(torch.empty(x.shape, dtype=x.dtype, device="cuda")).dtype
        finally:
            torch.set_autocast_enabled("cuda", False)
    assert here == there
