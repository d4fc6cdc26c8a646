"""Changes of a tile that show what a prediction depends on: parts of it are blurred.

Removed pixels are replaced by the heavily blurred tile. Black would be nodata to the network, and
the sharp edges of another replacement would be features themselves; a blur keeps the colours of the
neighbourhood and adds few edges.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLUR = 1 / 8
"""Standard deviation of the blur relative to the edge of the tile, 40 px of 320: it must remove
roofs, not only their texture. (RISE: 5 of 224 px, for photographs that an object fills.)"""


def blurred(pixels: Tensor, weight: Tensor) -> Tensor:
    """Blur tiles by a Gaussian, of weighted pixels alone.

    Args:
        pixels: (..., 3, S, S) uint8.
        weight: (..., S, S) bool; pixels without weight do not colour their neighbours.

    Returns:
        (..., 3, S, S) uint8.
    """
    size = pixels.shape[-1]
    place = torch.arange(size, device=pixels.device)
    gauss = torch.exp(-(((place - place[:, None]) / (BLUR * size)) ** 2) / 2)
    weights = weight[..., None, :, :].float()
    colour = gauss @ (pixels * weights) @ gauss / (gauss @ weights @ gauss).clamp(min=1e-12)
    return colour.round().to(torch.uint8)


def grey(pixels: Tensor) -> Tensor:
    """Replace each pixel of (..., 3, S, S) uint8 by the mean of its bands."""
    return pixels.float().mean(dim=-3, keepdim=True).round().to(torch.uint8).expand_as(pixels)


def replaced(pixels: Tensor, baseline: Tensor, removed: Tensor) -> Tensor:
    """Return tiles (..., 3, S, S) with the baseline where ``removed`` (..., S, S) is True."""
    return torch.where(removed[..., None, :, :], baseline, pixels)


def to_pixels(blocks: Tensor, stride: int) -> Tensor:
    """Repeat (..., n, n) blocks to (..., S, S) pixels."""
    return blocks.repeat_interleave(stride, -2).repeat_interleave(stride, -1)
