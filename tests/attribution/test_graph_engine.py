"""The engine that replays graphs gives the maps of autograd, bit for bit."""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence

import pytest
import torch
from support.networks import cape_town_model, images, smp_network, tiny_model, tiny_network
from torch import Tensor, nn

from capecam.attribution.engine import Engine
from capecam.attribution.graph.graph_engine import GraphEngine
from capecam.attribution.maps import Maps
from capecam.attribution.methods import CAMS
from capecam.model.introspection import why_not_guided
from capecam.model.model import Model
from capecam.settings import METHODS


def tiles(count: int, size: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    pixels, valid = images(count, size, seed), torch.ones(count, size, size, dtype=torch.bool)
    valid[0, size // 2 :] = False
    return pixels, valid


def prompt_engine(model: Model, methods: Sequence[str] = METHODS, **options: object) -> GraphEngine:
    """Make an engine that captures its graphs at once."""
    engine = GraphEngine(model, methods, **options)
    engine.patience = 0
    return engine


def same(some: Maps, others: Maps) -> None:
    assert some.probability.equal(others.probability)
    assert any(heat.any() for heat in others.heat.values())
    assert some.singular == others.singular
    for method in others.heat:
        assert some.heat[method].equal(others.heat[method]), method


@pytest.mark.parametrize("score", ["mean", "predicted"])
@pytest.mark.parametrize("where", ["all", "detected"])
def test_graphs_repeat_autograd_bit_for_bit(score: str, where: str) -> None:
    model = tiny_model(tiny_network())
    engine = prompt_engine(model, score=score, where=where)
    for seed in (1, 1, 2):  # the second and third time by the graph
        batch = tiles(6, 32, seed)
        same(engine(*batch), Engine(model, METHODS, score=score, where=where)(*batch))
    assert any(engine.replays.values())


@pytest.mark.thorough
def test_graphs_of_the_cape_town_network() -> None:
    engine, first, second = prompt_engine(cape_town_model()), tiles(2, 96), tiles(2, 96, seed=2)
    engine(*first)
    assert all(engine.replays.values())
    same(engine(*second), Engine(cape_town_model(), METHODS)(*second))


NETWORKS = ["Unet resnet18"]

MORE = [
    "UnetPlusPlus resnet18", "DeepLabV3Plus resnet18", "PAN resnet18", "Unet mobilenet_v2",
    "FPN se_resnet50", "FPN mit_b0", "FPN tu-convnextv2_atto",
]  # fmt: skip
"""One of each kind: nested and dilated decoders, attention, ReLU6, transformers, layer norms."""

OTHERS = [
    *(f"{decoder} resnet18" for decoder in (
        "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "UPerNet",
    )),
    "FPN tu-regnetx_002", "Unet vgg11", "Unet tu-efficientnet_b0", "FPN tu-mobilevit_xxs",
    "PAN resnext50_32x4d",
]  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [
        *NETWORKS,
        *(pytest.param(kind, marks=pytest.mark.thorough) for kind in MORE),
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in OTHERS),
    ],
)
def test_graphs_of_other_networks(kind: str) -> None:
    architecture, encoder = kind.split()
    size = 128 if architecture == "PAN" else 64  # it pools three times behind its encoder
    model = tiny_model(smp_network(architecture, encoder), None)
    methods = tuple(CAMS) if why_not_guided(model.network) else METHODS
    engine = prompt_engine(model, methods)
    first, second = tiles(2, size), tiles(2, size, seed=2)
    engine(*first)
    assert all(engine.replays.values())
    same(engine(*second), Engine(model, methods)(*second))


@pytest.mark.parametrize(
    "method",
    [
        "gradcam",
        pytest.param("guided_gradcam", marks=pytest.mark.thorough),
        pytest.param("guided_gradcam_shared", marks=pytest.mark.thorough),
    ],
)
def test_capturing_keeps_no_activations(method: str) -> None:
    model = tiny_model(smp_network("FPN", "resnet18"), None)
    engine, batch = GraphEngine(model, [method]), tiles(2, 64)
    engine.patience = 1
    engine(*batch)
    before = tensors_of_autograd()
    engine(*batch)
    assert all(engine.replays.values())
    assert tensors_of_autograd() == before


def tensors_of_autograd() -> int:
    """Return how many tensors wait for a backward pass."""
    gc.collect()
    tensors = [x for x in gc.get_objects() if issubclass(type(x), Tensor)]
    return sum(x.grad_fn is not None for x in tensors)


class Deciding(nn.Module):
    """A network that looks at the values of a tile to decide what to do."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.encoder = network.encoder

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.network(x)
        return out * 2 if x.mean() > 0 else out


def test_what_depends_on_values_is_left_to_autograd(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model(Deciding(tiny_network()).eval())
    engine = prompt_engine(model)
    pixels, valid = tiles(2, 32)
    with caplog.at_level(logging.WARNING):
        engine(pixels, valid)
    assert "autograd explains the tiles" in caplog.text
    for batch in (pixels, 255 - pixels):
        assert (
            engine(batch, valid)
            .heat["gradcam"]
            .equal(Engine(model, METHODS)(batch, valid).heat["gradcam"])
        )
