"""The network of a checkpoint and its normalisation are found however they are wrapped."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file
from torch import Tensor

from capecam.attribution.engine import Engine
from capecam.errors import CheckpointError, SettingsError
from capecam.grid import Tiling
from capecam.model.architecture import Budget
from capecam.model.model import Model, check_tile, load_model
from capecam.model.normalisation import Normalisation
from capecam.pipeline.calibration import calibration_key, why_not_usable
from capecam.run.checkpoint_inspection import inspect_checkpoint
from capecam.settings import IMAGENET_MEAN, IMAGENET_STD, ModelSettings
from capecam.settings.loading import load
from capecam.store.records import CalibrationRecord

State = dict[str, Tensor]

OPTIONS = {"decoder_channels": [32, 16, 8, 8, 8]}
SETTINGS = ModelSettings(architecture="Unet", encoder="tu-lcnet_035", options=OPTIONS)
HEAD = "segmentation_head.0.bias"
CONFIGS = Path(__file__).parents[2] / "configs"


def state(seed: int = 0) -> State:
    """Make a network's tensors; the seed is also the bias of its last layer."""
    torch.manual_seed(seed)
    network = smp.Unet("tu-lcnet_035", encoder_weights=None, classes=4, **OPTIONS)
    return {**network.state_dict(), HEAD: torch.full((4,), float(seed))}


def behind(prefix: str, tensors: State) -> State:
    return {prefix + key: tensor for key, tensor in tensors.items()}


def triple(*values: float) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)


MEAN, STD = triple(0.3, 0.4, 0.5), triple(0.1, 0.2, 0.3)
PAIR = {"mean": MEAN, "std": STD}


def loaded(content: object, folder: Path, settings: ModelSettings = SETTINGS) -> Model:
    torch.save(content, folder / "a.pt")
    return load_model(folder / "a.pt", settings)


def seed_of(model: Model) -> float:
    """Return the seed of the network that was loaded."""
    return float(model.network.state_dict()[HEAD][0])


# --- Wrappers -------------------------------------------------------------------------------------

WRAPPERS: dict[str, Callable[[State], object]] = {
    **{
        name: lambda state, name=name: {"epoch": 3, name: state, "optimizer": {"lr": 1e-3}}
        for name in ("state_dict", "model", "model_state_dict", "net", "network", "weights")
    },
    "one in another": lambda state: {"checkpoint": {"model": state}, "args": {"a": [1]}},
    "torch.compile of DataParallel": lambda state: behind("_orig_mod.module.", state),
    "DataParallel of torch.compile": lambda state: behind("module._orig_mod.", state),
    "all of it": lambda state: {"model": behind("module.model._orig_mod.", state)},
    "beside what is no network": lambda state: {"state_dict": {"a": torch.ones(1)}, "net": state},
}


@pytest.mark.parametrize("kind", WRAPPERS)
@pytest.mark.parametrize("new", [True, False])
def test_the_network_is_found_in_its_wrapping(kind: str, new: bool, tmp_path: Path) -> None:
    expected = state(3)
    torch.save(WRAPPERS[kind](expected), tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    model = load_model(tmp_path / "a.pt", SETTINGS)
    assert model.ignored == ()
    assert all(tensor.equal(expected[key]) for key, tensor in model.network.state_dict().items())


def test_dicts_without_end_are_not_followed(tmp_path: Path) -> None:
    deep: dict[str, object] = {"a" * 5000: {"mean": MEAN}}
    for _ in range(300):
        deep = {"a": deep, "b": deep}
    assert seed_of(loaded({"x": deep, "model": state(1)}, tmp_path)) == 1
    with pytest.raises(CheckpointError, match="holds more than 16 networks; save one alone"):
        loaded({str(n): {"segmentation_head.0.weight": MEAN} for n in range(20)}, tmp_path)


# --- Several networks -----------------------------------------------------------------------------

SEVERAL: dict[str, tuple[Callable[[State, State], object], str, str]] = {
    "EMA in Lightning": (
        lambda a, b: {"state_dict": behind("model.", a) | behind("ema_model.module.", b)},
        "model", "ema_model"),
    "EMA beside keys without a prefix": (lambda a, b: a | behind("ema.", b), ".", "ema"),
    "teacher and student": (
        lambda a, b: behind("net.student.", a) | behind("net.teacher.", b),
        "net.student", "net.teacher."),
    "two state dicts": (
        lambda a, b: {"state_dict": a, "state_dict_ema": b}, "state_dict", "state_dict_ema"),
    "in one file, by name": (
        lambda a, b: {"epoch": 1, "model": {"net": behind("module.", a)}, "ema": {"state": b}},
        "model.net.module", "ema"),
}  # fmt: skip
"""Content, and the names of the two networks in it."""


@pytest.mark.parametrize("kind", SEVERAL)
def test_of_several_networks_none_is_taken_unless_it_is_chosen(kind: str, tmp_path: Path) -> None:
    content, *names = SEVERAL[kind]
    saved = content(state(1), state(2))
    with pytest.raises(CheckpointError, match=r"holds 2 networks: .*--weights") as error:
        loaded(saved, tmp_path)
    assert all(name.strip(".") in str(error.value) for name in names)
    for seed, name in enumerate(names, start=1):
        model = loaded(saved, tmp_path, SETTINGS.model_copy(update={"weights": name}))
        assert seed_of(model) == seed
        assert model.weights == name
        assert len(model.ignored) < 300
    for name in ("gone", "n"):
        with pytest.raises(CheckpointError, match=f"none of the name '{name}'"):
            loaded(saved, tmp_path, SETTINGS.model_copy(update={"weights": name}))


def test_a_name_that_several_networks_begin_with_chooses_none(tmp_path: Path) -> None:
    saved = behind("net.student.", state(1)) | behind("net.teacher.", state(2))
    with pytest.raises(CheckpointError, match=r"net\.student, net\.teacher, and several of"):
        loaded(saved, tmp_path, SETTINGS.model_copy(update={"weights": "net"}))


def test_a_network_under_two_names_is_one(tmp_path: Path) -> None:
    one = state(1)
    model = loaded(behind("model.", one) | behind("wrapped.model.", copy.deepcopy(one)), tmp_path)
    assert seed_of(model) == 1
    assert model.ignored == ("wrapped.model.*",)
    save_file(behind("a.", one) | behind("b.", state(2)), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="holds 2 networks: a, b"):
        load_model(tmp_path / "a.safetensors", SETTINGS)


def test_other_weights_of_a_file_are_another_network_for_a_run(tmp_path: Path) -> None:
    saved = behind("model.", state(1)) | behind("ema.", state(2))
    chosen = SETTINGS.model_copy(update={"weights": "ema"})
    engine = Engine(loaded(saved, tmp_path, chosen), ["gradcam"])
    key = calibration_key(engine)
    calibration = CalibrationRecord(scale_max={"gradcam": (1.0,) * 3}, key=key, tiles=1)
    assert why_not_usable(calibration, engine) is None
    engine.model = replace(engine.model, weights="model")
    assert why_not_usable(calibration, engine) == "weights is ema, this run has model"
    engine.model = replace(engine.model, weights=None)
    assert why_not_usable(calibration, engine) == "weights is ema, this run has None"
    assert inspect_checkpoint(tmp_path / "a.pt", chosen)["weights"] == "ema"


# --- Normalisation --------------------------------------------------------------------------------

BESIDE: dict[str, Callable[[State], object]] = {
    **{
        prefix: lambda net, prefix=prefix: behind("model.", net) | behind(prefix, PAIR)
        for prefix in ("", "model.", "module.", "net.", "model.preprocess.", "norm.pixel_", "_")
    },
    "around": lambda net: behind("module.model.", net) | behind("module.", PAIR),
    "in the wrapping": lambda net: {"model": net, **PAIR},
    "in a dict of its own": lambda net: {"state_dict": net, "transform": PAIR},
    "as numbers": lambda net: {"model": net, "mean": [0.3, 0.4, 0.5], "std": (0.1, 0.2, 0.3)},
    "twice": lambda net: behind("model.", net) | PAIR | behind("model.", PAIR),
    "nearer than that of a loss": lambda net: (
        behind("model.", net) | PAIR | behind("loss.vgg.", {"mean": STD, "std": MEAN})),
    "of the network that is chosen": lambda net: (
        behind("chosen.", net | PAIR) | behind("other.", state(8) | {"mean": STD, "std": MEAN})),
}  # fmt: skip


@pytest.mark.parametrize("kind", BESIDE)
def test_the_normalisation_beside_the_network_is_found(kind: str, tmp_path: Path) -> None:
    chosen = "chosen" if "chosen" in kind else None
    settings = SETTINGS.model_copy(update={"weights": chosen})
    model = loaded(BESIDE[kind](state()), tmp_path, settings)
    assert model.normalisation.mean == pytest.approx((0.3, 0.4, 0.5))
    assert model.normalisation.std == pytest.approx((0.1, 0.2, 0.3))
    assert not {key for key in model.ignored if key.endswith(("mean", "std"))} & {
        *model.normalisation.keys
    }
    key = calibration_key(Engine(model, ["gradcam"]))
    assert key.get("normalisation", "") == model.normalisation.prefix


def test_what_is_no_normalisation_is_not_taken_for_one(tmp_path: Path) -> None:
    others = {
        "encoder.bn.running_mean": MEAN, "encoder.bn.running_std": STD, "loss.mean": MEAN,
        "metric.mean": torch.ones(7), "metric.std": torch.ones(7), "ce_loss.weight": STD,
    }  # fmt: skip
    model = loaded(behind("model.", state()) | others, tmp_path)
    assert model.normalisation == Normalisation(1.0, IMAGENET_MEAN, IMAGENET_STD)
    assert model.ignored == tuple(others)


def test_several_normalisations_are_a_decision_of_the_user(tmp_path: Path) -> None:
    other = {"mean": MEAN, "std": STD * 2}
    for saved in (
        behind("model.", state() | PAIR) | other,
        behind("model.", state()) | behind("a.", PAIR) | behind("b.", other),
    ):
        with pytest.raises(CheckpointError, match=r"holds several normalisations: .*0\.3.*; set"):
            loaded(saved, tmp_path)
        chosen = {"mean": (0.1,) * 3, "std": (0.2,) * 3}
        model = loaded(saved, tmp_path, SETTINGS.model_copy(update=chosen))
        assert model.normalisation == Normalisation(1.0, **chosen)


BYTES = {"mean": triple(123.7, 116.3, 103.5), "std": triple(58.4, 57.1, 57.4)}
UNITS = {"mean": triple(*IMAGENET_MEAN), "std": triple(*IMAGENET_STD)}
DOUBTS: dict[str, tuple[State, dict[str, object], str]] = {
    "0..255 for an input of 0..1": (BYTES, {}, "black pixel becomes (-2.118, -2.037, -1.803), "
        "a white one (-2.101, -2.019, -1.786); set model.input_max to 255"),
    "the same, although it is set": (BYTES, {"input_max": 1.0}, "set model.input_max to 255"),
    "the same, from the settings": (
        {}, {"mean": (123.7,) * 3, "std": (58.4,) * 3}, "set model.input_max to 255"),
    "std alone": ({"mean": MEAN, "std": triple(58, 57, 57)}, {}, "set model.input_max to 255"),
    "0..1 for an input of 0..255": (UNITS, {"input_max": 255.0}, "black pixel becomes (-2.118, "
        "-2.036, -1.804), a white one (1111, 1136, 1132); set model.input_max to 1"),
    "ImageNet's for an input of 0..255": ({}, {"input_max": 255.0}, "set model.input_max to 1"),
    "0..1 for an input of 0..255, as is said": (
        UNITS, {"input_max": 255.0, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}, ""),
    "0..1": (UNITS, {}, ""),
    "0..255": (BYTES, {"input_max": 255.0}, ""),
    "no normalisation": (
        {"mean": triple(0, 0, 0), "std": triple(1, 1, 1)}, {"input_max": 255.0}, ""),
    "a mean alone": (
        {"mean": triple(124, 116, 103), "std": triple(1, 1, 1)}, {"input_max": 255.0}, ""),
    "-1..1": ({"mean": triple(0.5, 0.5, 0.5), "std": triple(0.5, 0.5, 0.5)}, {}, ""),
}  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize(("name", "missing"), [("mean", "std"), ("std", "mean")])
def test_half_a_normalisation_is_not_completed_by_imagenets(
    name: str, missing: str, prefix: str, tmp_path: Path
) -> None:
    saved = behind("model.", state()) | {f"{prefix}{name}": PAIR[name]}
    said = rf"a\.pt: holds {prefix}{name}, and no {prefix}{missing}; set model\.mean and model\.std"
    with pytest.raises(CheckpointError, match=said):
        loaded(saved, tmp_path)
    other = {missing: (0.2,) * 3}
    model = loaded(saved, tmp_path, SETTINGS.model_copy(update=other))
    assert getattr(model.normalisation, missing) == (0.2,) * 3
    assert getattr(model.normalisation, name) == pytest.approx(PAIR[name].flatten().tolist())


def test_a_normalisation_that_cannot_be_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a\.pt: std must be above 0"):
        loaded(state() | {"mean": MEAN, "std": STD * 0}, tmp_path)


AVERAGES: dict[str, tuple[Callable[[State], object], bool]] = {
    "torch_ema": (lambda net: {
        "state_dict": net, "ema": {"decay": 0.9, "shadow_params": [torch.tensor(1.0)] * 2}}, True),
    "names without dots": (lambda net: net | {"model_ema.encoderconv1weight": STD}, True),
    "counters": (lambda net: net | {"n_averaged": STD[0, 0], "ema.step": torch.ones(1)}, False),
    "another word": (lambda net: net | {"schema.weight": STD, "average_pool": STD}, False),
}  # fmt: skip


@pytest.mark.parametrize("kind", AVERAGES)
def test_averaged_weights_without_names_are_said_not_to_be_read(kind: str, tmp_path: Path) -> None:
    save, said = AVERAGES[kind]
    model = loaded(save(behind("model.", state())), tmp_path)
    assert ("averaged weights" in (model.doubt or "")) == said


@pytest.mark.parametrize("kind", DOUBTS)
def test_a_normalisation_that_does_not_fit_the_input_is_doubted(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors, chosen, doubt = DOUBTS[kind]
    model = loaded(state() | tensors, tmp_path, SETTINGS.model_copy(update=chosen))
    assert (doubt in (model.doubt or "")) if doubt else model.doubt is None
    assert caplog.messages == ([model.doubt] if doubt else [])
    assert not doubt or "a.pt: " in caplog.text
    facts = inspect_checkpoint(tmp_path / "a.pt", SETTINGS.model_copy(update=chosen))
    assert facts.get("unusual") == model.doubt


@pytest.mark.parametrize("config", ["capetown.yaml", "nightly.yaml"])
def test_the_original_network_is_not_doubted(config: str, tmp_path: Path) -> None:
    network = {"architecture": "Unet", "encoder": SETTINGS.encoder, "options": OPTIONS}
    settings = load(CONFIGS / config).model.model_copy(update={**network, "target_layer": None})
    model = loaded(state() | UNITS, tmp_path, settings)
    assert (model.doubt, model.normalisation.input_max) == (None, 255)


# --- Encoders and architectures -------------------------------------------------------------------


def test_vgg_is_loaded_although_its_classifier_is_built(tmp_path: Path) -> None:
    with torch.device("meta"):
        network = smp.FPN("vgg11", encoder_weights=None, classes=4)
    tensors = {key: torch.zeros(tensor.shape) for key, tensor in network.state_dict().items()}
    settings = ModelSettings(architecture="FPN", encoder="vgg11")
    assert loaded(tensors, tmp_path, settings).target_layer == "encoder.features.20"
    with pytest.raises(CheckpointError, match="far larger than"), Budget(10, tmp_path, "FPN (vgg)"):
        torch.empty(1 << 20, 1 << 20)
    with Budget(10, tmp_path, "FPN (vgg11)"), torch.device("meta"):
        torch.empty(1 << 20, 1 << 20)  # describes numbers, and allocates none


def test_a_vision_transformer_takes_tiles_of_its_own_size_or_of_any(tmp_path: Path) -> None:
    options: dict[str, object] = {
        "decoder_readout": "ignore", "decoder_intermediate_channels": [16] * 4,
        "decoder_fusion_channels": 16,
    }  # fmt: skip
    fixed = ModelSettings(architecture="DPT", encoder="tu-test_vit3", options=options)
    network = smp.DPT("tu-test_vit3", encoder_weights=None, classes=4, **options)
    model = loaded(network.state_dict(), tmp_path, fixed)
    facts = inspect_checkpoint(tmp_path / "a.pt", fixed)
    size = network.encoder.model.patch_embed.img_size[0]
    assert facts["its shape"].endswith(f"for a tile of {size} px")
    check_tile(model.network, Tiling(size=size, overlap=0, stride=16))
    with pytest.raises(SettingsError, match=r"takes no tiles of 320 px .*dynamic_img_size"):
        check_tile(model.network, Tiling(size=320, overlap=0, stride=16))
    free = fixed.model_copy(update={"options": {**options, "dynamic_img_size": True}})
    model = load_model(tmp_path / "a.pt", free)
    check_tile(model.network, Tiling(size=320, overlap=0, stride=16))
    assert Engine(model, ["gradcam"]).activation_shape(320)[1:] == (20, 20)
