"""Networks are recognised by their tensors: architecture, encoder, options."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch

from capecam.errors import CheckpointError
from capecam.model.checkpoint import Weights
from capecam.model.checkpoint_facts import gsd_m, guess_classes, tile_px
from capecam.model.encoder_index import index
from capecam.model.meta import OnMeta
from capecam.model.recognition import Recognition, recognize

ARCHITECTURES = (
    "FPN", "Unet", "UnetPlusPlus", "DeepLabV3", "DeepLabV3Plus", "PAN", "MAnet", "Linknet",
    "PSPNet", "UPerNet", "Segformer",
)  # fmt: skip

ENCODERS = (
    "resnet34", "resnext50_32x4d", "se_resnext50_32x4d", "dpn68", "vgg11", "vgg13_bn",
    "densenet121", "inceptionresnetv2", "inceptionv4", "efficientnet-b0", "mobilenet_v2",
    "xception", "timm-efficientnet-b3", "timm-tf_efficientnet_lite0", "timm-skresnet18",
    "mit_b1", "mobileone_s0", "timm-regnety_002", "timm-res2net50_26w_4s", "timm-resnest14d",
    "timm-mobilenetv3_large_100", "timm-gernet_s", "tu-resnet50", "tu-resnetrs50",
    "tu-convnext_tiny", "tu-swin_tiny_patch4_window7_224", "tu-maxvit_tiny_tf_224",
    "tu-efficientnetv2_rw_t", "tu-tf_efficientnet_b0", "tu-dla34", "tu-edgenext_xx_small",
    "tu-mobilevitv2_050",
)  # fmt: skip


def network(architecture: str, encoder: str, **options) -> torch.nn.Module:
    """Make a network without numbers."""
    with OnMeta(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(smp, architecture)(
            encoder, encoder_weights=None, **{"classes": 4, **options}
        )


def weights(state: dict[str, torch.Tensor], prefix: str = "", **facts) -> Weights:
    tensors = {f"{prefix}{key}": tensor for key, tensor in state.items()}
    return Weights(Path("a.ckpt"), tensors, "0" * 64, None, facts)


def recognized(architecture: str, encoder: str, **options) -> Recognition:
    """Recognise a network by its tensors alone."""
    return recognize(weights(network(architecture, encoder, **options).state_dict(), "model."))


def recognized_with(encoder: str, architectures: Sequence[str]) -> int:
    """Recognise an encoder with several decoders; return how many of them it can have."""
    possible = 0
    for architecture in architectures:
        try:
            state = network(architecture, encoder).state_dict()
        except (ValueError, TypeError, AssertionError):
            continue  # segmentation_models_pytorch has no such network
        found, possible = recognize(weights(state)), possible + 1
        assert found.architecture == architecture
        assert encoder in (found.encoder, *found.same, *found.alike)
        assert not found.options
        assert found.channels == 4
    return possible


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ENCODERS)
def test_any_architecture_with_any_encoder(encoder: str) -> None:
    assert recognized_with(encoder, ARCHITECTURES) >= 8


@pytest.mark.thorough
@pytest.mark.parametrize("n", range(len(ENCODERS)))
def test_every_encoder_with_a_few_architectures(n: int) -> None:
    """And every architecture with a few encoders."""
    assert recognized_with(ENCODERS[n], ARCHITECTURES[n % 5 :: 5]) >= 1


@pytest.mark.parametrize(
    ("architecture", "encoder", "options"),
    [
        ("Unet", "resnet18", {"decoder_attention_type": "scse", "decoder_use_norm": "identity"}),
        ("Unet", "vgg11", {"encoder_depth": 4, "decoder_channels": [128, 64, 32, 16]}),
        ("UnetPlusPlus", "resnet18", {"decoder_channels": [64, 48, 32, 24, 16]}),
        ("FPN", "resnet18", {"decoder_merge_policy": "cat", "decoder_pyramid_channels": 64}),
        ("FPN", "tu-resnet18d", {"channels": [32, 64, 128, 224]}),
        ("FPN", "resnet18", {"encoder_depth": 4, "upsampling": 2}),
        ("PSPNet", "resnet18", {"encoder_depth": 4, "upsampling": 16, "psp_out_channels": 256}),
        ("MAnet", "resnet18", {"decoder_pab_channels": 32}),
        ("Linknet", "resnet18", {"decoder_use_norm": "identity"}),
        ("DeepLabV3Plus", "resnet18", {"decoder_channels": 64, "decoder_aspp_separable": False}),
        ("PAN", "resnet18", {"decoder_channels": 48}),
        ("UPerNet", "resnet18", {"decoder_channels": 64, "decoder_use_norm": "identity"}),
        ("Segformer", "resnet18", {"decoder_segmentation_channels": 64}),
    ],
)
def test_options_that_show_in_shapes(architecture: str, encoder: str, options: dict) -> None:
    found = recognized(architecture, encoder, **options, classes=2)
    assert (found.architecture, found.encoder) == (architecture, encoder)
    assert found.options == options
    assert found.channels == 2


def test_encoders_with_the_same_tensors_are_named() -> None:
    same = recognized("FPN", "timm-regnetx_002")
    assert (same.encoder, same.same, same.alike) == ("tu-regnetx_002", ("timm-regnetx_002",), ())
    state = network("Unet", "tu-tf_efficientnet_b0").state_dict()
    guessed = recognize(weights(state))
    assert "tu-tf_efficientnet_b0" in guessed.alike  # pads otherwise than efficientnet_b0
    named = recognize(weights(state, arch="Unet", backbone="tf_efficientnet_b0.ns_jft_in1k"))
    assert (named.encoder, named.named) == ("tu-tf_efficientnet_b0", True)
    state = network("Unet", "timm-mobilenetv3_small_100").state_dict()
    assert "timm-mobilenetv3_small_100" in recognize(weights(state)).alike
    named = recognize(weights(state, encoder_name="timm-mobilenetv3_small_100"))
    assert (named.encoder, named.named) == ("tu-tf_mobilenetv3_small_100", True)


def test_what_no_tensor_shows_is_said_or_taken_from_the_hyperparameters() -> None:
    state = network("DeepLabV3Plus", "resnet18", encoder_output_stride=8).state_dict()
    assert recognize(weights(state)).unseen["encoder_output_stride"] == 16
    assert recognize(weights(state, encoder_output_stride=8)).options == {
        "encoder_output_stride": 8
    }


def test_a_network_that_cannot_be_recognised_says_what_is_different() -> None:
    with pytest.raises(CheckpointError, match=r"takes 4 bands, but images are read as 3"):
        recognized("Unet", "resnet18", in_channels=4)
    state = dict(network("Unet", "resnet18").state_dict())
    state["encoder.layer4.1.conv2.weight"] = torch.zeros(512, 512, 1, 1)
    with pytest.raises(
        CheckpointError,
        match=r"nearest to Unet with resnet18, but 1 of \d+ tensors differ, .*layer4\.1\.conv2",
    ):
        recognize(weights(state))
    state["encoder.extra.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"that of Unet, but no encoder that is known"):
        recognize(weights(state))
    with pytest.raises(CheckpointError, match=r"a\.ckpt: its decoder is that of none of FPN, PAN"):
        recognize(weights({"segmentation_head.0.weight": torch.zeros(4, 8, 1, 1)}))


def test_every_encoder_has_a_row_of_the_index() -> None:
    import timm  # noqa: PLC0415

    names = {entry.name for entry in index()}
    assert set(smp.encoders.get_encoder_names()) <= names
    assert len(names & {f"tu-{name}" for name in timm.list_models()}) > 900


def test_facts_of_a_checkpoint() -> None:
    classes, source = guess_classes(3, {"class_names": ["solar", "pool"]})
    assert ([c.name for c in classes], source) == (
        ["background", "solar", "pool"], "class_names of the checkpoint"
    )  # fmt: skip
    assert [c.name for c in guess_classes(1, {})[0]] == ["background", "solar panel"]
    assert len({c.color for c in guess_classes(12, {})[0]}) == 12
    assert gsd_m({"gsd_m": 0.1, "tile_size": 512}) == 0.1
    assert tile_px({"image_size": [512, 512]}) == 512
