"""Blurring parts of a tile: what an object's probability owes to itself and to its surroundings."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from capecam.api import Model
from reasons.subjects import Subject, probability

Mask = NDArray[np.bool_]
M_PX = 12
"""Pixels of 8 cm in about a metre."""


def blurred(pixels: Tensor, kept: Mask, std_px: float) -> Tensor:
    """Blur (3, S, S) with a Gaussian that sees only the pixels (S, S) that are kept."""
    place = torch.arange(pixels.shape[-1], dtype=torch.float64)
    gauss = torch.exp(-(((place - place[:, None]) / std_px) ** 2) / 2)
    weight = torch.from_numpy(kept).double()
    colour = gauss @ (pixels * weight) @ gauss / (gauss @ weight @ gauss).clamp(min=1e-12)
    return colour.round().to(torch.uint8)


def grown(mask: Mask, by_px: float) -> Mask:
    """Return a mask with all pixels at most so far away."""
    return np.asarray(distance_transform_edt(~mask) <= by_px) if by_px else mask


def tile_blur(pixels: Tensor, inside: Mask) -> Tensor:
    """The audit's baseline: all pixels, a standard deviation of an eighth of the tile."""
    return blurred(pixels, np.ones_like(inside), pixels.shape[-1] / 8)


def wide_around(pixels: Tensor, inside: Mask) -> Tensor:
    """The same without the object, so that its colour is not in its own replacement."""
    return blurred(pixels, ~grown(inside, 4), pixels.shape[-1] / 8)


def metre_around(pixels: Tensor, inside: Mask) -> Tensor:
    """A blur by 1 m without the object: the colour of the roof that it lies on."""
    return blurred(pixels, ~grown(inside, 4), M_PX)


def grey_around(pixels: Tensor, inside: Mask) -> Tensor:
    """A blur by an eighth of the tile without the object, and without colours.

    A blur alone keeps the colour of the roof, which may be what a network goes by.
    """
    return grey(wide_around(pixels, inside))


def flat_grey(pixels: Tensor, _inside: Mask) -> Tensor:
    """The same grey everywhere."""
    return torch.full_like(pixels, 128)


def grey(pixels: Tensor) -> Tensor:
    """Replace colours by the mean of the channels."""
    return pixels.float().mean(0, keepdim=True).round().to(torch.uint8).expand_as(pixels)


BASELINES: dict[str, Callable[[Tensor, Mask], Tensor]] = {
    "tile": tile_blur,
    "around": wide_around,
    "around 1 m": metre_around,
    "grey": grey_around,
    "flat grey": flat_grey,
}
ALONE_MARGINS_PX = (0, 6, 12)
WITHOUT_MARGINS_PX = (0, 4)


def replaced(pixels: Tensor, baseline: Tensor, mask: Mask) -> Tensor:
    """Return the tile with the baseline where the mask is True."""
    return torch.where(torch.from_numpy(mask), baseline, pixels)


def tiles(subject: Subject) -> Iterator[tuple[str, Tensor]]:
    """Yield every intervention's name and tile."""
    inside, pixels = subject.inside, subject.pixels
    for name, make in BASELINES.items():
        baseline = make(pixels, inside)
        for margin in ALONE_MARGINS_PX:
            yield f"alone {name} {margin}", replaced(pixels, baseline, ~grown(inside, margin))
        for margin in WITHOUT_MARGINS_PX:
            yield f"without {name} {margin}", replaced(pixels, baseline, grown(inside, margin))


def measure(model: Model, subject: Subject, p0: float) -> dict[str, float]:
    """Return what is left of an object's probability, by intervention."""
    named = dict(tiles(subject))
    values = probability(model, torch.stack(list(named.values())), subject.inside) / p0
    return dict(zip(named, values.tolist(), strict=True))
