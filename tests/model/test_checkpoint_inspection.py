"""Load checkpoints of every layout, and refuse those that hold code or do not fit."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file
from support.networks import CAPE_TOWN_LAYER, cape_town_network, lightning_checkpoint, smp_network

from capecam.attribution.engine import Engine
from capecam.errors import CheckpointError, SettingsError
from capecam.model.checkpoint import read_weights
from capecam.model.model import find_layer, load_model
from capecam.run.checkpoint_inspection import inspect_checkpoint
from capecam.settings import ClassSettings, ModelSettings
from capecam.settings.loading import load

CAPE_TOWN = load(Path(__file__).parents[2] / "configs" / "capetown.yaml").model
SMALL = ModelSettings(architecture="Unet", encoder="resnet18")


@pytest.fixture(scope="module")
def lightning(tmp_path_factory) -> Path:
    return lightning_checkpoint(tmp_path_factory.mktemp("ckpt") / "pv-model-epoch=38.ckpt")


@pytest.fixture(scope="module")
def small() -> dict[str, torch.Tensor]:
    return smp_network("Unet", "resnet18").state_dict()


def test_the_lightning_checkpoint_of_cape_town(lightning: Path) -> None:
    model = load_model(lightning, CAPE_TOWN)
    assert model.ignored == ("ce_loss.weight",)
    assert model.target_layer == CAPE_TOWN_LAYER
    assert model.normalisation.input_max == 255
    assert model.normalisation.mean == pytest.approx((0.485, 0.456, 0.406))
    assert not model.network.training
    assert not any(p.requires_grad for p in model.network.parameters())
    expected = cape_town_network().state_dict()
    for key, value in model.network.state_dict().items():
        assert torch.equal(value, expected[key]), key
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(model.network(x), cape_town_network()(x))


def saved_as(kind: str, state: dict[str, torch.Tensor], folder: Path) -> Path:
    if kind == "state dict":
        torch.save(state, folder / "a.pt")
        return folder / "a.pt"
    if kind == "old format":
        torch.save(state, folder / "a.pt", _use_new_zipfile_serialization=False)
        return folder / "a.pt"
    if kind == "safetensors":
        save_file(state, folder / "a.safetensors")
        return folder / "a.safetensors"
    if kind == "half precision":
        save_file(
            {k: v.half() if v.ndim else v for k, v in state.items()}, folder / "a.safetensors"
        )
        return folder / "a.safetensors"
    network = smp.Unet("resnet18", encoder_weights=None, classes=4)
    network.load_state_dict(state)
    network.save_pretrained(folder / "a")
    return folder / "a"


@pytest.mark.parametrize(
    "kind", ["state dict", "old format", "safetensors", "half precision", "folder"]
)
def test_every_layout_gives_the_same_network(kind: str, small: dict, tmp_path: Path) -> None:
    settings = ModelSettings() if kind == "folder" else SMALL
    path = saved_as(kind, small, tmp_path)
    model = load_model(path, settings)
    assert model.ignored == ()
    assert model.architecture == "Unet (resnet18)"
    for key, value in model.network.state_dict().items():
        exact = 0 if kind != "half precision" else 1e-3
        assert torch.allclose(value, small[key], atol=exact, rtol=exact), key


def test_a_network_of_four_bands_is_refused(tmp_path: Path) -> None:
    network = smp.Unet("resnet18", encoder_weights=None, in_channels=4, classes=4)
    network.save_pretrained(tmp_path / "a")
    with pytest.raises(CheckpointError, match="takes 4 bands, but images are read as 3"):
        load_model(tmp_path / "a", ModelSettings())


def test_logits_come_out_whatever_the_folder_says_comes_after_them(tmp_path: Path) -> None:
    network = smp.Unet(
        "resnet18", encoder_weights=None, classes=4, activation="softmax2d",
        aux_params={"classes": 2},
    ).eval()  # fmt: skip
    network.save_pretrained(tmp_path / "a")
    model = load_model(tmp_path / "a", ModelSettings())
    assert {key.split(".")[0] for key in model.ignored} == {"classification_head"}
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(model.network(x).softmax(dim=1), network(x)[0])


def one_channel(folder: Path, **options) -> Path:
    smp.Unet("resnet18", encoder_weights=None, **{"classes": 1, **options}).save_pretrained(folder)
    return folder


TWO = ModelSettings(classes=ModelSettings().classes[:2])


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_one_channel_is_a_sigmoid_and_two_classes(tmp_path: Path, activation: str | None) -> None:
    model = load_model(one_channel(tmp_path, activation=activation), TWO)
    assert model.sigmoid
    assert [c.name for c in model.foreground] == ["solar panel"]
    assert not load_model(one_channel(tmp_path / "two", classes=2), TWO).sigmoid


def test_unusable_sigmoids_are_refused(tmp_path: Path) -> None:
    path = one_channel(tmp_path)
    with pytest.raises(CheckpointError, match=r"one sigmoid channel, so 2 classes, but .* names 4"):
        load_model(path, ModelSettings())
    with pytest.raises(CheckpointError, match="softmax would make 1 everywhere"):
        load_model(path, TWO.model_copy(update={"activation": "softmax"}))
    path = one_channel(tmp_path / "four", classes=4, activation="sigmoid")
    with pytest.raises(CheckpointError, match="4 sigmoid channels, whose classes may overlap"):
        load_model(path, ModelSettings())
    path = one_channel(tmp_path / "quiet", classes=4)
    with pytest.raises(CheckpointError, match="4 sigmoid channels"):
        load_model(path, ModelSettings(activation="sigmoid"))


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/capecam_was_here",)


@pytest.mark.parametrize("new", [True, False])
def test_a_pickle_with_code_is_refused_by_name(small: dict, tmp_path: Path, new: bool) -> None:
    marker = Path("/tmp/capecam_was_here")
    marker.unlink(missing_ok=True)
    torch.save(
        {"state_dict": {**small, "x": Evil()}},
        tmp_path / "a.ckpt",
        _use_new_zipfile_serialization=new,
    )
    with pytest.raises(CheckpointError, match=r"wants to run (posix|os)\.system"):
        read_weights(tmp_path / "a.ckpt")
    (tmp_path / "b.ckpt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match=r"b\.ckpt"):
        read_weights(tmp_path / "b.ckpt")
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("damage", ["half", "noise", "empty", "text"])
def test_damage_is_one_clear_error(small: dict, tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"a{suffix}"
    torch.save(small, path) if suffix == ".ckpt" else save_file(small, path)
    content = path.read_bytes()
    path.write_bytes(
        {
            "half": content[: len(content) // 2],
            "noise": b"\x80\x02}q\x00" * 99,
            "empty": b"",
            "text": b"no",
        }[damage]
    )
    with pytest.raises(CheckpointError, match=r"a\.(ckpt|safetensors): damaged or not"):
        read_weights(path)


def test_a_misfit_names_key_and_shapes(small: dict, tmp_path: Path) -> None:
    missing = {k: v for k, v in small.items() if k != "encoder.conv1.weight"}
    torch.save(missing, tmp_path / "a.pt")
    with pytest.raises(
        CheckpointError, match=r"encoder\.conv1\.weight is missing.*\(64, 3, 7, 7\)"
    ):
        load_model(tmp_path / "a.pt", SMALL)
    torch.save({**small, "encoder.conv1.weight": torch.zeros(64, 4, 7, 7)}, tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match=r"\(64, 4, 7, 7\).*\(64, 3, 7, 7\)"):
        load_model(tmp_path / "b.pt", SMALL)
    two = SMALL.model_copy(
        update={
            "classes": (
                ClassSettings(name="a", color="#000000"),
                ClassSettings(name="b", color="#111111"),
            )
        }
    )
    torch.save(small, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="has 4 classes, but the configuration names 2"):
        load_model(tmp_path / "c.pt", two)
    with pytest.raises(SettingsError, match=r"set model\.architecture and model\.encoder"):
        load_model(tmp_path / "c.pt", ModelSettings())
    with pytest.raises(SettingsError, match=r"unknown architecture 'Unett'; did you mean Unet\?"):
        load_model(tmp_path / "c.pt", ModelSettings(architecture="Unett", encoder="resnet18"))
    with pytest.raises(SettingsError, match="cannot build Unet"):
        load_model(tmp_path / "c.pt", ModelSettings(architecture="Unet", encoder="resnet1888"))


def test_layers_have_two_spellings_and_a_default() -> None:
    network = cape_town_network()
    for name in ("layer4.2.conv3", "layer4[-1].conv3", "encoder.layer4[2].conv3"):
        assert find_layer(network, name) == CAPE_TOWN_LAYER
    assert find_layer(network, None) == "encoder.layer4"
    wrapped = smp_network("FPN", "tu-resnet18d")
    assert find_layer(wrapped, "layer4.1.conv2") == "encoder.model.layer4.1.conv2"
    with pytest.raises(
        SettingsError, match=r"no layer 'layer4\.2\.conv9'; near it are: .*layer4\.2\.conv"
    ):
        find_layer(network, "layer4.2.conv9")


def test_inspect_shows_what_there_is_to_know(lightning: Path, small: dict, tmp_path: Path) -> None:
    facts = inspect_checkpoint(lightning, CAPE_TOWN)
    assert facts["architecture"] == "FPN (resnext50_32x4d)"
    assert facts["its shape"] == "(2048, 10, 10) for a tile of 320 px"
    assert facts["guided_gradcam"] == "possible"
    assert facts["ignored keys"] == "ce_loss.weight"
    assert "0..255 becomes 0..255" in facts["input scaling"]
    assert len(facts["sha256"]) == 64
    torch.save(small, tmp_path / "a.pt")
    bare = inspect_checkpoint(tmp_path / "a.pt", ModelSettings())
    assert (bare["architecture"], bare["classes"]) == ("unknown", 4)


def test_an_explained_network_stays_unchanged(small: dict, tmp_path: Path) -> None:
    torch.save(small, tmp_path / "a.pt")
    model = load_model(tmp_path / "a.pt", SMALL)
    engine = Engine(model)
    engine(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.ones(1, 64, 64, dtype=torch.bool))
    assert not any(module._forward_hooks for module in model.network.modules())
    assert all(torch.equal(v, small[k]) for k, v in model.network.state_dict().items())
