"""Steps are taken in their order and gated; a CUDA graph's calls are in the order that it needs."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from support.networks import images, smp_network, tiny_model, tiny_network
from torch import Tensor

from capecam.attribution.engine import Engine
from capecam.attribution.graph import steps
from capecam.attribution.graph.capture import capture
from capecam.attribution.graph.cuda_graph import WARM_UPS, CudaGraph
from capecam.attribution.graph.fake import CudaOperations, on_fake_cuda
from capecam.attribution.graph.graph_engine import GraphEngine, Kind, difference
from capecam.attribution.graph.passes import compute_constants, share_equal
from capecam.attribution.graph.steps import NAMES, STEPS, default_steps, take_steps, tolerance
from capecam.attribution.methods import CAMS
from capecam.errors import SettingsError
from capecam.model.introspection import why_not_guided
from capecam.settings import METHODS

TILES = images(2, 32), torch.ones(2, 32, 32, dtype=torch.bool)


def engine_with(*names: str, methods: tuple[str, ...] = METHODS) -> GraphEngine:
    engine = GraphEngine(tiny_model(tiny_network()), methods, steps=names)
    engine.patience = 0
    return engine


def test_only_a_gpu_takes_steps_by_default() -> None:
    assert default_steps(torch.device("cpu")) == ()
    assert default_steps(torch.device("cuda")) == ("constants", "cuda_graph")
    assert tolerance(default_steps(torch.device("cuda")), "bf16") == 0


def test_a_step_that_changes_bits_has_a_tolerance() -> None:
    assert {step.name for step in STEPS if step.is_exact} == {"constants"}
    assert 0 < tolerance(NAMES, "fp32") < tolerance(["constants", "folded"], "bf16") < 0.02


def test_correlation_is_lost_where_maps_differ_or_are_not_finite() -> None:
    one = Engine(tiny_model(tiny_network()), METHODS).explain(*TILES)
    assert abs(steps.correlation_lost(one, one)) < 1e-12
    other = one._replace(heat=one.heat | {"guided_gradcam": one.heat["guided_gradcam"].flip(2)})
    assert steps.correlation_lost(other, one) > 0.1
    other = one._replace(heat=one.heat | {"gradcam": one.heat["gradcam"] * torch.inf})
    assert steps.correlation_lost(other, one) == 1


@pytest.mark.parametrize("names", [("constants",), ("folded", "constants", "channels_last")])
def test_the_engine_takes_steps_and_keeps_the_maps(names: tuple[str, ...]) -> None:
    engine = engine_with(*names)
    engine(*TILES)
    assert all(engine.replays.values())
    pixels, valid = images(2, 32, 2), TILES[1]
    expected = Engine(engine.model, METHODS).explain(pixels, valid)
    assert difference(engine.explain(pixels, valid), expected) <= (0 if len(names) == 1 else 1e-10)


@pytest.mark.parametrize("names", [("constants",), ("folded",)])
def test_a_step_that_breaks_the_maps_is_not_used(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: object) -> object:
        replay = take_steps(*arguments)

        def replay_upside_down(pixels: Tensor, valid: Tensor) -> object:
            return replay(pixels.flip(2), valid)

        return replay_upside_down

    monkeypatch.setattr("capecam.attribution.graph.graph_engine.take_steps", broken)
    engine = engine_with(*names)
    with caplog.at_level(logging.WARNING):
        engine(*TILES)
    assert "off; autograd explains the tiles" in caplog.text
    assert not any(engine.replays.values())


def test_steps_come_in_their_own_order(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    recording = tuple(
        steps.Step(
            step.name, step.does, True, lambda graph, _, s=step: taken.append(s.name) or graph
        )
        for step in STEPS
    )
    monkeypatch.setattr(steps, "STEPS", recording)
    take_steps(["inductor", "constants", "folded"], capture(torch.sin, *TILES[:1]), TILES[:1])
    assert taken == ["folded", "constants", "inductor"]


@pytest.mark.parametrize(
    ("name", "message"), [("fast", "one of folded"), ("cuda_graph", "needs a GPU")]
)
def test_a_step_that_cannot_be_is_refused(name: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        engine_with(name)


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_the_compiled_graph_keeps_the_maps() -> None:
    engine = engine_with("constants", "inductor", methods=("gradcam", "guided_gradcam"))
    engine(*TILES)
    assert all(engine.replays.values())
    pixels, valid = images(2, 32, 2), TILES[1]
    expected = Engine(engine.model, engine.methods).explain(pixels, valid)
    assert difference(engine.explain(pixels, valid), expected) < 1e-9


class StandIn:
    """The part of ``torch.cuda`` that a capture calls; what is captured is replayed in Python."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def Stream(self) -> StandIn:
        return self

    def current_stream(self) -> StandIn:
        return self

    def wait_stream(self, _other: StandIn) -> None:
        self.calls.append("wait")

    @contextmanager
    def stream(self, _stream: StandIn) -> Iterator[None]:
        self.calls.append("other stream")
        yield
        self.calls.append("first stream")

    def CUDAGraph(self) -> StandIn:
        return self

    @contextmanager
    def graph(self, _graph: StandIn, pool: object, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        self.calls.append(f"capture into {pool}")
        yield
        self.calls.append("captured")

    def pool(self) -> str:
        return "own pool"

    def replay(self) -> None:
        self.calls.append("replay")
        self.recorded()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    for name in ("Stream", "current_stream", "stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(stand_in, name))
    return stand_in


def test_a_cuda_graph_warms_up_captures_and_replays_into_its_own_memory(cuda: StandIn) -> None:
    result, seen = torch.zeros(3), list[Tensor]()

    def double(x: Tensor) -> dict[str, Tensor]:
        cuda.calls.append("run")
        seen.append(x)
        torch.mul(x, 2, out=result)
        return {"y": result}

    first = torch.ones(3)
    graph = CudaGraph(double, (first,), "other pool")
    runs = ["run"] * WARM_UPS
    assert cuda.calls == [
        "wait", "other stream", *runs, "first stream", "wait", "capture into other pool", "run",
        "captured",
    ]  # fmt: skip
    cuda.calls.clear()
    cuda.recorded = lambda: torch.mul(seen[0], 2, out=result)
    one, two = graph(torch.full((3,), 4.0))["y"], graph(torch.full((3,), 5.0))["y"]
    assert cuda.calls == ["replay", "replay"]
    assert one.tolist() == [8.0] * 3  # the second replay did not touch it
    assert two.tolist() == [10.0] * 3
    assert first.tolist() == [1.0] * 3
    assert all(x is seen[0] for x in seen)


def test_graphs_share_the_memory_of_one_that_is_there(cuda: StandIn) -> None:
    engine = engine_with("constants")
    assert engine._graph_pool() is None
    engine.replays[Kind(TILES[0].shape, None)] = CudaGraph(torch.sin, (torch.ones(3),))
    assert "capture into None" in cuda.calls
    assert engine._graph_pool() == "own pool"
    assert engine.at("bf16")._graph_pool() is None


def test_running_out_of_memory_drops_the_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_with("constants")
    engine(*TILES)
    (kind,) = engine.replays

    def full(*_tiles: Tensor) -> None:
        raise torch.OutOfMemoryError("full")

    engine.replays[kind] = full
    with pytest.raises(torch.OutOfMemoryError):
        engine.explain(*TILES)
    assert not engine.replays


OTHERS = (
    "Linknet resnet18", "MAnet resnet18", "PSPNet resnet18", "UPerNet resnet18", "FPN se_resnet50",
)  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [
        *(
            pytest.param(kind, marks=pytest.mark.thorough)
            for kind in ("Unet resnet18", "Unet efficientnet-b0", "FPN mit_b0")
        ),
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in OTHERS),
    ],
)
def test_other_networks_go_through_the_steps_and_run_on_a_gpu(kind: str) -> None:
    architecture, encoder = kind.split()
    model = tiny_model(smp_network(architecture, encoder), None)
    methods = tuple(CAMS) if why_not_guided(model.network) else METHODS
    engine = CudaOperations(model, methods)
    first, second = ((images(2, 64, seed), torch.ones(2, 64, 64).bool()) for seed in (1, 2))
    graph = capture(engine.explain, *first)
    expected = graph(*second)
    compute_constants(graph)
    share_equal(graph)
    on_fake_cuda(graph, *first)
    assert difference(graph(*second), expected) == 0
    channels_last = take_steps(["channels_last"], capture(engine.explain, *first), first)
    on_fake_cuda(channels_last, *first)
    assert steps.correlation_lost(channels_last(*second), expected) < 1e-3
