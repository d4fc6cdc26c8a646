"""Networks and tiles of the benchmarks."""

from __future__ import annotations

import math
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn

from capecam.demo.scene import MIN_SIDE_PX, draw_scene
from capecam.model.architecture import build_network
from capecam.model.model import Model, load_model
from capecam.model.normalisation import Normalisation
from capecam.settings import CAPE_TOWN_CLASSES, IMAGENET_MEAN, IMAGENET_STD, ModelSettings
from capecam.settings.loading import load as load_settings

ARCHITECTURE, ENCODER, LAYER = "FPN", "resnext50_32x4d", "encoder.layer4.2.conv3"
"""Architecture of the original checkpoint, which cannot be distributed."""


def sample_tiles(count: int, size: int, seed: int = 0) -> Tensor:
    """Cut tiles from a drawn scene: (count, 3, size, size) uint8."""
    edge = max(math.isqrt(count - 1) + 1, math.ceil(MIN_SIDE_PX / size))
    image = torch.from_numpy(draw_scene(seed, edge * size, edge * size).pixels).movedim(-1, 0)
    tiles = image.unfold(1, size, size).unfold(2, size, size).reshape(3, -1, size, size)
    return tiles.movedim(1, 0)[:count].contiguous()


def untrained_model(tiles: Tensor) -> Model:
    """Return the original architecture with seeded weights in a realistic range of activations.

    Batch norms have the statistics of the tiles, every class is predicted somewhere, and no map is
    empty by construction; the maps have no meaning.
    """
    settings = ModelSettings(architecture=ARCHITECTURE, encoder=ENCODER)
    scaling = Normalisation(255.0, IMAGENET_MEAN, IMAGENET_STD)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = build_network(settings, None, len(CAPE_TOWN_CLASSES))
        _settle(network, scaling.on(tiles.device)(tiles.float()))
    network.eval().requires_grad_(False)
    name = f"{ARCHITECTURE} ({ENCODER}), untrained"
    return Model(network, CAPE_TOWN_CLASSES, scaling, LAYER, name, "0" * 64, ())


def sample_model() -> Model:
    """Load the trained network that comes with the package."""
    data = Path(str(files("capecam.demo") / "data"))
    return load_model(data / "sample_model.safetensors", load_settings(data / "demo.yaml").model)


def _settle(network: nn.Module, x: Tensor) -> None:
    """Set batch norms to the statistics of x, and the head to mean 0 and deviation 1 per class."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    network.train()(x)
    logits = network.eval()(x)
    (*_, head) = (m for m in network.modules() if isinstance(m, nn.Conv2d))
    spread, centre = logits.std(dim=(0, 2, 3)), logits.mean(dim=(0, 2, 3))
    head.weight /= spread[:, None, None, None]
    if head.bias is not None:
        head.bias.copy_((head.bias - centre) / spread)
