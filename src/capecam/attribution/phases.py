"""Gradient of a strided convolution's input as a convolution without a stride.

With a stride s the pixels of the input fall into s x s phases, by their row and column modulo s. A
phase is the convolution of the output's gradient with every s-th element of the kernel; all phases
together are one convolution with s² times as many channels, which are then put in their places.

That pays for an input of few channels, such as the pixels: a CPU computes 16 channels at once, and
there would be 3.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capecam.attribution.converted_weight import ConvertedWeight

MAX_CHANNELS = 4
"""Input channels up to which it is used; measured for the 3 of the pixels (docs/performance.md)."""


def takes_phases(conv: nn.Conv2d) -> bool:
    """Return True for a strided convolution of few channels, whose kernel is square."""
    k, s, p = conv.kernel_size[0], conv.stride[0], conv.padding[0]
    geometry = conv.kernel_size, conv.stride, conv.padding, conv.dilation
    square = geometry == ((k, k), (s, s), (p, p), (1, 1))
    return square and k >= s > 1 and conv.groups == 1 and conv.in_channels <= MAX_CHANNELS


class PhasedGradient:
    """The gradient by the input of one strided convolution.

    Args:
        weight: (O, I, k, k).
        stride: of the convolution.
        padding: of the convolution.
        memory_format: of the gradients.
    """

    def __init__(
        self, weight: Tensor, stride: int, padding: int, memory_format: torch.memory_format
    ) -> None:
        outputs, inputs, k, _ = weight.shape
        # Element i of the kernel reads pixel s * q + r for output q + d if i = r + padding - s * d.
        taps = [
            (r, d, r + padding - stride * d)
            for r, d in product(range(stride), range(-k, k + padding))
            if 0 <= r + padding - stride * d < k
        ]
        first, last = min(d for _, d, _ in taps), max(d for _, d, _ in taps)
        n = last - first + 1
        phases = weight.new_zeros(inputs, stride, stride, outputs, n, n)
        for (row, down, y), (col, right, x) in product(taps, taps):
            phases[:, row, col, :, down - first, right - first] = weight[:, :, y, x].mT
        exact = phases.flatten(0, 2).contiguous(memory_format=memory_format)
        self._weight = ConvertedWeight(exact)
        self._stride, self._last = stride, last
        self._padding = max(-first, last)
        self._skipped = self._padding + first

    def __call__(self, gradient: Tensor, shape: torch.Size) -> Tensor:
        """Compute the gradient of the input, in the precision of the output's.

        Args:
            gradient: (B, O, h, w), of the output.
            shape: of the input, (B, I, H, W).
        """
        s, (height, width) = self._stride, shape[2:]
        blocks = -(-height // s), -(-width // s)
        pairs = zip(blocks, gradient.shape[2:], strict=True)
        rows, cols = (max(0, n - m - self._padding + self._last) for n, m in pairs)
        if rows or cols:  # the last pixels were read for no output
            gradient = F.pad(gradient, (0, cols, 0, rows))
        phases = F.conv2d(gradient, self._weight(gradient.dtype), padding=self._padding)
        pixels = F.pixel_shuffle(phases, s)
        top = s * self._skipped
        return pixels[..., top : top + height, top : top + width]
