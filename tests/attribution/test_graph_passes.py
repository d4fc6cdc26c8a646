"""Passes over captured graphs keep the maps: bit for bit, or within the rounding of a precision."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from support.networks import images, smp_network, tiny_model, tiny_network
from torch import Tensor
from torch.fx import GraphModule
from torch.nn import functional as F

from capecam.attribution.comparison import map_error
from capecam.attribution.graph.batch_norms import BATCH_NORMS
from capecam.attribution.graph.capture import capture
from capecam.attribution.graph.cost import count_cost
from capecam.attribution.graph.fake import CudaOperations
from capecam.attribution.graph.graph_engine import difference
from capecam.attribution.graph.network_passes import fold_batch_norms, use_channels_last
from capecam.attribution.graph.passes import compute_constants, share_equal
from capecam.attribution.graph.steps import TOLERANCE, correlation_lost
from capecam.settings import METHODS

NETWORKS = [
    ("tiny", "fp32"),
    pytest.param("FPN", "bf16", marks=pytest.mark.thorough),
    pytest.param("FPN", "fp32", marks=pytest.mark.thorough),
    pytest.param("UnetPlusPlus", "fp32", marks=pytest.mark.thorough),
]


def tiles(size: int = 64, seed: int = 1) -> tuple[Tensor, Tensor]:
    return images(2, size, seed), torch.ones(2, size, size, dtype=torch.bool)


@cache
def captured(network: str, precision: str) -> GraphModule:
    """The graph of a GPU, by its operations; it must not be changed."""
    if network == "tiny":
        model = tiny_model(tiny_network())
    else:
        model = tiny_model(smp_network(network, "resnet18"), None)
    engine = CudaOperations(model, METHODS, precision=precision)
    return capture(engine.explain, *tiles())


def graph_of(network: str, precision: str) -> GraphModule:
    return copy.deepcopy(captured(network, precision))


def off(graph: GraphModule, network: str, precision: str) -> float:
    """Difference from the graph before, for other tiles."""
    batch = tiles(seed=2)
    return difference(graph(*batch), captured(network, precision)(*batch))


@pytest.mark.parametrize(("network", "precision"), NETWORKS)
def test_constants_are_the_same_values(network: str, precision: str) -> None:
    graph = graph_of(network, precision)
    if network != "UnetPlusPlus":  # of float32 weights alone, and no bilinear upsampling
        assert compute_constants(graph, *tiles()) > 0
    assert compute_constants(graph, *tiles()) == 0
    assert off(graph, network, precision) == 0


@pytest.mark.parametrize(("network", "precision"), NETWORKS)
def test_equal_operations_share_one_result(network: str, precision: str) -> None:
    graph = graph_of(network, precision)
    assert share_equal(graph, *tiles()) > 0
    assert share_equal(graph, *tiles()) == 0
    assert off(graph, network, precision) == 0


def test_weights_are_converted_once() -> None:
    graph = graph_of("FPN", "bf16")
    before = count_cost(graph, *tiles())
    compute_constants(graph, *tiles())
    after = count_cost(graph, *tiles())
    casts = [sum(k.operation == "_to_copy" for k in cost.kernels) for cost in (before, after)]
    weights = {n.target for n in graph.graph.nodes if n.op == "get_attr"}
    assert casts[0] - casts[1] > 30
    assert any(getattr(graph, str(name)).dtype == torch.bfloat16 for name in weights)


def test_what_is_written_into_is_no_constant() -> None:
    weight = torch.ones(3)

    def function(x: Tensor) -> Tensor:
        total = weight * 2
        return total.add_(x) + weight * 5

    graph = capture(function, torch.ones(3))
    compute_constants(graph, torch.ones(3))
    for _ in range(2):
        assert graph(torch.ones(3)).tolist() == [8.0] * 3


def test_numbers_and_memory_without_values_are_no_constants() -> None:
    graph = capture(lambda x: x * torch.rand(1000) + torch.empty(1000).fill_(1), torch.ones(1000))
    compute_constants(graph, torch.ones(1000))
    assert not graph(torch.ones(1000)).equal(graph(torch.ones(1000)))


def test_constants_take_little_more_memory_than_weights() -> None:
    weight = torch.ones(1 << 20)
    x = torch.ones(32, 1)
    graph = capture(lambda x: (x * weight.expand(32, -1).clone()).sum(), x)
    assert compute_constants(graph, x) == 0
    graph = capture(lambda x: x * weight.expand(2, -1).clone().sum(), x)
    assert compute_constants(graph, x) == 3


def test_a_write_comes_between_equal_operations() -> None:
    def function(x: Tensor) -> Tensor:
        y = x + 1
        before = y * 2
        y.relu_()
        return before + y * 2

    graph = capture(function, torch.full((3,), -3.0))
    share_equal(graph, torch.ones(3))
    assert graph(torch.full((3,), -3.0)).tolist() == [-4.0] * 3


def test_one_and_true_are_not_equal() -> None:
    graph = capture(lambda x: (x + 1) * (x + 1.0) + (x * True), torch.ones(3))
    share_equal(graph)
    assert graph(torch.ones(3)).tolist() == [5.0] * 3


JUDGED = ("gradcam", "gradcampp", "layercam", "guided_gradcam")
"""Maps that do not divide by small sums."""


@pytest.mark.thorough
def test_batch_norms_are_folded_in_16_bits() -> None:
    graph = graph_of("FPN", "bf16")
    norms = [node for node in graph.graph.nodes if node.target in BATCH_NORMS]
    count = fold_batch_norms(graph, *tiles())
    assert len(norms) - 1 <= count <= len(norms)  # the target layer's convolution is read twice
    batch, exact = tiles(seed=2), captured("FPN", "fp32")(*tiles(seed=2))
    half, folded = (
        sum(1 - map_error(g(*batch).heat, exact.heat).correlation[name] for name in JUDGED)
        for g in (captured("FPN", "bf16"), graph)
    )
    assert folded < 4 * half


def test_batch_norms_are_not_folded_in_float32() -> None:
    assert fold_batch_norms(graph_of("FPN", "fp32"), *tiles()) == 0


def test_a_folded_batch_norm_is_the_product() -> None:
    weight, bias = torch.randn(4, 3, 1, 1).bfloat16(), torch.randn(4).bfloat16()
    norm = [torch.rand(4) + 0.5 for _ in range(4)]

    def function(x: Tensor) -> Tensor:
        mean, variance, gamma, beta = norm
        y = F.conv2d(x, weight, bias)
        return torch.ops.aten.native_batch_norm(y, gamma, beta, mean, variance, False, 0.1, 0.1)[0]

    x = torch.randn(2, 3, 8, 8).bfloat16()
    graph = capture(function, x)
    assert fold_batch_norms(graph, x) == 1
    torch.testing.assert_close(graph(x), function(x), rtol=0.03, atol=0.03)
    assert not any(
        "norm" in str(node.target) for node in graph.graph.nodes if node.op != "get_attr"
    )


@pytest.mark.parametrize(("network", "precision"), NETWORKS)
def test_channels_last_is_another_order_of_the_same(network: str, precision: str) -> None:
    graph = graph_of(network, precision)
    assert use_channels_last(graph, *tiles()) > 3
    if network == "tiny":
        assert off(graph, network, precision) < 1e-12
    batch = tiles(seed=2)
    found, expected = (g(*batch) for g in (graph, captured(network, precision)))
    if precision == "fp32":
        assert correlation_lost(found, expected) < TOLERANCE["fp32"]
        for explanation in (found, expected):  # of an untrained network its denominators vanish
            del explanation.heat["gradcampp_notebook"]
        assert difference(found, expected) < 0.02
    else:
        assert map_error(found.heat, expected.heat).correlation["gradcam"] > 0.95
