"""Networks of any library, adapted in memory, against independent code."""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from captum.attr import LayerGradCam
from support.cities import blobs, quick_settings, write_tif
from support.networks import images
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18, segmentation
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from capecam.analysis.audit.randomization import stages
from capecam.api import (
    Engine,
    Model,
    Normalisation,
    Panels,
    adapt_network,
    explain_object,
    read_detections,
    run,
)
from capecam.attribution.object_engine import ObjectEngine, Targets
from capecam.errors import CapecamError, CheckpointError, SettingsError
from capecam.settings import ClassSettings

CLASSES = ("background", "solar panel", "water heater", "pool heater")

PIXELS = images(2, 64, seed=5)

VALID = torch.ones(2, 64, 64, dtype=torch.bool)


class Own(nn.Module):
    """A network of one's own: no encoder, and a tuple with logits at a quarter of the size."""

    def __init__(self, channels: int = 4, bands: int = 3) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(bands, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()
        )
        self.head = nn.Conv2d(8, channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.down(x)
        return self.head(features), features.mean(dim=(2, 3))


def backbone(**layers: str) -> nn.Module:
    return IntermediateLayerGetter(resnet18(), layers)


def deeplab() -> nn.Module:
    return segmentation.DeepLabV3(backbone(layer4="out"), DeepLabHead(512, 4))


def fcn() -> nn.Module:
    """FCN with an auxiliary classifier, whose logits are not explained."""
    layers = backbone(layer3="aux", layer4="out")
    return segmentation.FCN(layers, FCNHead(512, 4), FCNHead(256, 4))


def segformer() -> nn.Module:
    transformers = importlib.import_module("transformers")
    config = transformers.SegformerConfig(
        num_labels=4, depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], decoder_hidden_size=16,
        num_attention_heads=[1, 2, 2, 4],
    )  # fmt: skip
    return transformers.SegformerForSemanticSegmentation(config)


class Kind(NamedTuple):
    """A network, and what is expected of it."""

    build: Callable[[], nn.Module]
    logits: Callable[[object], Tensor]
    """Takes the logits out of what the network returns."""
    layer: str
    """Default target layer."""
    target_layer: str | None = None
    """Layer that is asked for."""


KINDS = {
    "DeepLabV3": Kind(deeplab, lambda result: result["out"], "backbone.layer4"),
    "FCN": Kind(fcn, lambda result: result["out"], "backbone.layer4"),
    "SegFormer": Kind(segformer, lambda result: result.logits, "segformer.stages.3"),
    # transformers reads the output of a stage by hooks of its own.
    "SegFormer, stage 1": Kind(
        segformer, lambda result: result.logits, "segformer.stages.1", "stages.1"
    ),
    "own": Kind(Own, lambda result: result[0], "down.3", "down[-1]"),
}

LONGER = ("FCN", "SegFormer", "SegFormer, stage 1")
"""Networks of the longer tests; transformers takes seconds to import."""


@cache
def network_of(name: str) -> nn.Module:
    """Build a seeded float64 network in eval mode; it is cached, so it must not be changed."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return KINDS[name].build().double().eval()


def by_imagenet(pixels: Tensor) -> Tensor:
    """Normalise as torchvision's and transformers' documentation says."""
    mean, std = (
        torch.tensor(values, dtype=torch.float64).view(3, 1, 1)
        for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    return (pixels.double() / 255 - mean) / std


def upsampled(logits: Tensor) -> Tensor:
    return F.interpolate(logits, (64, 64), mode="bilinear", align_corners=False)


def gradcam_by_hooks(name: str, x: Tensor, class_id: int) -> Tensor:
    """Selvaraju 2017, eq. 1 and 2, of one tile of a network that is left as it is: (h, w)."""
    network, kept = network_of(name), list[Tensor]()
    module = network.get_submodule(KINDS[name].layer)
    handle = module.register_forward_hook(lambda _m, _i, output: kept.append(output))
    logits = upsampled(KINDS[name].logits(network(x.clone().requires_grad_())))
    handle.remove()
    gradient = torch.autograd.grad(logits[0, class_id].mean(), kept[0])[0]
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return (weights * kept[0]).sum(dim=1).relu()[0].detach()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.thorough] * (name in LONGER)) for name in KINDS],
)
def test_maps_are_those_of_hooks_by_hand_and_of_captum(name: str) -> None:
    kind, network = KINDS[name], network_of(name)
    model = adapt_network(network, CLASSES, target_layer=kind.target_layer)
    assert model.target_layer == kind.layer
    maps = Engine(model, ["gradcam"])(PIXELS, VALID)
    x = by_imagenet(PIXELS)
    with torch.no_grad():
        expected = upsampled(kind.logits(network(x))).softmax(dim=1)
    torch.testing.assert_close(maps.probability, expected)
    captum = LayerGradCam(
        lambda x: upsampled(kind.logits(network(x))).mean(dim=(2, 3)),
        network.get_submodule(kind.layer),
    )
    assert maps.heat["gradcam"].any()
    for class_id in (1, 2, 3):
        third = captum.attribute(x, class_id, relu_attributions=True)[:, 0]
        for n, heat in enumerate(maps.heat["gradcam"][:, class_id - 1]):
            by_hand = gradcam_by_hooks(name, x[n : n + 1], class_id)
            scale = float(by_hand.abs().max()) or 1.0
            torch.testing.assert_close(heat / scale, by_hand / scale)
            torch.testing.assert_close(heat / scale, third[n] / scale)


def test_the_network_stays_as_it_is() -> None:
    network = deeplab().train()
    before = copy.deepcopy(network.state_dict())
    adapt_network(network, CLASSES)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.thorough
def test_objects_are_explained_at_the_feature_map_of_the_encoder() -> None:
    inside = torch.zeros(2, 64, 64, dtype=torch.bool)
    inside[:, 20:40, 20:40] = True
    targets = Targets(torch.tensor([1, 2]), inside)
    for name, edge in (("SegFormer", 8), ("DeepLabV3", 2), ("own", 16)):
        layer = KINDS[name].target_layer
        model = adapt_network(network_of(name), CLASSES, target_layer=layer)
        heat, _ = ObjectEngine(model).maps(PIXELS, VALID, targets)
        assert heat.shape == (2, edge, edge), name


def test_an_encoder_that_is_a_list_has_no_feature_maps() -> None:
    class Listed(Own):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.ModuleList([self.down])

    with pytest.raises(SettingsError, match=r"uses no feature map; set model.target_layer"):
        adapt_network(Listed(), CLASSES)
    model = adapt_network(Listed(), CLASSES, target_layer="0")
    assert model.target_layer == "encoder.0"
    inside = VALID & (torch.arange(64) < 30)
    heat, _ = ObjectEngine(model).maps(PIXELS, VALID, Targets(torch.tensor([1, 2]), inside))
    assert heat.shape == (2, 16, 16)


def test_a_network_is_randomised_from_its_head() -> None:
    model = adapt_network(network_of("DeepLabV3"), CLASSES)
    found = stages(model.network, model.target_layer, model.encoder)
    assert found == ("classifier", "backbone.layer4")


def test_guided_maps_need_relus() -> None:
    chain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 4, 3))
    with pytest.raises(SettingsError, match="the network uses Gelu where a ReLU is needed"):
        Engine(adapt_network(chain, CLASSES, target_layer="1"), ["guided_gradcam"])
    Engine(adapt_network(Own(), CLASSES, target_layer="down"), ["guided_gradcam"])


@contextmanager
def refused(kind: type[CapecamError], match: str) -> Iterator[None]:
    with pytest.raises(kind, match=match) as caught:
        yield
    assert "\n" not in str(caught.value)


def test_what_cannot_be_adapted_says_why() -> None:
    own = Own()
    with refused(SettingsError, r"no module encoder; set model.target_layer, such as down"):
        adapt_network(own, CLASSES)
    with refused(SettingsError, r"no layer 'up'.*near it are"):
        adapt_network(own, CLASSES, target_layer="up")
    with refused(CheckpointError, r"^Own: the network has 4 classes, but .* names 2"):
        adapt_network(own, CLASSES[:2], target_layer="down")
    with refused(SettingsError, r"Own takes no tile .*5, 3, 3.*RGB"):
        adapt_network(Own(bands=5), CLASSES, target_layer="down")
    with refused(SettingsError, r"returns tuple, and no logits .* at output 1; set output"):
        adapt_network(own, CLASSES, target_layer="down", output=1)
    with refused(SettingsError, r"returns OrderedDict with out, and no .* at output 'logits'"):
        adapt_network(deeplab(), CLASSES, output="logits")
    with refused(SettingsError, r"Sequential returns probabilities"):
        chain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Softmax(dim=1))
        adapt_network(chain, CLASSES, target_layer="0")
    for channels, last in ((4, nn.Sigmoid()), (1, nn.Sigmoid()), (1, nn.Hardsigmoid())):
        chain = nn.Sequential(nn.Conv2d(3, channels, 1), last, nn.Upsample(scale_factor=0.5))
        with refused(SettingsError, r"probabilities.* or sigmoid"):
            adapt_network(chain, CLASSES[: max(channels, 2)], target_layer="0")
    normed = Own()
    normed.computed = 2 * normed.head.weight  # as nn.utils.weight_norm does, which is deprecated
    with refused(SettingsError, r"^Own cannot be copied .*remove_weight_norm"):
        adapt_network(normed, CLASSES, target_layer="down")
    with refused(SettingsError, r"std must be above 0"):
        Normalisation(std=(0.2, 0.2, 0.0))
    own.head.weight.data[0] = torch.nan
    with refused(CheckpointError, r"^Own: head.weight holds NaN"):
        adapt_network(own, CLASSES, target_layer="down")


def test_logits_are_found_by_key_and_by_index() -> None:
    auxiliary = adapt_network(network_of("FCN"), CLASSES, target_layer="layer3", output="aux")
    x = by_imagenet(PIXELS)
    with torch.no_grad():
        torch.testing.assert_close(auxiliary.network(x), network_of("FCN")(x)["aux"])
        for index in (0, -2):
            model = adapt_network(network_of("own"), CLASSES, target_layer="down", output=index)
            torch.testing.assert_close(model.network(x), upsampled(network_of("own")(x)[0]))


def test_one_channel_is_a_sigmoid_and_colours_can_be_given() -> None:
    panel = ClassSettings(name="solar panel", color="#123456")
    model = adapt_network(Own(channels=1), ["roof", panel], target_layer="down")
    assert model.sigmoid
    assert [entry.color for entry in model.classes] == ["#000000", "#123456"]
    maps = Engine(model, ["gradcam"])(PIXELS, VALID)
    assert maps.probability.shape == (2, 2, 64, 64)


def test_the_checksum_is_that_of_the_weights() -> None:
    def checksum(network: nn.Module) -> str:
        return adapt_network(network, CLASSES, target_layer="down").sha256

    network = Own()
    same = Own()
    same.load_state_dict(network.state_dict())
    assert checksum(network) == checksum(same)
    assert checksum(Own()) != checksum(network)
    assert checksum(copy.deepcopy(network).double()) != checksum(network), "another type"
    same.head.bias.data[3] += 1e-6
    assert checksum(same) != checksum(network)


def test_states_that_are_no_tensors_are_left_out() -> None:
    class Stateful(Own):
        def get_extra_state(self) -> dict[str, int]:
            return {"steps": 3}

        def set_extra_state(self, state: object) -> None: ...

    network, plain = Stateful(), Own()
    plain.load_state_dict(network.state_dict(), strict=False)
    adapted = adapt_network(network, CLASSES, target_layer="down")
    assert adapted.sha256 == adapt_network(plain, CLASSES, target_layer="down").sha256


def test_the_checksum_tells_what_is_chosen_in_a_network() -> None:
    class Encoded(Own):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = self.down[:2]

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.head(self.down[2:](self.encoder(x)))
            return logits, -logits

    network = Encoded()

    def checksum(**chosen: str | int) -> str:
        return adapt_network(network, CLASSES, target_layer="down.2", **chosen).sha256

    found = checksum()
    assert checksum(encoder="encoder") == found, "the one that is found by itself"
    others = {checksum(output=0), checksum(output=1), checksum(encoder="down.2")}
    assert len(others | {found}) == 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    write_tif(folder / "in" / "1.tif", blobs(128, 128, seed=2))
    return folder


def own_model(seed: int = 0) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return adapt_network(Own(), CLASSES, Normalisation(255), target_layer="down")


@pytest.mark.thorough
def test_a_city_is_run_with_a_network_in_memory(folder: Path) -> None:
    model = own_model()
    settings = quick_settings(
        folder, tiling__size=64, tiling__stride=8, objects__explain=2, model__gsd_m=0.08,
        checkpoint=str(folder / "another.pt"),
    )  # fmt: skip
    outcome = run(settings, model=model)
    assert outcome.exit_code == 0
    record = json.loads((outcome.out / "run.json").read_text())
    assert record["checkpoint"]["sha256"] == model.sha256
    assert record["checkpoint"]["architecture"] == "Own"
    assert record["settings"]["checkpoint"] is None
    described = record["settings"]["model"]
    assert (described["input_max"], described["gsd_m"]) == (255, 0.08)
    assert [entry["name"] for entry in described["classes"]] == list(CLASSES)
    assert described["target_layer"] == "down"

    assert run(settings, model=own_model()).done == 0, "the same weights: nothing to do"
    found = read_detections(outcome.out)
    explained = explain_object(outcome.out, found["id"][0], model=own_model())
    assert explained.class_name == found["class"][0]
    with Panels.open(outcome.out, model=model) as panels:
        assert panels.of_detection(found["id"][0]).provenance.network == "Own"
    with refused(CheckpointError, r"its network \(Own, sha256 .* in memory; adapt it again"):
        explain_object(outcome.out, found["id"][0])
    with refused(CheckpointError, r"Own: is not the checkpoint of the run"):
        explain_object(outcome.out, found["id"][0], model=own_model(seed=1))
    assert run(settings, model=own_model(seed=1)).done == 1, "other weights: made again"
