"""Gradients of strided convolutions by phases are those of autograd."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from capecam.attribution.phases import PhasedGradient, takes_phases


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [(7, 2, 3), (3, 2, 1), (3, 2, 0), (4, 4, 0), (7, 4, 3), (5, 3, 0), (2, 2, 1), (5, 2, 4)],
)
@pytest.mark.parametrize("size", [24, 25])
def test_phases_are_the_gradient_of_a_strided_convolution(
    kernel: int, stride: int, padding: int, size: int
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 6, kernel, stride, padding).double()
    assert takes_phases(conv)
    x = torch.randn(2, 3, size, size + 3, dtype=torch.float64, requires_grad=True)
    y = conv(x)
    gradient = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, x, gradient)
    phased = PhasedGradient(conv.weight.detach(), stride, padding, torch.channels_last)
    torch.testing.assert_close(phased(gradient, x.shape), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 6, 3, 1, 1),
        nn.Conv2d(8, 6, 3, 2, 1),
        nn.Conv2d(3, 6, 1, 2),
        nn.Conv2d(3, 6, (3, 5), 2, 1),
        nn.Conv2d(3, 6, 3, 2, 1, dilation=2),
        nn.Conv2d(3, 6, 3, 2, 1, groups=3),
        nn.Conv2d(3, 6, 3, 1, "same"),
    ],
)
def test_other_convolutions_are_left_alone(conv: nn.Conv2d) -> None:
    assert not takes_phases(conv)
