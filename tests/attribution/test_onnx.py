"""ONNX files repeat the engine's maps in onnxruntime."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from support.networks import images, sample_model, smp_network, tiny_model, tiny_network
from torch import Tensor, nn
from torch.nn import functional as F

from capecam.analysis.benchmark.workload import sample_tiles
from capecam.attribution.comparison import map_error
from capecam.attribution.engine import Engine
from capecam.attribution.graph.onnx_engine import OnnxEngine
from capecam.attribution.graph.onnx_export import export, in_float32, results_of
from capecam.attribution.graph.onnx_metadata import metadata
from capecam.attribution.graph.onnx_session import OnnxSession, largest_errors
from capecam.attribution.graph.onnx_translation import forward_graph
from capecam.errors import SettingsError
from capecam.model.introspection import why_not_guided
from capecam.model.model import Model
from capecam.settings import METHODS, ModelSettings, TilingSettings

STABLE = tuple(name for name in METHODS if not name.startswith("gradcampp"))
"""Methods whose float32 maps of the tiny network are exact: some of its denominators of Grad-CAM++
nearly vanish, so that PyTorch's own maps are 1e-4 of their range from those in float64."""

UNTRAINED = 1e-3
"""Maximum of 1 - correlation of an untrained network's maps: here and there a ReLU or a pooling
decides otherwise, as with another order of the same roundings."""

WRITTEN = {
    "upsample_bilinear2d_backward", "upsample_nearest2d_backward", "avg_pool2d_backward",
    "_adaptive_avg_pool2d_backward",
}  # fmt: skip
"""Backward operations that are written into ONNX as they are."""


def conv(**options: object) -> nn.Module:
    return nn.Conv2d(3, 6, bias=True, **{"kernel_size": 3, **options})


def normed(norm: nn.Module) -> nn.Module:
    """A norm with weights of its own, of 6 channels."""
    for values in (norm.weight, norm.bias):
        nn.init.uniform_(values, 0.5, 1.5)
    if isinstance(norm, nn.BatchNorm2d):
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return nn.Sequential(nn.Conv2d(3, 6, 1), norm)


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class LayerNorm(nn.Module):
    """A layer norm over channels, as transformers have it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def attention(x: Tensor) -> Tensor:
    tokens = x.flatten(2)
    return (tokens.mT @ tokens).softmax(-1) @ tokens.mT


MODULES: dict[str, Callable[[], nn.Module]] = {
    "convolution": conv,
    "convolution, padded": lambda: conv(padding=1),
    "convolution, padded beyond its reach": lambda: conv(padding=3),
    "convolution, dilated": lambda: conv(dilation=2, padding=2),
    "convolution, grouped": lambda: conv(groups=3, padding=1),
    "convolution, stride": lambda: conv(stride=2, padding=1),
    "convolution, stride and groups": lambda: conv(stride=2, padding=1, groups=3),
    "convolution of a pixel, stride": lambda: conv(kernel_size=1, stride=2),
    "transposed convolution": lambda: nn.ConvTranspose2d(3, 6, 4, stride=2, padding=1),
    "transposed convolution, grouped": lambda: nn.ConvTranspose2d(3, 6, 2, stride=2, groups=3),
    "batch norm": lambda: normed(nn.BatchNorm2d(6)),
    "group norm": lambda: normed(nn.GroupNorm(2, 6)),
    "layer norm": LayerNorm,
    "maximum": lambda: nn.MaxPool2d(3, 2, 1),
    "average": lambda: nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False),
    "average, overlapping": lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "average of a tile": lambda: nn.AdaptiveAvgPool2d(1),
    "average of uneven windows": lambda: nn.AdaptiveAvgPool2d(6),
    "bilinear": lambda: nn.Upsample(scale_factor=4, mode="bilinear"),
    "bilinear, corners aligned": lambda: nn.UpsamplingBilinear2d(scale_factor=2),
    "bilinear, to a size": lambda: nn.Upsample((25, 40), mode="bilinear", align_corners=True),
    "nearest": lambda: nn.Upsample(scale_factor=2),
    "cut": lambda: Of(lambda x: x[:, 1:, 2:-3, 4]),
    "added in place": lambda: Of(lambda x: (x * 2).add_(x.relu()).relu_()),
    "concatenated": lambda: Of(lambda x: torch.cat([x, x[:, :1].sigmoid()], 1)),
    "attention": lambda: Of(attention),
    **{
        f.__name__: (lambda f=f: Of(f))
        for f in (F.silu, F.hardswish, F.hardsigmoid, F.hardtanh, F.gelu, F.relu6, F.elu, F.tanh,
                  F.leaky_relu, F.softplus)
    },
}  # fmt: skip


def with_gradient(module: nn.Module) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
    """The output of a module, and the gradient of half its square."""

    def compute(pixels: Tensor, _valid: Tensor) -> dict[str, Tensor]:
        with torch.enable_grad():
            x = (pixels / 64 - 2).requires_grad_()
            y = module(x)
            (gradient,) = torch.autograd.grad((y**2).sum() / 2, x)
        return {"output": y.detach(), "gradient": gradient}

    return compute


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval().requires_grad_(False)


@pytest.mark.parametrize("name", MODULES)
def test_backward_operations_as_forward_ones_are_exact(name: str) -> None:
    compute = with_gradient(seeded(MODULES[name]).double())
    pixels, valid = images(2, 15).double(), torch.ones(2, 15, 15, dtype=torch.bool)
    graph = forward_graph(compute, pixels, valid)
    names = {str(node.target).removeprefix("aten.").split(".")[0] for node in graph.graph.nodes}
    assert {name for name in names if name.endswith("_backward")} <= WRITTEN
    other = images(2, 15, seed=1).double()
    for key, expected in compute(other, valid).items():
        torch.testing.assert_close(graph(other, valid)[key], expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", MODULES)
def test_operations_in_onnxruntime(name: str) -> None:
    module = seeded(MODULES[name])
    session = OnnxSession(export(with_gradient(module), images(1, 15)[0]))
    exact = with_gradient(module.double())
    for count in (1, 4):
        pixels = images(count, 15, seed=count)
        for key, expected in exact(pixels.double(), pixels).items():
            found = session(pixels)[key].double()
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def tiles(count: int, size: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    pixels, valid = images(count, size, seed), torch.ones(count, size, size, dtype=torch.bool)
    valid[0, size // 2 :] = False
    return pixels * valid[:, None], valid


@cache
def tiny_file(score: str) -> tuple[Callable[..., dict[str, Tensor]], OnnxSession]:
    """Maps of the tiny network: what computes them, and the file that repeats it."""
    engine = Engine(in_float32(tiny_model(tiny_network())), STABLE, score=score)
    compute = results_of(engine, "maps")
    return compute, OnnxSession(export(compute, images(1, 32)[0]))


@pytest.mark.parametrize("score", ["mean", pytest.param("predicted", marks=pytest.mark.thorough)])
def test_a_file_repeats_every_map(score: str) -> None:
    compute, session = tiny_file(score)
    pixels, valid = tiles(3, 32)
    found = largest_errors(session(pixels, valid), compute(pixels.float(), valid))
    assert max(found.values()) < 1e-4


def test_a_file_takes_any_number_of_tiles_with_and_without_validity() -> None:
    compute, session = tiny_file("mean")
    for count in (1, 2, 5):
        pixels, valid = tiles(count, 32, seed=count)
        everywhere = torch.ones_like(valid)
        expected = compute(pixels.float(), everywhere)
        for found in (session(pixels), session(pixels, everywhere)):
            assert max(largest_errors(found, expected).values()) < 1e-4
        masked = largest_errors(session(pixels, valid), expected)
        assert masked["gradcam"] > 1e-2  # the mask is used


def test_a_sigmoid_network() -> None:
    network = tiny_network()
    network.segmentation_head[0] = nn.Conv2d(5, 1, 3, padding=1).double()
    model = in_float32(tiny_model(network))
    model = replace(model, sigmoid=True, classes=model.classes[:2])
    compute = results_of(Engine(model, STABLE), "maps")
    session, (pixels, valid) = OnnxSession(export(compute, images(1, 32)[0])), tiles(3, 32)
    found = largest_errors(session(pixels, valid), compute(pixels.float(), valid))
    assert max(found.values()) < 1e-4


def test_a_network_that_mixes_tiles_is_refused() -> None:
    with pytest.raises(SettingsError, match="mixes the tiles"):
        export(with_gradient(Of(lambda x: x[:1] * x)), images(1, 15)[0])


def test_an_operation_without_a_form_is_named() -> None:
    with pytest.raises(SettingsError, match="cumsum"):
        export(lambda pixels, _valid: {"sum": pixels.cumsum(3)}, images(1, 15)[0])


@pytest.mark.thorough
def test_the_sample_model() -> None:
    compute = results_of(Engine(sample_model()), "maps")
    pixels = sample_tiles(2, 64, seed=1)
    session = OnnxSession(export(compute, pixels[0]))
    expected = compute(pixels.float(), torch.ones_like(pixels[:, 0], dtype=torch.bool))
    assert expected["guided_gradcam"].any()
    assert max(largest_errors(session(pixels), expected).values()) < 2e-5


NETWORKS = [
    ("FPN", "resnext50_32x4d"), ("Unet", "mit_b0"), ("DeepLabV3Plus", "resnet18"),
]  # fmt: skip

MORE = [
    *((name, "resnet18") for name in (
        "FPN", "Unet", "UnetPlusPlus", "DeepLabV3", "Linknet", "PSPNet", "UPerNet", "MAnet",
        "PAN", "Segformer",
    )),
    ("FPN", "tu-mobilenetv3_small_100"), ("Unet", "mobilenet_v2"), ("FPN", "efficientnet-b0"),
    ("Unet", "se_resnet50"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [
        *(pytest.param(*names, marks=pytest.mark.thorough) for names in NETWORKS),
        *(pytest.param(*names, marks=pytest.mark.slow) for names in MORE),
    ],
)
def test_architectures(architecture: str, encoder: str) -> None:
    """Compared with float64, as PyTorch is: untrained networks exaggerate roundings."""
    model = tiny_model(smp_network(architecture, encoder), None)
    guided = why_not_guided(model.network) is None
    methods = ("gradcam", "gradcampp", "layercam", *(("guided_gradcam",) if guided else ()))
    engine, size = Engine(model, methods), 128 if architecture == "PAN" else 64
    compute = results_of(engine, "maps")
    session = OnnxSession(export(compute, images(1, size)[0]))
    double = replace(model, network=copy.deepcopy(model.network).double())
    pixels, valid = tiles(4, size)
    exact = results_of(Engine(double, methods), "maps")(pixels.double(), valid)
    found, rounding = (
        {name: 1 - r for name, r in map_error(maps, exact).correlation.items()}
        for maps in (session(pixels, valid), compute(pixels.float(), valid))
    )
    for name, lost in found.items():
        assert lost < max(UNTRAINED, 10 * rounding[name]), (name, lost, rounding[name])


def test_layouts_for_deepness() -> None:
    model = in_float32(tiny_model(tiny_network()))
    engine = Engine(model, ("gradcam", "guided_gradcam"))
    pixels = images(2, 32, seed=3)
    maps = tiny_file("mean")[1](pixels)
    layers = OnnxSession(export(results_of(engine, "regressor"), pixels[0]))(pixels)
    assert {values.shape for values in layers.values()} == {(2, 1, 32, 32)}
    torch.testing.assert_close(
        layers["probability water heater"][:, 0], maps["probability"][:, 2], rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        layers["guided_gradcam pool heater"][:, 0], maps["guided_gradcam"][:, 2]
    )
    assert list(OnnxSession(export(results_of(engine, "segmentor"), pixels[0]))(pixels)) == [
        "probability"
    ]


def test_metadata() -> None:
    engine = Engine(in_float32(tiny_model(tiny_network())), ("gradcam",), score="predicted")
    settings, tiling = ModelSettings(gsd_m=0.08), TilingSettings(size=320, overlap=70)
    facts = metadata(engine, "maps", settings, tiling, "CC-BY-4.0")
    session = OnnxSession(export(results_of(engine, "maps"), images(1, 32)[0], facts))
    found = session.metadata
    assert found == facts
    assert [entry["name"] for entry in json.loads(found["classes"])][1] == "solar panel"
    assert json.loads(found["classes"])[1]["color"] == "#00FF00"
    assert json.loads(found["ground_sampling_m"]) == 0.08
    assert json.loads(found["input_scaling"])["input_max"] == 1
    assert (found["score"], found["target_layer"]) == ("predicted", "encoder.conv3")
    assert (found["checkpoint_sha256"], found["license"]) == ("0" * 64, "CC-BY-4.0")
    assert "model_type" not in found  # Deepness cannot read maps of several sizes


def test_deepness_gets_pixels_and_names_as_it_reads_them() -> None:
    """By the rules of its ``processing/models/model_base.py`` (version 0.6.5)."""
    engine = Engine(in_float32(tiny_model(tiny_network())))
    settings, tiling = ModelSettings(gsd_m=0.08), TilingSettings()
    for layout in ("segmentor", "regressor"):
        facts = metadata(engine, layout, settings, tiling, None)
        assert json.loads(facts["model_type"]).capitalize() == layout.capitalize()
        assert json.loads(facts["resolution"]) == pytest.approx(8)  # cm
        outputs = len(results_of(engine, layout)(images(1, 32).float(), torch.ones(1, 32, 32) > 0))
        assert len(json.loads(facts["class_names"])) == outputs
        pixels = images(1, 32).float().numpy()
        mean, std = (
            torch.tensor(json.loads(facts[f"standardization_{name}"])).view(3, 1, 1).numpy()
            for name in ("mean", "std")
        )
        torch.testing.assert_close(
            torch.from_numpy((pixels / 255.0 - mean) / std), torch.from_numpy(pixels)
        )


def eager_engine(model: Model, **options: object) -> OnnxEngine:
    """Make an engine that makes its sessions at once."""
    engine = OnnxEngine(model, STABLE, **options)
    engine.patience = 0
    return engine


@pytest.mark.parametrize(
    ("score", "where"),
    [
        ("mean", "all"),
        pytest.param("predicted", "all", marks=pytest.mark.thorough),
        pytest.param("mean", "detected", marks=pytest.mark.thorough),
    ],
)
def test_the_engine_repeats_autograd(score: str, where: str) -> None:
    model = in_float32(tiny_model(tiny_network()))
    engine = eager_engine(model, score=score, where=where)
    for seed in (1, 1, 2):  # the second and third time by onnxruntime
        batch = tiles(6, 32, seed)
        expected = Engine(model, STABLE, score=score, where=where)(*batch)
        found = engine(*batch)
        assert found.explained.equal(expected.explained)
        assert found.singular == expected.singular
        assert max(largest_errors(found.heat, expected.heat).values()) < 1e-4
        torch.testing.assert_close(found.probability, expected.probability)
    assert any(engine.replays.values())


@pytest.mark.thorough
def test_the_engine_leaves_to_autograd_what_is_not_exact(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = in_float32(tiny_model(tiny_network()))
    engine, batch = eager_engine(model), tiles(2, 32)
    engine.tolerance = 1e-12
    with caplog.at_level(logging.WARNING):
        engine(*batch)
    assert "autograd explains the tiles" in caplog.text
    assert engine(*batch).heat["gradcam"].equal(Engine(model, STABLE)(*batch).heat["gradcam"])
