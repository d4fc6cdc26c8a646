"""The default target layer is the one whose output is the deepest feature map."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import segmentation_models_pytorch as smp
import torch
from support.networks import (
    frozen,
    images,
    tiny_network,
    warm_up,
)
from torch import Tensor, nn

from capecam.attribution.engine import Engine
from capecam.errors import SettingsError
from capecam.model.introspection import trace_forward
from capecam.model.model import Model, Normalisation, find_layer
from capecam.model.target_layer import find_encoder
from capecam.settings import CAPE_TOWN_CLASSES

NETWORKS = {
    "FPN resnet18": "layer4",
    "FPN tu-resnet18d": "model.layer4",
    "DeepLabV3Plus resnet18": "layer4",
    "PSPNet resnet18": "layer2",
    "FPN tu-mobilenetv3_small_050": "model.blocks.5",
    "FPN timm-efficientnet-b0": "blocks.6",
    # Behind the decoder's deepest map, the encoder runs on for nothing; the next module is an
    # identity, whose output is the same map.
    "PSPNet efficientnet-b0": "_blocks.4",
    # A gate of 1 x 1 pixel runs last.
    "FPN tu-legacy_seresnet18": "model.layer4",
    "Unet tu-ese_vovnet19b_slim_dw": "model.stages_3",
    # A shortcut runs last.
    "FPN tu-resnet10t": "model.layer4",
    "FPN tu-resnest14d": "model.layer4",
    "FPN tu-ghostnet_050": "model.blocks_7",
    "FPN tu-hrnet_w18_small": "model.incre_modules.3",
    # One of several branches, or a part of the channels.
    "FPN tu-densenet121": "model.features_norm5",
    "FPN tu-repghostnet_050": "model.blocks_7",
    "Unet tu-edgenext_xx_small": "model.stages_3",
    "FPN tu-dpn48b": "model.features_conv5_3",
    # A factor follows, with which training begins at 1e-6.
    "FPN tu-convnext_atto": "model.stages_3",
    "Segformer mit_b0": "norm4",  # of which the map is a copy
    # The map is no module's output: it is channels-last there.
    "Unet tu-test_mambaout": "feature_map",
}
"""Expected layer, within ``encoder``, by architecture and encoder."""

OTHERS = (
    "tu-seresnet50", "tu-hgnet_tiny", "tu-hgnetv2_b0", "tu-ese_vovnet19b_dw", "tu-ecaresnet26t",
    "tu-regnety_002", "tu-regnety_320", "tu-resnet14t", "tu-skresnet18", "tu-res2net50_14w_8s",
    "tu-resnetv2_18", "tu-gernet_s", "tu-repvgg_a0", "tu-dla46_c", "tu-cs3darknet_s",
    "tu-cspnext_s", "tu-selecsls42", "tu-rexnet_100", "tu-lcnet_050", "tu-hardcorenas_a",
    "tu-mobilenetv3_large_100", "tu-efficientnetv2_rw_t", "tu-mixnet_s", "tu-vgg11_bn",
    "tu-repvit_m1", "tu-starnet_s050", "tu-fasternet_t0", "tu-mobileone_s1", "tu-ghostnetv3_050",
    "tu-densenet121", "tu-xception41", "tu-nf_ecaresnet26", "tu-eca_nfnet_l0", "tu-rdnet_tiny",
    "tu-inception_next_atto", "tu-convnextv2_atto", "tu-edgenext_x_small", "tu-mobilevit_xxs",
    "tu-fastvit_t8", "tu-poolformer_s12", "tu-efficientvit_b0", "tu-efficientformerv2_s0",
    "tu-nextvit_small", "tu-pvt_v2_b0", "tu-davit_tiny", "tu-twins_svt_small", "tu-mvitv2_tiny",
    "tu-focalnet_tiny_srf", "tu-swin_tiny_patch4_window7_224", "tu-swinv2_cr_tiny_224",
    "tu-hiera_tiny_224", "tu-coat_lite_tiny", "tu-coatnet_pico_rw_224",
    "tu-maxvit_rmlp_pico_rw_256", "tu-halonet_h1", "tu-tiny_vit_5m_224", "tu-gcvit_xxtiny",
)  # fmt: skip
DECODERS = (
    "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus",
    "PAN", "UPerNet",
)  # fmt: skip
SWEEP = [
    *(f"FPN {name}" for name in (*smp.encoders.encoders, *OTHERS)),
    *(f"{decoder} se_resnet50" for decoder in DECODERS),
    *(f"{decoder} mit_b0" for decoder in ("FPN", "Unet", "PSPNet", "UPerNet")),
]


def built(kind: str, device: str) -> nn.Module:
    architecture, encoder = kind.split()
    with torch.random.fork_rng(), torch.device(device), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # timm-...
        torch.manual_seed(0)
        return getattr(smp, architecture)(encoder, encoder_weights=None, classes=4)


def network_of(kind: str, numbers: float) -> nn.Module:
    """Build a network; without values, if that works, where it has more than so many numbers."""
    try:
        network = built(kind, "meta")
    except (RuntimeError, NotImplementedError):
        network = built(kind, "cpu")
    if sum(parameter.numel() for parameter in network.parameters()) > numbers:
        return frozen(network)
    network = built(kind, "cpu")
    try:
        return frozen(warm_up(network, images(2, 128).float() / 255))
    except (AssertionError, RuntimeError):  # built for tiles of another size
        return frozen(network)


def check_default(network: nn.Module) -> str:
    """Check that the default layer is the deepest map that is used, and that logits need it."""
    path = find_layer(network, None)
    layer, trace = network.get_submodule(path), trace_forward(network, lambda _module: True)
    parameter = next(network.parameters())
    pixels = images(1, trace.size, seed=2).to(parameter.device, parameter.dtype) / 255
    deepest = network.encoder(pixels)[-1]
    found: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _m, _i, y: found.append(y.requires_grad_()))
    with torch.enable_grad():
        logits = network(pixels)
        gradient = torch.autograd.grad(logits.sum(), found[-1])[0]
    handle.remove()
    assert found[-1].shape == deepest.shape
    if not logits.is_meta:
        assert gradient.any()
        handle = layer.register_forward_hook(lambda _m, _i, y: torch.zeros_like(y))
        change = (network(pixels) - logits).abs().max()
        handle.remove()
        assert change > 1e-3 * logits.abs().max()
    return path


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_default_layer_is_the_deepest_map(kind: str) -> None:
    assert check_default(network_of(kind, 1e9)) == f"encoder.{NETWORKS[kind]}"


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.slow if number % 3 else pytest.mark.thorough)
        for number, kind in enumerate(SWEEP)
    ],
)
def test_the_default_layer_of_every_encoder(kind: str) -> None:
    check_default(network_of(kind, 8e6))


REFUSED: dict[str, tuple[str, str]] = {
    "a gate": ("layer4.1.se_module.fc2", "has an output of 1 x 1 pixel"),
    "behind a global pooling": ("layer4[-1].se_module", "has an output of 1 x 1 pixel"),
    "several outputs": (
        "encoder",
        r"has no output \(B, channels, h, w\), but \(1, 3, 128",
    ),
    "a layer that is not run": ("extra", "is not run"),
    "a layer without influence": ("idle", "does not determine the logits"),
    "a layer that does not exist": ("layer4.1.conv9", "has no layer"),
}


class Gated(nn.Module):
    """A gate that a module of its own computes, a layer that is never run, and one for nothing."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.encoder, self.rest = network.encoder, network
        self.extra, self.idle = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.idle(x)
        return self.rest(x)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_layer_without_a_map_is_refused_whoever_names_it(kind: str) -> None:
    name, reason = REFUSED[kind]
    network = Gated(built("FPN tu-legacy_seresnet18", "cpu").eval())
    if kind == "behind a global pooling":
        network.encoder.model.layer4[-1].se_module = nn.AdaptiveAvgPool2d(1)
    with pytest.raises(SettingsError, match=rf"{reason}.*; near it are: encoder\.\w") as error:
        find_layer(network, name)
    assert "se_module.fc" not in str(error.value).split("near it")[1], "near ones can be used"


def test_tokens_are_refused_and_the_default_has_a_map() -> None:
    network = network_of("FPN mit_b0", 1e9)
    with pytest.raises(SettingsError, match=r"but \(1, 16, 256\); near it are: .*block4\.1"):
        find_layer(network, "block4.1.attn")


def test_a_map_that_no_module_returns_gets_one() -> None:
    network = network_of("FPN tu-test_mambaout", 1e9)
    with pytest.raises(SettingsError, match=r"but \(1, 4, 4, 64\)"):
        find_layer(network, "stages_3")
    x = torch.rand(1, 3, 64, 64)
    before = network(x)
    path = find_layer(network, None)
    assert path == find_layer(network, None), "the same when it is looked for again"
    assert network(x).equal(before)
    model = Model(
        network, CAPE_TOWN_CLASSES, Normalisation(1.0, (0.5,) * 3, (0.2,) * 3), path, "", "", ()
    )
    engine = Engine(model, ["gradcam"])
    assert engine.activation_shape(320) == (64, 10, 10)
    pixels, valid = images(2, 64), torch.ones(2, 64, 64, dtype=torch.bool)
    assert engine(pixels, valid).heat["gradcam"].shape == (2, 3, 2, 2)
    assert not network.get_submodule(path)._forward_hooks


def test_an_encoder_is_found_by_each_of_its_names() -> None:
    network = tiny_network()
    path = find_layer(network, None)
    network._modules = {"features": network.encoder, **network._modules}
    assert find_layer(network, None, "encoder") == path.replace("encoder", "features")
    assert find_encoder(network, "features") is find_encoder(network, "encoder") is network.encoder
    assert find_encoder(network, "decoders") is None


@pytest.mark.parametrize("name", ["feature_map", "encoder.feature_map"])
def test_the_deepest_map_can_be_named(name: str) -> None:
    network = network_of("FPN tu-lcnet_035", 1e9)
    assert find_layer(network, name) == "encoder.feature_map"
    assert find_layer(network, name) == "encoder.feature_map", (
        "the same when it is looked for again"
    )
    trace = trace_forward(network, lambda module: module is network.encoder.feature_map)
    assert [call.outputs[0].shape for call in trace.calls] == [(1, 176, 4, 4)]


def test_the_deepest_map_is_the_last_one_that_the_decoder_reads() -> None:
    network = tiny_network()
    shallow, decoder = nn.Conv2d(3, 6, 5, stride=4, padding=2).double(), network.decoder.forward
    inner = network.encoder.forward
    network.encoder.shallow = shallow
    network.encoder.forward = lambda x: [shallow(x), inner(x)]
    reads: Callable[[list[Tensor]], Tensor] = lambda maps: decoder(maps[0])  # noqa: E731
    network.decoder.forward = reads
    assert find_layer(network, None) == "encoder.shallow"
    network.decoder.forward = lambda maps: decoder(maps[1])
    assert find_layer(network, None) == "encoder.feature_map"  # of no module, since a lambda runs
    network.decoder.forward = lambda maps: decoder(torch.zeros_like(maps[0]))
    with pytest.raises(SettingsError, match=r"set model\.target_layer"):
        find_layer(network, None)
