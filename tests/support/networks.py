"""Networks for tests: a tiny one in float64, and the real architecture with seeded weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capecam.analysis.benchmark import workload
from capecam.model.model import Model, Normalisation, find_layer
from capecam.settings import CAPE_TOWN_CLASSES, IMAGENET_MEAN, IMAGENET_STD

CAPE_TOWN_LAYER = "encoder.layer4.2.conv3"
"""Layer of FPN-resnext50_32x4d that the original notebook explains."""

CAPE_TOWN_INPUT = Normalisation(255.0, IMAGENET_MEAN, IMAGENET_STD)
"""Normalisation of the original checkpoint: pixels of 0..255, but mean and std of 0..1."""

TINY_LAYER = "encoder.conv3"


class FunctionalReLU(nn.Module):
    """ReLU as a functional call, without an ``nn.ReLU``."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


def in_place_relu() -> nn.Module:
    """Make an in-place ReLU, as segmentation_models_pytorch nearly always does."""
    return nn.ReLU(inplace=True)


class TinyEncoder(nn.Module):
    """3 bands -> 6 channels at a quarter of the size; one ReLU is called three times."""

    def __init__(self, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = activation()
        self.conv3 = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.bn3 = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.conv2(x) + x)  # the addition of a residual block
        x = self.relu(self.bn3(self.conv3(x)))
        return x


class TinyNetwork(nn.Module):
    """Network with encoder, decoder and head, as in segmentation_models_pytorch."""

    def __init__(self, activation: Callable[[], nn.Module] = in_place_relu) -> None:
        super().__init__()
        self.encoder = TinyEncoder(activation)
        self.decoder = nn.Sequential(nn.Conv2d(6, 5, 3, padding=1), activation())
        self.segmentation_head = nn.Sequential(
            nn.Conv2d(5, 4, 3, padding=1), nn.UpsamplingBilinear2d(scale_factor=4)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.segmentation_head(self.decoder(self.encoder(x)))
        return logits


def tiny_network(activation: Callable[[], nn.Module] = in_place_relu, seed: int = 0) -> nn.Module:
    """Make a seeded float64 network; all batch norms change values, all four classes win pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = TinyNetwork(activation).double()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
    x = normalise(images(4, 32, seed).double(), TINY_INPUT)
    return balance(warm_up(network, x), x)


TINY_INPUT = Normalisation(1.0, IMAGENET_MEAN, IMAGENET_STD)


def tiny_model(
    network: nn.Module, layer: str | None = TINY_LAYER, normalisation: Normalisation = TINY_INPUT
) -> Model:
    """Make the Model of a network; ``layer=None`` is the default layer."""
    return Model(
        network,
        CAPE_TOWN_CLASSES,
        normalisation,
        find_layer(network, layer),
        "for tests",
        "0" * 64,
        (),
    )


def frozen(network: nn.Module) -> nn.Module:
    """Return a network in eval mode and frozen, as ``load_model`` does."""
    return network.eval().requires_grad_(False)


@cache
def cape_town_network() -> nn.Module:
    """Make a seeded float32 FPN-resnext50_32x4d; it is cached, so it must not be changed."""
    return smp_network("FPN", "resnext50_32x4d", CAPE_TOWN_INPUT)


def cape_town_model() -> Model:
    """Make its Model with the settings of ``capetown.yaml``."""
    return tiny_model(cape_town_network(), CAPE_TOWN_LAYER, CAPE_TOWN_INPUT)


def smp_network(
    architecture: str, encoder: str, normalisation: Normalisation = TINY_INPUT, seed: int = 0
) -> nn.Module:
    """Make a seeded, frozen network of segmentation_models_pytorch with four classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = getattr(smp, architecture)(encoder, encoder_weights=None, classes=4)
    x = normalise(images(4, 128, seed).float(), normalisation)
    return frozen(balance(warm_up(network, x), x))


def lightning_checkpoint(path: Path) -> Path:
    """Write the Cape Town network as PyTorch Lightning does.

    ``model.*``, buffers ``mean`` and ``std`` (1, 3, 1, 1), and ``ce_loss.weight``, which is not
    part of the network; no hyper_parameters.
    """
    state = {f"model.{key}": value for key, value in cape_town_network().state_dict().items()}
    state["mean"] = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    state["std"] = torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    state["ce_loss.weight"] = torch.tensor([0.1, 1.0, 1.0, 1.0])
    torch.save(
        {
            "epoch": 38,
            "global_step": 12_345,
            "pytorch-lightning_version": "2.0.0",
            "state_dict": state,
        },
        path,
    )
    return path


def warm_up(network: nn.Module, x: Tensor) -> nn.Module:
    """Set the running statistics of the batch norms from x."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    network.train()
    for norm in norms:
        if not norm.weight.any():  # timm starts some branches at zero: no gradient, empty maps
            nn.init.ones_(norm.weight)
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the forwards below
    with torch.no_grad(), torch.random.fork_rng():  # dropout draws numbers
        torch.manual_seed(0)
        for _ in range(2):
            network(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return network.eval()


def balance(network: nn.Module, x: Tensor) -> nn.Module:
    """Shift and scale the head so that every class is the argmax somewhere."""
    head = network.segmentation_head[0]
    with torch.no_grad():
        logits = network.eval()(x)
        spread = logits.std(dim=(0, 2, 3))
        head.weight /= spread[:, None, None, None]
        head.bias -= logits.mean(dim=(0, 2, 3))
        head.bias /= spread
    return network


def normalise(pixels: Tensor, normalisation: Normalisation) -> Tensor:
    """Normalise (B, 3, H, W) float pixels of 0..255."""
    mean = pixels.new_tensor(normalisation.mean).view(3, 1, 1)
    std = pixels.new_tensor(normalisation.std).view(3, 1, 1)
    return (pixels * (normalisation.input_max / 255) - mean) / std


def images(count: int, size: int, seed: int = 0) -> Tensor:
    """Make (count, 3, size, size) uint8 pixels: coloured ground, roofs with panels, noise."""
    draw = torch.Generator().manual_seed(seed)

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=draw))

    def colour() -> Tensor:
        return torch.randint(0, 256, (3, 1, 1), generator=draw).float()

    x = torch.empty(count, 3, size, size)
    for image in x:
        image[:] = colour()
        for _ in range(6):
            edge = integer(size // 8, size // 2)
            top, left = integer(0, size - edge), integer(0, size - edge)
            image[:, top : top + edge, left : left + edge] = colour()
    x += 20 * torch.randn(x.shape, generator=draw)
    return x.clamp(0, 255).to(torch.uint8)


sample_model = cache(workload.sample_model)
