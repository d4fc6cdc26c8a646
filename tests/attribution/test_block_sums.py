"""Gradients by block sums are those of autograd, and are taken only where they may be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.networks import TINY_INPUT, frozen, images, tiny_model
from torch import Tensor, nn
from torch.nn import functional as F

from capecam.analysis.benchmark.measure import gflop
from capecam.attribution.block_sums import block_gradient
from capecam.attribution.engine import Engine


@pytest.mark.parametrize(("factor", "h", "w"), [(2, 3, 5), (4, 1, 2), (8, 2, 1)])
def test_block_sums_are_the_gradient_of_a_convolution_over_an_upsampled_map(
    factor: int, h: int, w: int
) -> None:
    torch.manual_seed(factor)
    coarse = torch.randn(2, 6, h, w, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 6, 3, 3, dtype=torch.float64)
    y = F.conv2d(F.interpolate(coarse, scale_factor=factor), weight, padding=1)
    gradient = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, coarse, gradient)
    found = block_gradient(gradient, weight, factor)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def add(coarse: Tensor, fine: Tensor) -> Tensor:
    return F.interpolate(coarse, scale_factor=2.0, mode="nearest") + fine


def add_and_scale(coarse: Tensor, fine: Tensor) -> Tensor:
    return add(coarse, fine).mul_(0.5)


def scale_and_add(coarse: Tensor, fine: Tensor) -> Tensor:
    return fine + F.interpolate(coarse, size=fine.shape[2:]).mul_(0.5)


def add_and_change_fine(coarse: Tensor, fine: Tensor) -> Tensor:
    total = add(coarse, fine)
    fine *= 2
    return total + 0 * fine


def add_bilinear(coarse: Tensor, fine: Tensor) -> Tensor:
    return F.interpolate(coarse, scale_factor=2.0, mode="bilinear") + fine


class Pyramid(nn.Module):
    """Two levels; the deep one is explained."""

    def __init__(self, merge: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.shallow, self.deep = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 2, stride=2)
        self.relu, self.lateral, self.conv = nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 3, 1, 1)
        self.merge = merge

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.relu(self.shallow(x))
        out: Tensor = self.conv(self.merge(self.deep(shallow), self.lateral(shallow)))
        return out


class ThreeLevels(nn.Module):
    """A pyramid of strides 1, 2 and 4, all of which are convolved."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 2, 2), nn.Conv2d(8, 8, 2, 2)]
        )
        self.convs = nn.ModuleList([nn.Conv2d(8, 4, 3, padding=1) for _ in range(3)])
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        levels = [x := self.relu(stage(x)) for stage in self.stages][::-1]
        total, logits = levels[0], None
        for level, conv in zip(levels, self.convs, strict=True):
            total = total if level is total else add(total, level)
            y = F.interpolate(conv(total), size=4 * x.shape[-1])
            logits = y if logits is None else logits + y
        return logits


@pytest.mark.parametrize("layer", ["stages.0", "stages.1", "stages.2"])
def test_gradients_of_a_pyramid_are_taken_at_the_finest_level_that_is_needed(layer: str) -> None:
    torch.manual_seed(0)
    network = frozen(ThreeLevels().double())
    engine = Engine(tiny_model(network, layer), ["gradcam", "guided_gradcam"])
    pixels, valid = images(1, 16), torch.ones(1, 16, 16, dtype=torch.bool)
    kept: list[Tensor] = []
    handle = network.get_submodule(layer).register_forward_hook(lambda _m, _i, y: kept.append(y))
    x = TINY_INPUT.on(torch.device("cpu"), torch.float64)(pixels.double()).requires_grad_()
    score = network(x)[:, 1].mean()
    handle.remove()
    (expected,) = torch.autograd.grad(score, kept[0], retain_graph=True)
    found = engine.signals(pixels, valid).gradients[:, 0]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-16)
    at_target = gflop(lambda: engine.signals_of(pixels, lambda z: z[:, 1].mean(dim=(1, 2))))
    backward = 1e9 * (at_target - gflop(lambda: engine.logits(pixels))) / (2 * 8 * 4 * 9)
    # Pixels at which the three convolutions are taken, and those of the stages after the layer.
    convs = {"stages.2": 16 + 16 + 16, "stages.1": 16 + 64 + 64, "stages.0": 16 + 64 + 256}
    stages = {"stages.2": 0, "stages.1": 16, "stages.0": 16 + 64}
    assert backward == pytest.approx(convs[layer] + stages[layer] * (8 * 8 * 4) / (8 * 4 * 9))


@pytest.mark.parametrize(
    ("merge", "is_sum"),
    [
        (add, True),
        (add_and_scale, False),
        (scale_and_add, False),
        (add_and_change_fine, False),
        (add_bilinear, False),
    ],
)
def test_only_sums_that_nobody_changes_are_taken_apart(
    merge: Callable[[Tensor, Tensor], Tensor], is_sum: bool
) -> None:
    torch.manual_seed(0)
    network = frozen(Pyramid(merge).double())
    engine = Engine(tiny_model(network, "deep"), ["gradcam", "guided_gradcam"])
    pixels, valid = images(1, 16), torch.ones(1, 16, 16, dtype=torch.bool)
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()

    handle = network.deep.register_forward_hook(keep)
    x = TINY_INPUT.on(torch.device("cpu"), torch.float64)(pixels.double()).requires_grad_()
    score = network(x)[:, 1].mean()
    (expected,) = torch.autograd.grad(score, kept[0], retain_graph=True)
    handle.remove()
    found = engine.signals(pixels, valid)
    torch.testing.assert_close(found.gradients[:, 0], expected, rtol=1e-10, atol=0)

    at_target = gflop(lambda: engine.signals_of(pixels, lambda z: z[:, 1].mean(dim=(1, 2))))
    forward = gflop(lambda: engine.logits(pixels))
    conv = 2 * 16 * 16 * 8 * 4 * 9 / 1e9
    assert at_target == pytest.approx(forward + (conv / 4 if is_sum else conv))
