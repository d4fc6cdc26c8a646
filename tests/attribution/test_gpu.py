"""Tests that need a GPU: ``pytest -m gpu``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from support.cities import blobs, write_tif
from support.networks import cape_town_model, images, sample_model
from torch import Tensor

from capecam.analysis.benchmark.workload import sample_tiles
from capecam.attribution.autotune import auto_batch_size, auto_precision
from capecam.attribution.comparison import map_error
from capecam.attribution.engine import Engine
from capecam.attribution.graph.capture import capture
from capecam.attribution.graph.cost import Cost, count_cost
from capecam.attribution.graph.cuda_graph import CudaGraph
from capecam.attribution.graph.fake import CudaOperations
from capecam.attribution.graph.graph_engine import GraphEngine
from capecam.attribution.maps import Maps
from capecam.attribution.methods import GUIDED
from capecam.attribution.object_engine import ObjectEngine, Targets
from capecam.grid import Tiling
from capecam.mosaic.city import open_city
from capecam.mosaic.reader import Reader
from capecam.pipeline.tiles import read_tiles
from capecam.run.outcome import RunOutcome
from capecam.run.supervisor import run
from capecam.settings import METHODS, OBJECT_METHODS, PRECISIONS
from capecam.settings.loading import load

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def valid(pixels: Tensor) -> Tensor:
    return torch.ones_like(pixels[:, 0], dtype=torch.bool)


def levels(heat: Tensor, reference: Tensor) -> Tensor:
    """Convert to what is written: 0..254, up to the 99.5th percentile of the positive reference."""
    scale = reference[reference > 0].double().quantile(0.995)
    return (254 * (heat.double() / scale).clamp(max=1)).round()


@pytest.mark.parametrize("score", ["mean", "predicted"])
def test_maps_on_cuda_are_those_of_the_cpu(score: str) -> None:
    """Maximum differences: classes at 1e-4 of pixels, CAMs by one level, Guided at 0.1 %."""
    pixels = images(4, 320)
    cpu = Engine(cape_town_model(), METHODS, score=score)(pixels, valid(pixels))
    cuda = Engine(cape_town_model(), METHODS, score=score, device="cuda")(pixels, valid(pixels))
    probability = cuda.probability.cpu()
    differing = probability.argmax(dim=1) != cpu.probability.argmax(dim=1)
    assert differing.float().mean() <= 1e-4
    assert (254 * (probability - cpu.probability)).abs().max() <= 1
    for method in METHODS:
        for c in range(3):
            reference = cpu.heat[method][:, c]
            assert reference.any()
            apart = levels(cuda.heat[method][:, c].cpu(), reference) - levels(reference, reference)
            share = (apart.abs() <= 1).double().mean()
            assert share >= (0.999 if method == GUIDED else 1.0), (method, c)


@pytest.mark.parametrize("method", OBJECT_METHODS)
def test_maps_of_objects_on_cuda_are_those_of_the_cpu_and_repeat(method: str) -> None:
    pixels, inside = images(2, 320), torch.zeros(2, 320, 320, dtype=torch.bool)
    inside[:, 140:180, 150:170] = True
    targets = Targets(torch.tensor([1, 2]), inside)

    def maps(device: str) -> tuple[Tensor, Tensor]:
        engine = ObjectEngine(cape_town_model(), method=method, device=device)
        heat, probability = engine.maps(pixels, valid(pixels), targets)
        return heat.cpu(), probability.cpu()

    (cpu, p), (cuda, q), (again, _) = maps("cpu"), maps("cuda"), maps("cuda")
    assert torch.equal(cuda, again)
    assert (p - q).abs().max() < 1e-4
    for one, other in zip(cpu, cuda, strict=True):
        apart = (one / one.sum() - other / other.sum()).abs().sum()
        assert apart < (0.05 if method == "guided" else 0.01)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("where", ["all", "detected"])
def test_every_precision_repeats_bit_for_bit(precision: str, where: str) -> None:
    pixels = sample_tiles(8, 320)

    def maps() -> Maps:
        engine = Engine(sample_model(), METHODS, where=where, precision=precision, device="cuda")
        return engine(pixels, valid(pixels))

    first, second = maps(), maps()
    assert first.probability.equal(second.probability)
    for method in METHODS:
        assert first.heat[method].any()
        assert first.heat[method].equal(second.heat[method]), method


def graph_engine(precision: str = "fp32", **options: object) -> GraphEngine:
    """Make an engine that captures its graphs at once."""
    engine = GraphEngine(sample_model(), METHODS, precision=precision, device="cuda", **options)
    engine.patience = 0
    return engine


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("where", ["all", "detected"])
def test_cuda_graphs_repeat_autograd_bit_for_bit(precision: str, where: str) -> None:
    engine = graph_engine(precision, where=where)
    autograd = Engine(sample_model(), METHODS, precision=precision, where=where, device="cuda")
    first, second = sample_tiles(8, 320), sample_tiles(8, 320, seed=1)
    for pixels in (first, first, second):  # the second and third time by the graph
        maps, expected = engine(pixels, valid(pixels)), autograd(pixels, valid(pixels))
        for method in METHODS:
            assert maps.heat[method].equal(expected.heat[method]), method
    assert engine.replays
    assert all(isinstance(graph, CudaGraph) for graph in engine.replays.values())


def test_cuda_graphs_share_memory_and_keep_their_results_apart() -> None:
    engine, pixels = graph_engine(), sample_tiles(6, 320)
    for batch in (pixels, pixels[:4]):
        engine(batch, valid(batch))
    one = engine(pixels, valid(pixels))
    kept = {name: maps.clone() for name, maps in one.heat.items()}
    engine(pixels[:4].flip(0), valid(pixels[:4]))
    engine(pixels.flip(0), valid(pixels))
    for name, maps in one.heat.items():
        assert maps.equal(kept[name]), name
    assert len({graph.pool for graph in engine.replays.values()}) == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_steps_that_round_differently_stay_within_their_tolerance(precision: str) -> None:
    steps = ("folded", "constants", "channels_last", "cuda_graph")
    engine, pixels = graph_engine(precision, steps=steps), sample_tiles(8, 320)
    engine(pixels, valid(pixels))
    assert all(engine.replays.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_graph_of_a_cpu_is_that_of_the_gpu(precision: str) -> None:
    """The budget of kernels and bytes is counted on the graph that runs."""
    pixels = sample_tiles(2, 320)

    def cost(engine: Engine, device: str) -> Cost:
        tiles = pixels.to(device), valid(pixels).to(device)
        graph = capture(engine.explain, *tiles)
        return count_cost(graph, *tiles)

    cpu = cost(CudaOperations(sample_model(), METHODS, precision=precision), "cpu")
    gpu = cost(Engine(sample_model(), METHODS, precision=precision, device="cuda"), "cuda")
    assert (cpu.count, cpu.flops) == (gpu.count, gpu.flops)
    assert cpu.bytes == pytest.approx(gpu.bytes, rel=0.01)


def test_running_out_of_memory_drops_graphs_and_captures_smaller_ones() -> None:
    _, total = torch.cuda.mem_get_info()
    pixels = sample_tiles(1, 320).repeat(64, 1, 1, 1)
    engine = graph_engine()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 2.5e9 / total))
    try:
        for _ in range(3):
            maps = engine(pixels, valid(pixels))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    expected = Engine(sample_model(), METHODS, device="cuda")(pixels[:1], valid(pixels[:1]))
    assert engine.max_tiles < 64
    heat = expected.heat["gradcam"].expand(64, -1, -1, -1)
    assert torch.allclose(maps.heat["gradcam"], heat, rtol=1e-3)


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_every_precision_is_close_to_float32(precision: str) -> None:
    pixels = sample_tiles(8, 320)
    exact, found = (
        Engine(sample_model(), precision=p, device="cuda")(pixels, valid(pixels))
        for p in ("fp32", precision)
    )
    error = map_error(found.heat, exact.heat)
    assert error.maps > 40
    assert error.correlation["gradcam"] > 0.99
    assert not found.broken


def test_precision_and_batch_are_found() -> None:
    pixels = sample_tiles(8, 320)
    engine = Engine(sample_model(), device="cuda")
    assert auto_precision(engine, pixels, valid(pixels)) in ("fp16", "bf16")
    batch = auto_batch_size(engine, 320)
    assert batch >= 8
    many = sample_tiles(1, 320).repeat(batch, 1, 1, 1)
    engine(many, valid(many))  # it fits
    assert engine.max_tiles > batch


def test_running_out_of_memory_halves_the_batch() -> None:
    _, total = torch.cuda.mem_get_info()
    pixels = sample_tiles(1, 320).repeat(64, 1, 1, 1)
    engine = Engine(sample_model(), device="cuda")
    expected = engine(pixels[:1], valid(pixels[:1])).heat["gradcam"]
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 1.5e9 / total))
    try:
        maps = engine(pixels, valid(pixels))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert engine.max_tiles < 64
    assert torch.allclose(maps.heat["gradcam"], expected.expand(64, -1, -1, -1), rtol=1e-3)


def test_pixels_arrive_whole_while_the_device_computes(tmp_path: Path) -> None:
    write_tif(tmp_path / "a.tif", blobs(3000, 5000))
    mosaic = open_city([str(tmp_path)], None).mosaic
    reader, core = partial(Reader, mosaic, "a"), mosaic.grid.window
    busy = torch.ones(4096, 4096, device="cuda")
    expected = list(read_tiles(reader, Tiling(), core))
    for tile, there in zip(
        expected,
        read_tiles(reader, Tiling(), core, readers=3, device=busy.device),
        strict=True,
    ):
        busy = busy @ busy / 4096
        assert there.pixels.is_cuda
        assert there.pixels.cpu().equal(tile.pixels)
        assert there.valid.cpu().equal(tile.valid)


def explain(source: Path, out: Path, device: str, **options: object) -> RunOutcome:
    given = {"sources": [str(source)], "out": str(out), "compute.device": device, **options}
    return run(load(None, given), model=cape_town_model())


def test_a_run_repeats_byte_for_byte(tmp_path: Path) -> None:
    source = write_tif(tmp_path / "a.tif", blobs(900, 900))
    for name in ("one", "two"):
        outcome = explain(source, tmp_path / name, "cuda")
        assert outcome.exit_code == 0
        assert outcome.engine_waited is not None
        assert outcome.work["engine"] > 0
    one, two = (sorted((tmp_path / name).rglob("*.tif")) for name in ("one", "two"))
    assert len(one) == 5
    for first, second in zip(one, two, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name
