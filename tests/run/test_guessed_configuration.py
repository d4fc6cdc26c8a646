"""``capecam init`` as it is typed: what it guesses, writes and refuses."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.cities import write_tif
from support.commands import capecam, typed
from support.networks import CAPE_TOWN_INPUT, TINY_INPUT, images, smp_network

from capecam.model.input_range import judge
from capecam.model.normalisation import Normalisation
from capecam.settings.loading import load


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    pixels = images(1, 700, seed=3)[0].numpy()
    return write_tif(tmp_path_factory.mktemp("images") / "a.tif", pixels)


def checkpoint(folder: Path, normalisation: Normalisation, **facts) -> Path:
    """Write a checkpoint as Lightning does, whose batch norms have seen imagery."""
    state = smp_network("FPN", "resnet18", normalisation).state_dict()
    facts = {"tile_size": 96, **facts}  # small, so that it is quick
    tree = {"state_dict": {f"model.{k}": v for k, v in state.items()}, "hyper_parameters": facts}
    torch.save(tree, folder / "model.ckpt")
    return folder / "model.ckpt"


@pytest.mark.thorough
def test_a_run_takes_what_is_written(image: Path, tmp_path: Path) -> None:
    model = checkpoint(tmp_path, CAPE_TOWN_INPUT)
    config = tmp_path / "capecam.yaml"
    said = typed("init", model, image, "--out", config).stdout
    assert "FPN (resnet18)" in said
    assert f"capecam run --config {config}" in said
    settings = load(config)
    assert (settings.model.architecture, settings.model.encoder) == ("FPN", "resnet18")
    assert settings.model.input_max == 255
    assert settings.model.gsd_m == 0.08
    assert settings.checkpoint == model
    text = config.read_text()
    assert "# Sure: all 131 tensors have the names and shapes of this network" in text
    assert re.search(r"# Input: 0\.\.255: (sure|likely); mean and std of ImageNet: \w+", text)
    picture = np.asarray(Image.open(config.with_suffix(".png")).convert("RGB"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 1000
    typed("plan", "--config", config, "--out", tmp_path / "out")  # takes it as it is


def test_nothing_is_overwritten_and_usage_errors_come_at_once(image: Path, tmp_path: Path) -> None:
    (tmp_path / "capecam.yaml").write_text("mine")
    done = capecam(
        "init", image, image, "--out", tmp_path / "capecam.yaml", code=2,
        PYTHONPROFILEIMPORTTIME="1",
    )  # fmt: skip
    assert "capecam.yaml is there already; choose another name with --out" in done.stderr
    assert (tmp_path / "capecam.yaml").read_text() == "mine"
    assert re.search(r"\| +pathlib\n", done.stderr)  # imports are listed
    assert not re.search(r"\| +(torch|timm|rasterio|geopandas)\n", done.stderr)
    for wrong in ([tmp_path / "no.ckpt", image], [image, tmp_path / "no.tif"]):
        error = typed("init", *wrong, "--out", tmp_path / "b.yaml", code=2).stderr
        assert "check the path" in error
    assert not list(tmp_path.glob("b.*"))


def test_hyperparameters_and_other_pixels(tmp_path: Path) -> None:
    pixels = images(1, 400, seed=3)[0].numpy().astype(np.uint16) * 16
    deep = write_tif(tmp_path / "deep.tif", pixels)
    facts = {"class_names": ["roof", "panel", "heater"], "gsd": 0.1, "tile_size": 128}
    model = checkpoint(tmp_path, TINY_INPUT, **facts, input_max=1.0)
    typed("init", model, deep, "--out", tmp_path / "c.yaml")
    settings = load(tmp_path / "c.yaml")
    assert [c.name for c in settings.model.classes] == ["background", "roof", "panel", "heater"]
    assert settings.model.gsd_m == 0.1
    assert (settings.tiling.size, settings.tiling.overlap, settings.tiling.stride) == (128, 32, 8)
    assert str(settings.imagery.scale) == "2%,98%"


@pytest.mark.thorough
@pytest.mark.parametrize("encoder", ["resnet18", "tu-regnetx_002", "mobilenet_v2"])
@pytest.mark.parametrize("input_max", [1.0, 255.0])
@pytest.mark.parametrize("own", [True, False])
def test_the_range_of_the_input_is_judged(encoder: str, input_max: float, own: bool) -> None:
    trained = Normalisation(input_max, TINY_INPUT.mean, TINY_INPUT.std)
    network = smp_network("FPN", encoder, trained)
    pair = (trained.mean, trained.std) if own else None
    found = judge(network, pair, images(4, 128, seed=1))
    assert found.taken.normalisation == trained
    assert found.sure_max in ("sure", "likely")


def test_networks_without_trained_batch_norms_are_guesses() -> None:
    import segmentation_models_pytorch as smp  # noqa: PLC0415

    network = smp.FPN("resnet18", encoder_weights=None, classes=2).eval()
    found = judge(network, None, images(2, 64))
    assert (found.sure_max, found.sure_mean, found.taken.misfit) == ("guess", "guess", None)
    assert found.taken.normalisation == TINY_INPUT
