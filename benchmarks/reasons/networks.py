"""Small networks, trained from scratch on the cities with planted reasons."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from capecam.api import Model, load_model
from capecam.settings import ClassSettings, ModelSettings
from reasons.cities import Plan, draw, labels, plan_scene

ENCODER = "tu-resnet18d"
OPTIONS = {
    "channels": [16, 32, 64, 96],
    "stem_width": 8,
    "decoder_pyramid_channels": 32,
    "decoder_segmentation_channels": 32,
    "decoder_dropout": 0.0,
}
"""A quarter as wide as usual: the smallest that a group norm of 32 groups in the decoder allows."""

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
PANEL_WEIGHT = 2.0
"""Weight of panels in the cross-entropy: they cover 2 % of a scene."""

SEEDS_PER_NETWORK = 1000
HELD_OUT = 500
"""Number within a network's scenes from which on it is never trained on them."""


CYCLES = {"marker": 2, "shadow": 2}
"""Cycles of training: after one, networks have learnt what panels look like, but hardly that some
need a cue."""


@dataclass(frozen=True, slots=True)
class Training:
    """Length and size of a training."""

    steps: int = 700
    scenes: int = 40
    side_px: int = 768
    batch: int = 8
    tile_px: int = 160
    peak_rate: float = 4e-3
    tests: int = 4


def make_network() -> nn.Module:
    """Build the untrained network."""
    return smp.FPN(ENCODER, encoder_weights=None, classes=2, **OPTIONS)


def scene_seed(seed: int, number: int) -> int:
    """Return the seed of a network's n-th scene; no two networks share a scene."""
    return SEEDS_PER_NETWORK * seed + number


def trained_model(city: str, seed: int, folder: Path, training: Training) -> Model:
    """Return the network of a city, trained unless it lies in the folder already."""
    path = folder / f"{city}-{seed}.safetensors"
    if not path.exists():
        torch.manual_seed(seed)
        network = make_network()
        for cycle in range(CYCLES.get(city, 1)):
            train(network, city, (seed, cycle), training)
        state = {key: value.contiguous() for key, value in network.state_dict().items()}
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state | {"mean": MEAN.clone(), "std": STD.clone()}, path)
    model = load_model(path, model_settings())
    model.network.to(memory_format=torch.channels_last)  # a fifth faster on a CPU
    return model


def model_settings() -> ModelSettings:
    """Describe the network to capecam."""
    classes = (
        ClassSettings(name="background", color="#000000"),
        ClassSettings(name="solar panel", color="#00FF00"),
    )
    return ModelSettings(
        architecture="FPN", encoder=ENCODER, options=OPTIONS, classes=classes, input_max=1
    )


def train(network: nn.Module, city: str, seeds: tuple[int, int], training: Training) -> None:
    """Train a network for one cycle of the learning rate, on the scenes of its first seed."""
    network.train().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=training.peak_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, training.peak_rate, total_steps=training.steps, pct_start=0.15
    )
    began, running = time.perf_counter(), math.nan
    for step, (images, truth) in enumerate(batches(city, seeds, training)):
        logits = network(images.contiguous(memory_format=torch.channels_last))
        loss = loss_of(logits, truth)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimiser.step()
        schedule.step()
        running = loss.item() if math.isnan(running) else 0.98 * running + 0.02 * loss.item()
        if step % 100 == 99:
            spent = time.perf_counter() - began
            print(f"{city} {seeds}: step {step + 1}, loss {running:.4f}, {spent:.0f} s", flush=True)
    network.eval()


def loss_of(logits: Tensor, truth: Tensor) -> Tensor:
    """Weighted cross-entropy plus the soft dice loss of panels."""
    entropy = F.cross_entropy(logits, truth, torch.tensor([1.0, PANEL_WEIGHT]))
    chance, wanted = logits.softmax(1)[:, 1], truth.float()
    dice = (2 * (chance * wanted).sum() + 50) / (chance.sum() + wanted.sum() + 50)
    return entropy + 0.5 * (1 - dice)


def batches(
    city: str, seeds: tuple[int, int], training: Training
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield normalised (B, 3, S, S) and (B, S, S) int64 for every step of a training."""
    rng = np.random.default_rng(seeds)
    plans = [
        plan_scene(city, scene_seed(seeds[0], n), training.side_px) for n in range(training.scenes)
    ]
    scenes = [(draw(plan), labels(plan), centres(plan, training.tile_px)) for plan in plans]
    for _ in range(training.steps):
        tiles = [
            random_tile(rng, scenes[rng.integers(len(scenes))], training.tile_px)
            for _ in range(training.batch)
        ]
        images = torch.from_numpy(np.stack([image for image, _ in tiles])).permute(0, 3, 1, 2)
        light = torch.from_numpy(rng.uniform(0.8, 1.2, (len(tiles), 1, 1, 1)).astype(np.float32))
        truth = torch.from_numpy(np.stack([mask for _, mask in tiles])).long()
        yield ((images.float() * light).clamp(0, 255) / 255 - MEAN) / STD, truth


def centres(plan: Plan, tile_px: int) -> NDArray[np.int64]:
    """Return the top-left corners (N, 2) of tiles around the sites of a scene."""
    places = [(site.array.frame.row_px, site.array.frame.col_px) for site in plan.sites]
    return np.array(places).astype(np.int64) - tile_px // 2


Scene = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]


def random_tile(
    rng: np.random.Generator, scene: Scene, tile_px: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Cut a tile near a site, turned and mirrored at random."""
    pixels, truth, corners = scene
    wish = corners[rng.integers(len(corners))] + rng.integers(-tile_px // 4, tile_px // 4, 2)
    row, col = np.clip(wish, 0, len(pixels) - tile_px)
    cut = (slice(row, row + tile_px), slice(col, col + tile_px))
    turn, flip = int(rng.integers(4)), -1 if rng.random() < 0.5 else 1
    image, mask = (np.rot90(x[cut], turn)[:, ::flip].copy() for x in (pixels, truth))
    return image, mask


@torch.inference_mode()
def pixel_iou(model: Model, city: str, seed: int, training: Training) -> float:
    """Return the IoU of panel pixels on scenes that the network never saw."""
    both = either = 0
    for n in range(training.tests):
        plan = plan_scene(city, scene_seed(seed, HELD_OUT + n), training.side_px)
        image = torch.from_numpy(draw(plan)).permute(2, 0, 1)[None].float()
        found = model.network((image / 255 - MEAN) / STD)[0].argmax(0).numpy() == 1
        true = labels(plan) == 1
        both, either = both + (found & true).sum(), either + (found | true).sum()
    return float(both / max(either, 1))
